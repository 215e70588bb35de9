"""Masked generation: unknown tokens are filled in, several at a time and in any order, block by block.

`MaskedDiffusion` is the loop; what it is made of is here: blocks, rules of unmasking and remasking, exits,
caches.
"""

from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache
from jaxmodels.decoding.masked.caches.recompute import Recompute
from jaxmodels.decoding.masked.driver import MaskedDiffusion
from jaxmodels.decoding.masked.seen import Blocks, Edited, Guidance, Remask, Remembering, Seen, Stop, Unmask
from jaxmodels.decoding.masked.unmask.threshold import Threshold

__all__ = [
    "Blocks",
    "CanvasCache",
    "Dual",
    "Edited",
    "FinishedBlocks",
    "FixedBlocks",
    "Guidance",
    "MaskedDiffusion",
    "PrefixCache",
    "Recompute",
    "Remask",
    "Remembering",
    "Seen",
    "Stop",
    "Threshold",
    "Unmask",
]
