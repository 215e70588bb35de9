"""What a recurrent mixer asks of its state, and what it tells a policy of itself."""

from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.recurrence import Replay
from jaxmodels.layers.state.history import History
from jaxmodels.layers.state.terms import Terms
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a policy knows of its layer: the sizes of the state [N, R, P] and of what tokens add to it.

    Attributes:
        heads, groups, key_dim, value_dim: N, G, R and P. Each group's keys serve ``N / G`` heads.
        decays: of a token and head: 1, or one per key channel.
        axes: logical axes of the four sizes.
        flops_per_entry: of a step of the recurrence, for each entry of the state.
    """

    heads: int
    groups: int
    key_dim: int
    value_dim: int
    decays: int = 1
    axes: tuple[str | None, str | None, str | None, str | None]
    flops_per_entry: int

    @property
    def entries(self) -> int:
        return self.heads * self.key_dim * self.value_dim


class Recurrence(Protocol):
    """A window of a layer's recurrence: projected, convolved, and made ready to follow any history."""

    def from_state(
        self, state: Float[Array, "B N R P"], window: Window
    ) -> tuple[Float[Array, "B S N P"], tuple[Any, ...], Float[Array, "B N R P"]]:
        """Behind a state: the outputs, the tokens to replay (see `WindowInputs`), the state behind the valid
        tokens."""

    def terms(self) -> Terms:
        """What each token adds to the state; its `values` are None where they depend on the history."""

    def from_history(
        self, history: History, ancestors: Bool[Array, "B S S"] | None
    ) -> tuple[Float[Array, "B S N P"], Float[Array, "B N S P"]]:
        """Behind any history: the outputs, and the values of all terms. Quadratic in S."""


class StatePolicy(Protocol):
    """How the state of a linear recurrence is kept. Implementations are hashable frozen dataclasses.

    The contract is that of a `Mixer`: `commit` of n tokens equals having been shown only n, padding leaves no
    trace, a state's type never changes, and buffers are written in place.
    """

    def state_spec(self, memory: Memory, batch: int, conv: Any) -> Any:
        """The state of an empty history, with the convolution's `conv`; see `Stateful.state_spec`. The
        convolution's last inputs are its `conv`."""

    def write(
        self, recurrence: Recurrence, state: Any, conv: Any, window: Window
    ) -> tuple[Float[Array, "B S N P"], Any]:
        """Shows a window: (the recurrence's outputs, what `commit` needs). conv: the convolution's inputs."""

    def commit(
        self,
        pending: Any,
        replay: Replay,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> Any:
        """The state once the first n tokens (of `path`) are history. replay: see `recurrence.settle`."""

    def flops_per_token(self, memory: Memory) -> int:
        """FLOPs of one token's step, whatever its history."""
