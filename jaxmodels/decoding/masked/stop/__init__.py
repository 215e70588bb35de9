"""Exits: when the rest of a block is filled in at once, see `jaxmodels.decoding.masked.seen.Stop`."""
