"""What feed-forwards keep from window to window that belongs to no row, on its way through the blocks.

It is made when a generation begins, of parameters, since it may hold some; goes through the loop over steps
in the cache; and is dropped at the end, so that histories hold none of it: see `with_kept`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxmodels.layers.moe.routing import KeepsExperts, RouterContext
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Window
from jaxmodels.models.block import AnticipatingBlock, DecoderBlock, Stream


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """A window's way through the blocks of a model; see `pass_blocks`.

    Attributes:
        blocks, params: of the model.
        window: what is read.
        kept: for each block what its feed-forward keeps, or None; empty where none keeps anything.
        coming: by block, what feed-forwards asked for that the window has not come to.
    """

    blocks: Sequence[DecoderBlock]
    params: Sequence[Params]
    window: Window
    kept: tuple[Any, ...]
    coming: tuple[tuple[int, Any], ...] = ()

    def enter(self, i: int, stream: Stream) -> tuple["Keeping", Stream]:
        """In front of block i: the stream has what that keeps.

        If the block has a mixer, the feed-forward behind it, in this block or the next, asks for what it may
        need, which comes while the mixer is computed.
        """
        if not self.kept:
            return self, stream
        keeping, asks = self, self._behind_mixer(i)
        if asks is not None:
            coming, stream = self._asked(asks, stream)
            keeping = replace(self, coming=((asks, coming),))
        return keeping, replace(stream, kept=self.kept[i], coming=dict(keeping.coming).get(i))

    def leave(self, i: int, stream: Stream) -> tuple["Keeping", Stream]:
        """Behind block i, which keeps something else now."""
        if not self.kept:
            return self, stream
        kept = (*self.kept[:i], stream.kept, *self.kept[i + 1 :])
        return replace(self, kept=kept), replace(stream, kept=None, coming=None)

    def _behind_mixer(self, i: int) -> int | None:
        """The block whose feed-forward follows the mixer of block i and keeps something."""
        if self.blocks[i].mixer is None:
            return None
        if self.blocks[i].ffn is None:
            i += 1
            if i == len(self.blocks) or self.blocks[i].mixer is not None:
                return None
        return None if self.kept[i] is None else i

    def _asked(self, i: int, stream: Stream) -> tuple[Any, Stream]:
        block, ffn = self.blocks[i], self.blocks[i].ffn
        if not (isinstance(block, AnticipatingBlock) and isinstance(ffn, KeepsExperts)):
            return None, stream
        x = block.expected_ffn_input(self.params[i], stream)
        context = RouterContext(stream.router_logits, self.window.is_valid)
        coming, hidden = ffn.ask(self.params[i]["ffn"], x, context, self.kept[i], stream.hidden)
        return coming, replace(stream, hidden=hidden)
