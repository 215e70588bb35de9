"""The ways to run one step of a flow backwards: token by token."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.flows.reading import Histories, Reader


class Inversion(Protocol):
    """Finds the tokens of which a step makes those given. Implementations are hashable frozen dataclasses."""

    def check(self, steps: int, places: int) -> None:
        """Raises ValueError where it does not fit a flow of so many steps and tokens."""

    def invert(
        self, reader: Reader, z: Float[Array, "B S C"], number: int
    ) -> tuple[Float[Array, "B S C"], Int[Array, ""]]:
        """The tokens, in the order in which the step takes them, and how many passes found them.

        Args:
            reader: the step.
            z: what the step makes of them, in that order.
            number: of the step in the flow, from 0 next to the images.
        """


@dataclass(frozen=True)
class Sequential:
    """One token after the other, each read once: as many passes as there are tokens but one."""

    def check(self, steps: int, places: int) -> None:
        """It fits every flow."""

    def invert(
        self, reader: Reader, z: Float[Array, "B S C"], number: int
    ) -> tuple[Float[Array, "B S C"], Int[Array, ""]]:
        def find(i: Array, carry: tuple[Array, Histories]) -> tuple[Array, Histories]:
            x, histories = carry
            log_scale, shift, window = reader.read(lax.dynamic_slice_in_dim(x, i, 1, axis=1), i, histories)
            found = lax.dynamic_slice_in_dim(z, i + 1, 1, axis=1) * jnp.exp(log_scale) + shift
            return lax.dynamic_update_slice_in_dim(x, found, i + 1, axis=1), reader.settle(window, 1)

        passes = z.shape[1] - 1
        x, _ = lax.fori_loop(0, passes, find, (z, reader.begin(z.shape[0])))
        return x, jnp.asarray(passes, jnp.int32)


jax.tree_util.register_static(Sequential)

SEQUENTIAL = Sequential()
