"""The state is written anew with every token."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float, Int

from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, Replay, WindowInputs, pend, settle
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.state.policy import Memory, Recurrence
from jaxmodels.layers.window import Window


@dataclass(frozen=True)
class EveryToken:
    """One state, f32[B, N, R, P], behind all tokens."""

    def state_spec(self, memory: Memory, batch: int, conv: Any) -> RecurrentState:
        heads, _, keys, values = memory.axes
        shape = (batch, memory.heads, memory.key_dim, memory.value_dim)
        return RecurrentState(buffer(shape, ("batch", heads, keys, values), "float32"), conv)

    def write(
        self, recurrence: Recurrence, state: RecurrentState, conv: Any, window: Window
    ) -> tuple[Float[Array, "B S N P"], RecurrentPending]:
        y, tokens, after = recurrence.from_state(state.state, window)
        return y, pend(state, after, WindowInputs(tokens=tokens, conv=conv), window)

    def commit(
        self,
        pending: RecurrentPending,
        replay: Replay,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> RecurrentState:
        return settle(pending, replay, n, path)

    def flops_per_token(self, memory: Memory) -> int:
        return memory.flops_per_entry * memory.entries


EVERY_TOKEN = EveryToken()
