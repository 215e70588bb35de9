"""What a decoder keeps of histories, and of a window that is not history yet."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import jax
from flax import struct
from jaxtyping import Array, Int

from jaxmodels.layers.moe.routing import KeepsExperts
from jaxmodels.layers.spec import Params, buffer
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.depth import Depth, Repeating, kept_by, remembered, settled
from jaxmodels.models.packing import packed_path
from jaxmodels.models.slots import committable
from jaxmodels.models.transcript import Transcript, begin, follow

if TYPE_CHECKING:
    from jaxmodels.models.decoder import Decoder  # whose histories these are

C = TypeVar("C")


@struct.dataclass
class Cache:
    """A batch of histories.

    Attributes:
        length: i32[B], tokens committed per row.
        layers: one state per block.
        transcript: the histories' tokens, None where they are never encoded anew.
        repeats: for each block the states of further passes, where a policy of depth repeats blocks.
        memory: the state of a policy of depth that keeps one, see `Remembering`.
        kept: for each block what its feed-forward keeps, see `KeepsExperts`, None of others; it belongs to no
            row. Empty where none keeps anything.
    """

    length: jax.Array
    layers: tuple[Any, ...]
    transcript: Transcript | None = None
    repeats: tuple[tuple[Any, ...], ...] = ()
    memory: Any = None
    kept: tuple[Any, ...] = ()

    def of_blocks(self, first: int, last: int | None = None) -> "Cache":
        """The histories in some of the blocks."""
        return replace(self, layers=self.layers[first:last], kept=self.kept[first:last])

    def in_front_of(self, rest: "Cache") -> "Cache":
        """The histories in the blocks of both, and all else of the second."""
        return replace(rest, layers=(*self.layers, *rest.layers), kept=(*self.kept, *rest.kept))

    def passes(self) -> list[tuple[Any, ...]]:
        """For each block the states of all its passes, the first in front."""
        repeats = self.repeats or ((),) * len(self.layers)
        return [(first, *again) for first, again in zip(self.layers, repeats, strict=True)]


@struct.dataclass
class Pending:
    """A scored window that is not history yet.

    Attributes:
        start: i32[B], tokens committed before it.
        valid: i32[B], how many of its tokens are real.
        layers: what each block's mixer needs to settle or drop the window.
        depth: i32[B, S], the passes through blocks that each token was read in.
        transcript: the cache's, with the window's tokens behind the history.
        index: i32[B, S], where the caller gave each token, if the window was packed.
        repeats: as `layers`, of further passes.
        memory: the state of a policy of depth in front of the window, and behind each of its tokens; None
            for what there is not.
        kept: as the cache's, behind the window.
    """

    start: jax.Array
    valid: jax.Array
    layers: tuple[Any, ...]
    depth: jax.Array
    transcript: Transcript | None = None
    index: jax.Array | None = None
    repeats: tuple[tuple[Any, ...], ...] = ()
    memory: tuple[Any, Any] = (None, None)
    kept: tuple[Any, ...] = ()


def cache_spec(config: "Decoder", batch: int, capacity: int, depth: Depth) -> Cache:
    """`Decoder.cache_spec`: empty histories, with a `Buffer` in the place of each array."""
    if batch < 1 or capacity < 1:
        raise ValueError(f"init_cache: batch={batch} and capacity={capacity} must be at least 1")
    most = depth.most_passes(len(config.blocks)) if isinstance(depth, Repeating) else ()
    repeats = tuple(
        tuple(block.state_spec(batch, capacity) for _ in range(times - 1))
        for block, times in zip(config.blocks, most, strict=bool(most))
    )
    cache = Cache(
        length=buffer((batch,), ("batch",), "int32"),
        layers=tuple(block.state_spec(batch, capacity) for block in config.blocks),
        transcript=begin(config, batch, capacity),
        repeats=repeats if any(repeats) else (),
        memory=kept_by(depth, batch, config.d_model),
    )
    if cache.transcript is not None and (cache.repeats or cache.memory is not None):
        raise ValueError(
            f"init_cache: {type(depth).__name__} keeps histories of its own, not to be encoded anew "
            f"beyond recode_beyond={cache.transcript.limit}; give at most that capacity, got {capacity}"
        )
    return cache


def committed(
    blocks: Sequence[DecoderBlock],
    pending: Pending,
    n: Int[Array, "B"] | None,
    path: Int[Array, "B P"] | None,
) -> Cache:
    """`Decoder.commit`: the histories with the first n real tokens of the window (of `path`, if given)."""
    path = packed_path(pending.index, path)
    taken = committable(pending.valid, n, path)
    counted = None if n is None and path is None else taken
    return Cache(
        length=pending.start + taken,
        layers=tuple(
            settled(block, layer, counted, path) for block, layer in zip(blocks, pending.layers, strict=True)
        ),
        transcript=(None if pending.transcript is None else follow(pending.transcript, pending.start, path)),
        repeats=tuple(
            tuple(settled(block, layer, counted, path) for layer in layers)
            for block, layers in zip(blocks, pending.repeats, strict=bool(pending.repeats))
        ),
        memory=remembered(*pending.memory, taken, path),
        kept=pending.kept,
    )


def with_kept(config: Any, params: Params, cache: C) -> C:
    """The cache with what the feed-forwards of a model made of blocks keep in front of the first window."""
    if not isinstance(cache, Cache) or not hasattr(config, "block_params"):
        return cache
    kept = []
    for i, block in enumerate(config.blocks):
        own = config.block_params(params, i)
        keeps = isinstance(block.ffn, KeepsExperts) and "ffn" in own
        kept.append(block.ffn.begin_kept(own["ffn"]) if keeps else None)
    return cache if all(one is None for one in kept) else replace(cache, kept=tuple(kept))


def without_kept(cache: C) -> C:
    """The cache as it is between generations."""
    return replace(cache, kept=()) if isinstance(cache, Cache) else cache
