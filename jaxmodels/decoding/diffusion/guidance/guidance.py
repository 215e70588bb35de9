"""What every guidance answers to, and what it is shown."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


@struct.dataclass
class Outputs:
    """A model's outputs for the same canvases under two conditions.

    Attributes:
        conditional: f32[B, H, W, O], under what is asked for.
        unconditional: f32[B, H, W, O], under what guidance leads away from.
        x: f32[B, H, W, C], the canvases, ``alpha * clean + sigma * noise``. Channels of the outputs behind
            those of `x` are of a variance.
        alpha: f32[].
        sigma: f32[].
        kind: what the outputs are.
    """

    conditional: jax.Array
    unconditional: jax.Array
    x: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    kind: Prediction = struct.field(pytree_node=False)

    def pair(self, channels: int | None = None) -> tuple[Float[Array, "B H W K"], Float[Array, "B H W K"]]:
        """The first `channels` of both, conditional and unconditional; None for as many as `x` has."""
        count = self.x.shape[-1] if channels is None else channels
        return self.conditional[..., :count], self.unconditional[..., :count]

    def read(self, guided: Float[Array, "B H W K"]) -> Predicted:
        """An output whose first channels are these, and whose others are those of the conditional one."""
        rest = self.conditional[..., guided.shape[-1] :]
        output = jnp.concatenate([guided, rest], axis=-1)
        return Predicted(output, self.x, self.alpha, self.sigma, self.kind)


class Guidance(Protocol):
    """How a model's outputs with and without a condition become one.

    Implementations are frozen dataclasses and pytrees whose strengths are leaves: another strength runs the
    same program. Both outputs are made by one call of the model.
    """

    def rows(self, plan: Plan) -> Any:
        """What a call is told about each call of the model, made on the host: a pytree of arrays [N, ...]."""

    def __call__(self, outputs: Outputs, row: Any) -> Predicted:
        """The guided output.

        Args:
            outputs: both.
            row: this call's row of `rows`.
        """


def away(
    conditional: Float[Array, "..."], unconditional: Float[Array, "..."], scale: Float[Array, ""]
) -> Float[Array, "..."]:
    """``unconditional + scale * (conditional - unconditional)``."""
    return unconditional + scale * (conditional - unconditional)
