"""A state that is written once in many tokens, and the tokens since then."""

from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import whole
from jaxmodels.layers.kv_cache import take_slots
from jaxmodels.layers.recurrence import (
    RecurrentPending,
    RecurrentState,
    WindowInputs,
    conv_after,
    joined,
    pend,
    settle,
)
from jaxmodels.layers.recurrence import Replay as ReplayInputs
from jaxmodels.layers.slot_writes import write_slots
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.state.policy import Memory, Recurrence
from jaxmodels.layers.state.terms import Terms, fold, of_terms
from jaxmodels.layers.window import Window, accepted


@struct.dataclass
class ReplayState:
    """A history: a state in the past, and the tokens since then.

    Attributes:
        checkpoint: f32[B, N, R, P], the state behind all tokens but the newest ones.
        ring: slots for the newest tokens, in their order.
        used: i32[B], how many of them hold one.
        conv: the convolution's last inputs.
    """

    checkpoint: jax.Array
    ring: Terms
    used: jax.Array
    conv: Any = None


@struct.dataclass
class ReplayPending:
    """A window whose tokens stand in the ring behind the history's.

    Attributes:
        written: the state with the window's tokens in its ring; the rest is the history's.
        used: i32[B], the slots that the history uses.
        valid: i32[B], how many leading tokens are real.
        conv: the convolution's inputs [B, S, F], a tree as that of the state.
    """

    written: ReplayState
    used: jax.Array
    valid: jax.Array
    conv: Any = None


@struct.dataclass
class FoldedPending:
    """A window that is too long for the ring, behind a state into which all tokens were folded.

    Attributes:
        window: as without a ring.
        ring: its slots, all free.
    """

    window: RecurrentPending
    ring: Terms


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Tokens are kept as what they add to the state; the state itself is written once in about `ring` tokens.

    Every other step reads the state and leaves it: what a token finds in the tokens since then is a small sum
    over the ring. Rejected tokens cost nothing, since they only free their slots. When any row has no room
    for the next window, the tokens of all rows are folded into their states, so that rows do not take turns.
    Exact but for rounding. From ReplaySSM as a fork of vLLM has it, known here from its description: there
    the step that finds the ring full writes the state, here the step after it.

    Attributes:
        ring: slots for tokens.
        window: the longest window whose tokens go to the ring; draft tokens that are shown one by one are one
            window. Longer ones, such as prompts, are folded into the state at once. Where draft tokens may
            follow (`Window.known`), the ring is emptied while it still has room for so many.

    Raises:
        ValueError: one is no whole number, or `window` is below 1 or exceeds `ring`.
    """

    ring: int = 16
    window: int = 8

    def __post_init__(self) -> None:
        for name in ("ring", "window"):
            object.__setattr__(self, name, whole(f"Replay: {name}", getattr(self, name)))
        if not 1 <= self.window <= self.ring:
            raise ValueError(f"Replay: window={self.window} must be 1 to ring={self.ring}")

    def state_spec(self, memory: Memory, batch: int, conv: Any) -> ReplayState:
        heads, groups, keys, values = memory.axes

        def of_tokens(count: int, width: int, axis: str | None, width_axis: str | None) -> Any:
            return buffer((batch, count, self.ring, width), ("batch", axis, None, width_axis), "float32")

        return ReplayState(
            checkpoint=buffer(
                (batch, memory.heads, memory.key_dim, memory.value_dim),
                ("batch", heads, keys, values),
                "float32",
            ),
            ring=Terms(
                keys=of_tokens(memory.groups, memory.key_dim, groups, keys),
                values=of_tokens(memory.heads, memory.value_dim, heads, values),
                log_decay=of_tokens(memory.heads, memory.decays, heads, None if memory.decays == 1 else keys),
            ),
            used=buffer((batch,), ("batch",), "int32"),
            conv=conv,
        )

    def write(
        self, recurrence: Recurrence, state: ReplayState, conv: Any, window: Window
    ) -> tuple[Float[Array, "B S N P"], ReplayPending | FoldedPending]:
        if window.size > self.window:
            before = RecurrentState(folded(state), state.conv)
            y, tokens, after = recurrence.from_state(before.state, window)
            inputs = WindowInputs(tokens=tokens, conv=conv)
            return y, FoldedPending(pend(before, after, inputs, window), state.ring)
        state = self._with_room(state, window)
        # What can be written before the ring is read is: a ring that is written after it was read is copied.
        terms = recurrence.terms()
        ring = _written(state.ring, terms, state.used, window.valid)
        history = of_terms(state.checkpoint, ring, state.used)
        y, values = recurrence.from_history(history, window.ancestors)
        if terms.values is None:
            ring = _written(ring, Terms(None, values, None), state.used, window.valid)
        return y, ReplayPending(replace(state, ring=ring), state.used, window.valid, conv)

    def commit(
        self,
        pending: ReplayPending | FoldedPending,
        replay: ReplayInputs,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> ReplayState:
        if isinstance(pending, FoldedPending):
            after = settle(pending.window, replay, n, path)
            used = jnp.zeros(after.state.shape[:1], jnp.int32)
            return ReplayState(after.state, pending.ring, used, after.conv)
        state, ring = pending.written, pending.written.ring
        if path is not None:
            slots = pending.used[:, None] + path
            ring = jax.tree.map(lambda a: write_slots(a, take_slots(a, slots), pending.used, n), ring)
        if n is None and path is None:
            conv, taken = pending.conv, pending.valid
        else:
            conv, taken = accepted(pending.conv, n, path)
        conv = conv_after(state.conv, conv, taken)
        return replace(state, ring=ring, used=pending.used + taken, conv=conv)

    def flops_per_token(self, memory: Memory) -> int:
        """The state is read once for a token and written once for a ring of tokens."""
        readers = 1 if memory.flops_per_entry < 7 else 2  # the gated delta rule reads for keys, too
        of_ring = memory.groups * memory.key_dim + memory.heads * memory.value_dim
        reads = 2 * readers * (memory.entries + self.ring * of_ring)
        return reads + (2 * self.ring + 1) * memory.entries // self.ring

    def _with_room(self, state: ReplayState, window: Window) -> ReplayState:
        """The state with room for the window in every row: folded if a row has none."""
        due = self._is_full(state.used, window)

        def turn(i: Array, kept: tuple[Array, Terms]) -> tuple[Array, Terms]:
            # What does not depend on the turn would be computed in front of the loop, in every step.
            checkpoint, ring, _ = lax.optimization_barrier((*kept, i))
            return fold(checkpoint, ring, state.used), ring

        checkpoint, ring = lax.fori_loop(0, due.astype(jnp.int32), turn, (state.checkpoint, state.ring))
        used = jnp.where(due, 0, state.used)
        return replace(state, checkpoint=checkpoint, ring=ring, used=used)

    def _is_full(self, used: Int[Array, "B"], window: Window) -> Bool[Array, ""]:
        """Whether a row that the window has tokens for has too few free slots.

        Draft tokens that are shown one by one must not be folded in while they can be rejected: the first of
        them has left room for all, and the others are known by a history that is not certain.
        """
        shown = window.valid > 0
        if window.known is None:
            return (shown & (used + window.size > self.ring)).any()
        full = (shown & (used + self.window > self.ring)).any()
        return full & ~(shown & (window.known <= window.start)).any()


def _written(ring: Terms, new: Terms, slots: Int[Array, "B"], count: Int[Array, "B"]) -> Terms:
    """The ring with those arrays of a window's terms that are given, from each row's slot on."""
    arrays = {field.name: getattr(new, field.name) for field in fields(Terms)}
    given = {name: a for name, a in arrays.items() if a is not None}
    written = {name: write_slots(getattr(ring, name), a, slots, count) for name, a in given.items()}
    return replace(ring, **written)


def chain_in_ring(before: ReplayState, after: ReplayState, steps: ReplayPending) -> ReplayPending:
    """The pending of one window whose tokens were shown in several windows, each settled before the next; see
    `recurrence.chain`.

    Args:
        before, after: the states in front of the first window and behind the last.
        steps: the pendings of all windows without what was written, stacked along a new leading axis.
    """
    valid = steps.valid.sum(0)
    written = replace(after, conv=before.conv)
    return ReplayPending(written, after.used - valid, valid, jax.tree.map(joined, steps.conv))


def folded(state: ReplayState) -> Float[Array, "B N R P"]:
    """The state behind all tokens."""
    return fold(state.checkpoint, state.ring, state.used)
