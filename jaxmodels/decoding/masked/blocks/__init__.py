"""Blocks: how an answer is cut, see `jaxmodels.decoding.masked.seen.Blocks`."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.masked.blocks.adaptive import AdaBlocks
    from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
    from jaxmodels.decoding.masked.blocks.sub_blocks import SubBlocks

__all__ = ["AdaBlocks", "FixedBlocks", "SubBlocks"]

_HOMES = {
    "adaptive": ("AdaBlocks",),
    "fixed": ("FixedBlocks",),
    "sub_blocks": ("SubBlocks",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
