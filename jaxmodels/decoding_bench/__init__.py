"""How fast a model continues texts under each decoding strategy, and what each strategy keeps of the text."""
