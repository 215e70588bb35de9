"""What an adapter does to one tensor of its base: calls from the tensor to another, in float32."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclass(frozen=True)
class LowRank:
    """Adds the product of a low-rank pair (LoRA, https://arxiv.org/abs/2106.09685).

    Attributes:
        down: float32[..., rank, inputs]; leading axes are those of experts.
        up: float32[..., outputs, rank].
        scale: of the product.
        inputs_first: the weight is stored [inputs, outputs].
        magnitudes: float32[outputs], the norms that the weights of each output get after the addition
            (DoRA, https://arxiv.org/abs/2402.09353); None leaves the norms as they come.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float
    inputs_first: bool
    magnitudes: np.ndarray | None

    def __call__(self, tensor: Any) -> Any:
        """The changed tensor."""
        scale = np.float32(self.scale)
        return add_product(tensor, self.down, self.up, scale, self.magnitudes, inputs_first=self.inputs_first)


@dataclass(frozen=True)
class Replace:
    """Puts another tensor in its place."""

    value: np.ndarray

    def __call__(self, tensor: Any) -> Any:
        """The changed tensor."""
        return self.value


@dataclass(frozen=True)
class Shift:
    """Adds another tensor."""

    value: np.ndarray

    def __call__(self, tensor: Any) -> Any:
        """The changed tensor."""
        return np.asarray(tensor, np.float32) + self.value


@dataclass(frozen=True)
class ReplaceRows:
    """Puts other rows in the place of some."""

    rows: tuple[int, ...]
    values: np.ndarray

    def __call__(self, tensor: Any) -> Any:
        """The changed tensor."""
        changed = np.array(tensor, np.float32)
        changed[list(self.rows)] = self.values
        return changed


# On the device, where products and casts are many times faster than by numpy.
@functools.partial(jax.jit, static_argnames=("inputs_first",))
def add_product(
    weight: Float[Array, "..."],
    down: Float[Array, "... rank inputs"],
    up: Float[Array, "... outputs rank"],
    scale: Float[Array, ""],
    magnitudes: Float[Array, " outputs"] | None,
    *,
    inputs_first: bool,
) -> Float[Array, "..."]:
    """What `LowRank` does, with its attributes as arguments."""
    left, right = up, down
    if inputs_first:
        left, right = jnp.swapaxes(right, -1, -2), jnp.swapaxes(left, -1, -2)
    product = jnp.matmul(left, scale * right, precision=jax.lax.Precision.HIGHEST)
    changed = weight.astype(jnp.float32) + product
    if magnitudes is None:
        return changed
    inputs = 0 if inputs_first else 1
    norms = jnp.linalg.norm(changed, axis=inputs, keepdims=True)
    return changed * (jnp.expand_dims(magnitudes, inputs) / norms)
