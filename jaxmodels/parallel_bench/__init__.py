"""ParallelBench: what decoding many tokens at once costs, on list tasks whose optimum is known."""
