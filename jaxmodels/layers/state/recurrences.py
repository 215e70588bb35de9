"""The recurrences of the mixers, each in the forms that a policy asks for; see `Recurrence`."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.delta import delta_replay, delta_tree, delta_window
from jaxmodels.layers.ssd import Tokens, ssd_tree, ssd_window
from jaxmodels.layers.state.history import History, of_state
from jaxmodels.layers.state.terms import Terms
from jaxmodels.layers.window import Window

State = Float[Array, "B N R P"]


@dataclass(frozen=True)
class SSDRecurrence:
    """A window of state space duality with its skip connection; see `jaxmodels.layers.ssd.ssd_window`."""

    tokens: Tokens
    skip: Float[Array, "N"]
    chunk: int

    def from_state(
        self, state: State, window: Window
    ) -> tuple[Float[Array, "B S N P"], tuple[Array, ...], State]:
        y, after = ssd_window(self.tokens, self.skip, state, self.chunk)
        if window.ancestors is not None:
            y = self._behind(of_state(state), window.ancestors)
        return y, self.tokens.added(), after

    def terms(self) -> Terms:
        u, log_decay, b = self.tokens.added()
        return Terms(*map(_heads_first, (b, u, log_decay[..., None])))

    def from_history(
        self, history: History, ancestors: Bool[Array, "B S S"] | None
    ) -> tuple[Float[Array, "B S N P"], Float[Array, "B N S P"]]:
        u, log_decay, b = self.tokens.added()
        batch, size = u.shape[:2]
        if size == 1:  # a step of decoding: fewer and smaller operations than a tree of one token
            c = self.tokens.c.astype(jnp.float32)
            decay = jnp.exp(log_decay)[:, 0, :, None, None]
            own = jnp.repeat((c * b).sum(-1), u.shape[2] // b.shape[2], axis=2)
            values = _heads_first(u)
            y = history(_heads_first(c), decay) + own[:, 0, :, None, None] * values
            return self._skipped(_heads_first(y)), values
        if ancestors is None:
            ancestors = jnp.broadcast_to(jnp.tril(jnp.ones((size, size), bool)), (batch, size, size))
        return self._behind(history, ancestors), _heads_first(u)

    def _behind(self, history: History, ancestors: Bool[Array, "B S S"]) -> Float[Array, "B S N P"]:
        u, log_decay, b = self.tokens.added()
        return self._skipped(ssd_tree(u, log_decay, b, self.tokens.c.astype(jnp.float32), history, ancestors))

    def _skipped(self, y: Float[Array, "B S N P"]) -> Float[Array, "B S N P"]:
        return y + self.skip[:, None] * self.tokens.x.astype(jnp.float32)


@dataclass(frozen=True)
class DeltaRecurrence:
    """A window of the gated delta rule; the arrays are those of `jaxmodels.layers.delta`."""

    q: Float[Array, "B S G R"]
    k: Float[Array, "B S G R"]
    v: Float[Array, "B S N P"]
    beta: Float[Array, "B S N"]
    log_decay: Float[Array, "B S N #R"]
    chunk: int

    def from_state(
        self, state: State, window: Window
    ) -> tuple[Float[Array, "B S N P"], tuple[Array, ...], State]:
        arrays = self.q, self.k, self.v, self.beta, self.log_decay
        if window.ancestors is None:
            y, update, after = delta_window(*arrays, state, self.chunk)
        else:
            y, update = delta_tree(*arrays, of_state(state), window.ancestors)
            after = delta_replay(self.k, update, self.log_decay, state, window.valid)
        return y, (self.k, update, self.log_decay), after

    def terms(self) -> Terms:
        """The values are the updates, which depend on what the state holds under the keys."""
        return Terms(_heads_first(self.k), None, _heads_first(self.log_decay))

    def from_history(
        self, history: History, ancestors: Bool[Array, "B S S"] | None
    ) -> tuple[Float[Array, "B S N P"], Float[Array, "B N S P"]]:
        y, update = delta_tree(self.q, self.k, self.v, self.beta, self.log_decay, history, ancestors)
        return y, _heads_first(update)


def _heads_first(a: Float[Array, "B S N H"]) -> Float[Array, "B N S H"]:
    return jnp.swapaxes(a, 1, 2)
