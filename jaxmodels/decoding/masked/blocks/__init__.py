"""Blocks: how an answer is cut, see `jaxmodels.decoding.masked.seen.Blocks`."""

from jaxmodels.decoding.masked.blocks.adaptive import AdaBlocks
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.blocks.sub_blocks import SubBlocks

__all__ = ["AdaBlocks", "FixedBlocks", "SubBlocks"]
