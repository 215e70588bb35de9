"""A window whose tokens become known one after another, each once those before it have been scored.

That is how a model drafts. Showing the growing window anew for every token would compute all of it each
time. Here each token is a window of its own, settled before the next: one step of decoding. Together the
steps are one window that is still pending. Keys and values are in the cache, where tags decide what is
history; recurrent layers need the state before the first token and the small inputs of all. So `commit`
settles any prefix exactly, and no cache is copied.

The chain ends where no row goes on, so that a short draft costs few steps.

A history that is changed by settling a token, and not by keeping its entry alone, cannot be joined so: caches
that evict, and models of other kinds than `Decoder`. For those the growing window is shown anew.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxmodels.layers.kv_cache import KVPending, KVState
from jaxmodels.layers.latent_attention import LatentState
from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, chain
from jaxmodels.layers.spec import Params
from jaxmodels.layers.state.replay import Replay, ReplayPending, ReplayState, chain_in_ring
from jaxmodels.layers.window import Window, next_window
from jaxmodels.models import decoder
from jaxmodels.models.cache_policies import policies_of, state_policies_of
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.models.scored import Scored
from jaxmodels.models.transcript import BoundedPeek, recoded

# ``choose(i, scored, carry)``: the token behind token i of the window, from what the model saw at that token
# alone; whether it is to be shown to the model, if the row has room for it; and the carry.
Choose: TypeAlias = Callable[[Int[Array, ""], Scored, Any], tuple[Int[Array, "B"], Bool[Array, "B"], Any]]

# ``look(i, token, cache, window, carry)``: what `commit` needs of token i, which is a window of its own, and
# what `Choose` gives.
Look: TypeAlias = Callable[
    [Int[Array, ""], Int[Array, "B"], decoder.Cache, Window, Any],
    tuple[decoder.Pending, Int[Array, "B"], Bool[Array, "B"], Any],
]

# States whose windows of one token can be joined: what they keep of a token is an entry of its own, or is
# replayed from its inputs.
JOINED_STATES = KVState | LatentState | RecurrentState | ReplayState


def peek_chain(
    config: LanguageModel,
    params: Params,
    token: Int[Array, "B"],
    cache: Cache,
    size: int,
    choose: Choose,
    carry: Any,
    *,
    valid: Int[Array, "B"],
) -> tuple[Any, Pending]:
    """Scores a window of up to `size` tokens that begins with `token` and goes on as `choose` says.

    The cache is spent. Gives the last carry, and what `commit` needs to settle the first n tokens. All tokens
    but the first are draft tokens: rotations that depend on a sequence's length go by the history and the
    first token, as in a `peek` of the whole window with ``known = cache.length + 1``.

    Args:
        valid: the most tokens to show in each row, 0 to `size`; how many were is the pending's `valid`.

    Raises:
        ValueError: a cache keeps no room for a window of `size` tokens.
    """
    if isinstance(config, Decoder) and isinstance(cache, decoder.Cache) and can_join(config, cache, size):

        def look(
            i: Array, token: Array, cache: decoder.Cache, window: Window, carry: Any
        ) -> tuple[decoder.Pending, Array, Array, Any]:
            scored, pending = config.score(params, token[:, None], cache, window)
            return pending, *choose(i, scored, carry)

        return join(config, params, token, cache, size, look, carry, valid=valid)
    return _peek_growing(config, params, token, cache, size, choose, carry, valid)


def can_join(config: Decoder, cache: decoder.Cache, size: int) -> bool:
    """Whether every layer can settle any prefix of `size` tokens that it was shown one by one."""

    def joins(state: Any) -> bool:
        if isinstance(state, tuple):  # of a layer that is made of several
            return all(map(joins, state))
        return state is None or isinstance(state, JOINED_STATES)

    rooms = [policy.longest_peek for _, policy in policies_of(config) if isinstance(policy, BoundedPeek)]
    rooms += [policy.window for _, policy in state_policies_of(config) if isinstance(policy, Replay)]
    # A policy of depth keeps what one token leaves to the next, or passes of its own, for whole windows.
    is_plain = cache.memory is None and cache.repeats == ()
    return is_plain and joins(cache.layers) and size <= min(rooms, default=size)


def join(
    config: Decoder,
    params: Params,
    token: Int[Array, "B"],
    cache: decoder.Cache,
    size: int,
    look: Look,
    carry: Any,
    *,
    valid: Int[Array, "B"],
) -> tuple[Any, decoder.Pending]:
    """`peek_chain` by windows of one token, each of them settled before the next, for what `can_join`."""
    known = cache.length + 1

    def window(cache: decoder.Cache, shown: Array) -> Window:
        return next_window(token[:, None], cache.length, valid=shown.astype(jnp.int32), known=known)

    cache = recoded(config, params, cache, window(cache, valid > 0))
    before = replace(cache, transcript=None)

    def step(state: _Chain, i: Array) -> tuple[_Chain, decoder.Pending]:
        shown = window(state.cache, state.on)
        pending, token, goes_on, carry = look(i, state.token, state.cache, shown, state.carry)
        layers = tuple(map(_without_states, pending.layers))
        small = replace(pending, layers=layers, transcript=None, kept=())
        on = state.on & goes_on & (i + 1 < valid)
        return _Chain(cache=config.commit(pending), token=token, on=on, carry=carry), small

    def keep(i: Array, state: tuple[_Chain, decoder.Pending]) -> tuple[_Chain, decoder.Pending]:
        before, steps = state
        behind, small = step(before, i)
        return behind, jax.tree.map(lambda all, one: all.at[i].set(one), steps, small)

    first = _Chain(cache=cache, token=token, on=valid > 0, carry=carry)
    steps = jax.tree.map(
        lambda one: jnp.zeros((size, *one.shape), one.dtype), jax.eval_shape(step, first, jnp.asarray(0))[1]
    )
    last, steps = _while_on(size, keep, (first, steps), lambda state: state[0].on)
    return last.carry, decoder.Pending(
        start=before.length,
        valid=steps.valid.sum(0),
        layers=tuple(map(_with_states, before.layers, last.cache.layers, steps.layers)),
        depth=jnp.swapaxes(steps.depth[:, :, 0], 0, 1),
        transcript=last.cache.transcript,
        kept=last.cache.kept,
    )


@struct.dataclass
class _Chain:
    """What goes from step to step.

    Attributes:
        cache: the history with the tokens shown so far.
        token: i32[B], the next one.
        on: bool[B], the rows in which it is to be shown.
        carry: the caller's.
    """

    cache: decoder.Cache
    token: jax.Array
    on: jax.Array
    carry: Any


def _while_on(
    size: int, step: Callable[[Array, Any], Any], state: Any, on: Callable[[Any], Bool[Array, "B"]]
) -> Any:
    """``step(i, state)`` for i = 0, 1, ... as long as a row goes on, at most `size` times."""
    return lax.while_loop(
        lambda turn: (turn[0] < size) & on(turn[1]).any(),
        lambda turn: (turn[0] + 1, step(*turn)),
        (jnp.asarray(0), state),
    )[1]


def _without_states(pending: Any) -> Any:
    """The small arrays of a layer's pending."""
    if isinstance(pending, tuple):
        return tuple(map(_without_states, pending))
    if isinstance(pending, KVPending | ReplayPending):
        nothing: Any = None
        return replace(pending, written=nothing)
    if isinstance(pending, RecurrentPending):
        without: Any = {"before": None, "settled": None}
        return replace(pending, **without)
    return None


def _with_states(before: Any, after: Any, steps: Any) -> Any:
    """A layer's pending of all steps, whose small arrays `steps` holds along a leading axis."""
    if isinstance(steps, tuple):
        return tuple(map(_with_states, before, after, steps))
    if isinstance(steps, KVPending):
        positions = jnp.swapaxes(steps.positions[:, :, 0], 0, 1)
        return replace(
            steps, written=after, start=steps.start[0], positions=positions, valid=steps.valid.sum(0)
        )
    if isinstance(steps, ReplayPending):
        return chain_in_ring(before, after, steps)
    if isinstance(steps, RecurrentPending):
        constants = jax.tree.map(lambda leaf: leaf[0], steps.constants)
        return chain(before, replace(steps, settled=after, constants=constants), steps.inputs)
    return None


def _peek_growing(
    config: LanguageModel,
    params: Params,
    token: Int[Array, "B"],
    cache: Cache,
    size: int,
    choose: Choose,
    carry: Any,
    valid: Int[Array, "B"],
) -> tuple[Any, Pending]:
    """`peek_chain` by one window that is shown anew, with one more token, for every token."""
    batch = token.shape[0]

    def look(i: Array | int, state: _Growing, cache: Cache) -> _Growing:
        scored, pending = config.peek(
            params,
            state.window,
            cache,
            valid=state.shown,
            known=cache.length + 1,
            logits_at=jnp.full((batch, 1), i),
        )
        hidden = lax.dynamic_slice_in_dim(scored.hidden, i, 1, axis=1)
        following, goes_on, carry = choose(jnp.asarray(i), replace(scored, hidden=hidden), state.carry)
        # The token behind the last one has no place in the window.
        window = state.window.at[:, i + 1].set(following, mode="drop")
        on = state.on & goes_on & (state.shown < valid)
        return _Growing(pending=pending, window=window, shown=state.shown + on, on=on, carry=carry)

    def again(i: Array, state: _Growing) -> _Growing:
        return look(i + 1, state, config.commit(state.pending, jnp.zeros((batch,), jnp.int32)))

    window = jnp.pad(token[:, None], ((0, 0), (0, size - 1)))
    shown = jnp.minimum(valid, 1)
    first = look(0, _Growing(pending=None, window=window, shown=shown, on=shown > 0, carry=carry), cache)
    last = _while_on(size - 1, again, first, lambda state: state.on)
    return last.carry, last.pending


@struct.dataclass
class _Growing:
    """What goes from one look at the growing window to the next.

    Attributes:
        pending: that of the last look; None in front of the first.
        window: i32[B, S], the tokens so far.
        shown: i32[B], how many of them are to be shown at the next look.
        on: bool[B], the rows that have one more than at the last.
        carry: the caller's.
    """

    pending: Any
    window: jax.Array
    shown: jax.Array
    on: jax.Array
    carry: Any
