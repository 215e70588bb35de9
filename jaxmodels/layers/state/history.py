"""What a window's tokens read of the history of a linear recurrence, however that is kept."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

# ``history(readers, decay)``: what each reader, a key or a query f32[B, G, Z, R], finds in the state in front
# of the window, f32[B, N, Z, P]. The state has decayed by `decay`, f32[B, N, Z, 1 or R], until the reader.
History: TypeAlias = Callable[[Float[Array, "B G Z R"], Float[Array, "B N Z #R"]], Float[Array, "B N Z P"]]


def of_state(state: Float[Array, "B N R P"]) -> History:
    """The history that one state holds."""

    def read(readers: Float[Array, "B G Z R"], decay: Float[Array, "B N Z #R"]) -> Float[Array, "B N Z P"]:
        readers = jnp.repeat(readers, state.shape[1] // readers.shape[1], axis=1)
        return (readers @ state) * decay if decay.shape[-1] == 1 else (readers * decay) @ state

    return read
