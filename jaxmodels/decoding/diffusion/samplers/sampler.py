"""What every sampler answers to: a plan made on the host, and the update of one call of the model."""

from typing import Any, Protocol

import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction


@struct.dataclass
class Plan:
    """The tables of a run, float64 on the host; a row for each of the N calls of the model.

    Attributes:
        times: f64[N], what the model is shown as time; [N, 2] for models of two times.
        input_scale: f64[N], what the canvas is multiplied by for the model.
        alpha: f64[N], of ``x = alpha * clean + sigma * noise`` at the call.
        sigma: f64[N], likewise.
        rows: pytree of f64[N, ...], what `step` is told about each call.
        start: f64[], what unit noise is multiplied by at the beginning.
        draws: whether `step` reads fresh noise.
    """

    times: np.ndarray
    input_scale: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    rows: Any
    start: np.ndarray
    draws: bool = struct.field(pytree_node=False, default=False)

    @property
    def calls(self) -> int:
        """How often the model is called, N."""
        return len(self.times)


class Sampler(Protocol):
    """One way from noise to data. Implementations are hashable frozen dataclasses whose fields say all that
    is numeric about the noise schedule."""

    @property
    def prediction(self) -> Prediction:
        """What it takes the model's outputs for."""

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        """The tables of a run of `steps` steps.

        Args:
            steps: >= 1.
            tokens: image tokens that the denoiser sees, for schedules that are shifted by their number.

        Raises:
            ValueError: the schedule has no such run.
        """

    def begin(self, x: Float[Array, "B H W C"]) -> Any:
        """What `step` remembers from call to call, at first: a pytree of arrays."""

    def step(
        self, predicted: Predicted, row: Any, memory: Any, noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], Any]:
        """The canvas after this call, float32, and what is remembered.

        Args:
            predicted: the model's output for the canvas `predicted.x`.
            row: this call's row of `Plan.rows`.
            memory: what `begin` or the last call gave.
            noise: unit noise in the canvas's shape where the plan draws, else None.
        """


def whole_steps(steps: int, most: int) -> int:
    """`steps` as an int from 1 to the `most` that a schedule has.

    Raises:
        ValueError: it is another number.
    """
    return whole("steps", steps, low=1, high=most)
