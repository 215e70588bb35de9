"""Histories that are encoded anew once they outgrow a length, because then all of their tokens change.

LongRoPE rotates every token of a sequence by one set of factors up to a length and by another beyond it. What
deeper layers keep of a token depends on the rotations below them, so that no cached key can be corrected by
itself: the tokens go through the model again. A cache of such a model therefore keeps them.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxmodels.layers.masks import Ancestors, Causal, as_mask
from jaxmodels.layers.slot_writes import write_slots
from jaxmodels.layers.spec import Params, buffer, init_state
from jaxmodels.layers.window import Window
from jaxmodels.models.prefill import prefill

if TYPE_CHECKING:
    from jaxmodels.models.cache import Cache
    from jaxmodels.models.decoder import Decoder  # whose windows are noted here

# Tokens that are encoded anew at a time, at most.
WINDOW = 256


@struct.dataclass
class Transcript:
    """The tokens of histories, kept to encode them anew.

    Attributes:
        tokens: i32[B, T], by number.
        extended: bool[B], the rows whose history is encoded as a part of a sequence of more than `limit`
            tokens.
        limit: tokens of a sequence up to which its rotations stay as they are.
    """

    tokens: jax.Array
    extended: jax.Array
    limit: int = struct.field(pytree_node=False)


@runtime_checkable
class BoundedPeek(Protocol):
    """A cache policy that keeps room for a longest window."""

    @property
    def longest_peek(self) -> int: ...


def begin(config: "Decoder", batch: int, slots: int) -> Transcript | None:
    """The transcript of empty histories, as part of a `cache_spec`; None where none can outgrow
    `recode_beyond`."""
    if config.recode_beyond is None or slots <= config.recode_beyond:
        return None
    return Transcript(
        tokens=buffer((batch, slots), ("batch", "slots"), "int32"),
        extended=buffer((batch,), ("batch",), "bool"),
        limit=config.recode_beyond,
    )


def note(transcript: Transcript, tokens: Int[Array, "B S"], window: Window) -> tuple[Transcript, Window]:
    """The transcript with a window's tokens behind the history, and the window as its rotations allow it.

    Rows that are encoded as short sequences have no place for draft tokens beyond the limit: those become
    padding.

    Raises:
        ValueError: the mask is neither causal nor a tree's; a history under others could not be encoded anew
            in order.
    """
    limit = transcript.limit
    mask = as_mask(window.mask)
    if not isinstance(mask, Causal | Ancestors):
        raise ValueError(
            f"peek: mask={type(mask).__name__} needs a cache of at most {limit} tokens: beyond "
            f"recode_beyond={limit} a history is encoded anew, which is done in causal order"
        )
    extended = transcript.extended | _outgrown(window, limit)
    inside = jnp.cumprod(window.positions < limit, axis=1).sum(1)
    known = _known(window)
    window = replace(
        window,
        valid=jnp.where(extended, window.valid, jnp.minimum(window.valid, inside)),
        known=jnp.where(extended, jnp.maximum(known, limit + 1), known),
    )
    slots = window.start if window.slots is None else window.slots
    tokens = write_slots(transcript.tokens, tokens, slots, window.valid)
    return replace(transcript, tokens=tokens, extended=extended), window


def follow(transcript: Transcript, start: Int[Array, "B"], path: Int[Array, "B P"] | None) -> Transcript:
    """The transcript once the tokens along `path` are the first behind slot `start`."""
    if path is None:
        return transcript
    taken = jnp.take_along_axis(transcript.tokens, start[:, None] + path, axis=1)
    return replace(transcript, tokens=write_slots(transcript.tokens, taken, start))


def recoded(config: "Decoder", params: Params, cache: "Cache", window: Window) -> "Cache":
    """The cache for a window: rows that outgrow the limit with it have their history encoded anew.

    Nothing runs where there are none. The loop of at most one round keeps the buffers in place, which a
    `lax.cond` would not.
    """
    transcript = cache.transcript
    if transcript is None:
        return cache
    due = _outgrown(window, transcript.limit) & ~transcript.extended

    def once(carry: "tuple[Cache, Array]") -> "tuple[Cache, Array]":
        cache, due = carry
        assert cache.transcript is not None
        tokens, lengths = cache.transcript.tokens, jnp.where(due, cache.length, 0)
        size = _window(config, transcript.limit)
        padded = jnp.pad(tokens, ((0, 0), (0, -tokens.shape[1] % size)))
        cache = replace(
            cache,
            length=jnp.where(due, 0, cache.length),
            layers=_emptied(config, cache.layers, due, tokens.shape[1]),
            transcript=replace(cache.transcript, extended=cache.transcript.extended | due),
        )
        _, cache = prefill(config, params, padded, lengths, cache, size)
        return cache, jnp.zeros_like(due)

    return lax.while_loop(lambda carry: carry[1].any(), once, (cache, due))[0]


def _emptied(config: "Decoder", layers: tuple[Any, ...], rows: Bool[Array, "B"], slots: int) -> Any:
    """The states of the layers, with those of some rows as at the beginning."""
    batch = rows.shape[0]

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(rows.reshape(batch, *(1,) * (old.ndim - 1)), new.astype(old.dtype), old)

    fresh = tuple(init_state(block, batch, slots, jnp.float32) for block in config.blocks)
    return jax.tree.map(choose, layers, fresh)


def _outgrown(window: Window, limit: int) -> Bool[Array, "B"]:
    """The rows in which the window has tokens of a sequence that is known to be longer than `limit`."""
    return (_known(window) > limit) & (window.valid > 0)


def _known(window: Window) -> Int[Array, "B"]:
    return window.start + window.valid if window.known is None else window.known


def _window(config: "Decoder", limit: int) -> int:
    """How many tokens are encoded anew at a time: no more than any layer keeps room for."""
    policies = [getattr(block.mixer, "cache", None) for block in config.blocks]
    rooms = [policy.longest_peek for policy in policies if isinstance(policy, BoundedPeek)]
    return min(WINDOW, limit, *rooms)
