"""Windows whose real tokens lie anywhere, as in prompts that are padded on the left.

Layers know real tokens by their number alone: those come first, in their order, and padding behind them. So a
window is packed once, in front of the first layer, and what was found is put back behind the last.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxmodels.layers.window import Window, take_path

Outputs = TypeVar("Outputs")


def pack(window: Window, inputs: jax.Array) -> jax.Array:
    """What the caller gave for each token, [B, S, ...], in the window's order."""
    return inputs if window.index is None else take_path(inputs, window.index)


def unpack(window: Window, outputs: Outputs) -> Outputs:
    """A tree of what was found for each token, [B, S, ...], in the order in which the caller gave them."""
    if window.index is None:
        return outputs
    places = _places(window.index)
    return jax.tree.map(lambda a: take_path(a, places), outputs)


def packed_path(index: Int[Array, "B S"] | None, path: Int[Array, "B P"] | None) -> Int[Array, "B P"] | None:
    """Where the tokens along a path lie in a window with this `index`."""
    return path if index is None or path is None else take_path(_places(index), path)


def _places(index: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Where each token that the caller gave lies in the window: the inverse order."""
    return jnp.argsort(index, axis=1).astype(index.dtype)
