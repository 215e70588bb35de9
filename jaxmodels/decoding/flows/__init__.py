"""Drawing from flows: running them backwards, token by token or all at once until nothing moves."""
