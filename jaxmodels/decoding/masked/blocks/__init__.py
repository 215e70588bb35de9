"""Blocks: how an answer is cut, see `jaxmodels.decoding.masked.seen.Blocks`."""
