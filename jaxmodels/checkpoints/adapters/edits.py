"""What an adapter does to one tensor of its base: calls from a tensor in float32 to another."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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

    def __call__(self, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The changed tensor."""
        left, right = self.up, self.down
        if self.inputs_first:
            left, right = np.swapaxes(right, -1, -2), np.swapaxes(left, -1, -2)
        weight = left @ (np.float32(self.scale) * right)
        weight += tensor
        if self.magnitudes is not None:
            inputs = 0 if self.inputs_first else 1
            norms = np.linalg.norm(weight, axis=inputs, keepdims=True)
            weight *= np.expand_dims(self.magnitudes, inputs) / norms
        return weight


@dataclass(frozen=True)
class Replace:
    """Puts another tensor in its place."""

    value: np.ndarray

    def __call__(self, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The changed tensor."""
        return self.value


@dataclass(frozen=True)
class Shift:
    """Adds another tensor."""

    value: np.ndarray

    def __call__(self, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The changed tensor."""
        return tensor + self.value


@dataclass(frozen=True)
class ReplaceRows:
    """Puts other rows in the place of some."""

    rows: tuple[int, ...]
    values: np.ndarray

    def __call__(self, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The changed tensor."""
        changed = np.array(tensor)
        changed[list(self.rows)] = self.values
        return changed
