"""Blocks: how an answer is cut, see `jaxmodels.decoding.masked.seen.Blocks`."""

from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks

__all__ = ["FixedBlocks"]
