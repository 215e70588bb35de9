"""DPM-Solver++: steps by the clean data predicted at this call and at the ones before."""

from dataclasses import dataclass
from enum import StrEnum

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.bounds import Bound


class SecondOrder(StrEnum):
    """How the slope of the predicted data enters."""

    MIDPOINT = "midpoint"
    HEUN = "heun"


class LastStep(StrEnum):
    """Where the last step ends, in the names of `diffusers`."""

    CLEAN = "zero"
    NOISY = "sigma_min"  # at the least noise level of the schedule


@struct.dataclass
class Row:
    """Factors of the canvas, of the clean data of this and earlier calls (the newest first), of fresh
    noise."""

    canvas: np.ndarray
    clean: np.ndarray
    fresh: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """A sampler that remembers predicted data, whose plan's rows are the factors of all that a step sums up.

    Attributes:
        order: calls that a step looks at, 1 to 3.
        form: of second-order steps.
        fresh_noise: whether steps follow the stochastic equation (SDE-DPM-Solver++) in place of the
            deterministic one. The curvature of its third order has the sign that `diffusers` gives it.
        easy_end: whether a run of fewer than 15 steps ends with steps of lower order. Steps that end at clean
            data are of first order at any rate.
        first_order_end: whether the last step is of first order in longer runs, too.
        last: where the last step ends.
        bound: what the clean data are held to, None for as they are.

    Raises:
        ValueError: `order` is out of range.
    """

    order: int = 2
    form: SecondOrder = SecondOrder.MIDPOINT
    fresh_noise: bool = False
    easy_end: bool = True
    first_order_end: bool = False
    last: LastStep = LastStep.CLEAN
    bound: Bound | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "form", SecondOrder(self.form))
        object.__setattr__(self, "last", LastStep(self.last))
        whole("order", self.order, low=1, high=3)

    def rows(self, alphas: np.ndarray, sigmas: np.ndarray) -> Row:
        """The factors of N steps through N + 1 levels.

        Args:
            alphas: f64[N + 1], factors of the clean data.
            sigmas: f64[N + 1], factors of the noise; the last may be 0.
        """
        steps = len(sigmas) - 1
        with np.errstate(divide="ignore"):
            log_snr = np.log(alphas) - np.log(sigmas)
        each = [self._row(call, self._order(call, steps), alphas, sigmas, log_snr) for call in range(steps)]
        return jax.tree.map(lambda *rows: np.stack(rows), *each)

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B H W C"], ...]:
        return tuple(jnp.zeros_like(x) for _ in range(self.order - 1))

    def step(
        self,
        predicted: Predicted,
        row: Row,
        memory: tuple[Float[Array, "B H W C"], ...],
        noise: Float[Array, "B H W C"] | None,
    ) -> tuple[Float[Array, "B H W C"], tuple[Float[Array, "B H W C"], ...]]:
        clean = predicted.clean() if self.bound is None else self.bound(predicted.clean())
        seen = (clean, *memory)
        x = jnp.asarray(row.canvas) * predicted.x
        for place, past in enumerate(seen):
            x = x + row.clean[place] * past
        return (x if noise is None else x + row.fresh * noise), seen[: self.order - 1]

    def _order(self, call: int, steps: int) -> int:
        """The order of one step: as many calls as there were, fewer at the end."""
        left, easy = steps - call, self.easy_end and steps < 15
        if left == 1 and (easy or self.first_order_end or self.last is LastStep.CLEAN):
            return 1
        if left == 2 and easy:
            return min(self.order, call + 1, 2)
        return min(self.order, call + 1)

    def _row(self, call: int, order: int, alphas: np.ndarray, sigmas: np.ndarray, log_snr: np.ndarray) -> Row:
        h = log_snr[call + 1] - log_snr[call]
        rate = 2.0 if self.fresh_noise else 1.0
        gone = -np.expm1(-rate * h)  # 1 - e^-h
        weights = np.zeros(3)  # of the data, of their slope and of their curvature along the step
        weights[0] = gone
        if order == 2 and self.form is SecondOrder.MIDPOINT:
            weights[1] = 0.5 * gone
        elif order > 1 and h:  # where a last step goes nowhere, diffusers divides 0 by 0
            weights[1] = 1.0 - gone / (rate * h)
        if order == 3 and h:
            weights[2] = (gone - rate * h) / (rate * h) ** 2 + (-0.5 if self.fresh_noise else 0.5)
        past = [log_snr[call - k] - log_snr[call - k - 1] for k in range(order - 1)]
        clean = alphas[call + 1] * weights[:order] @ _differences(h, past)
        return Row(
            canvas=sigmas[call + 1] / sigmas[call] * (np.exp(-h) if self.fresh_noise else 1.0),
            clean=np.pad(clean, (0, self.order - order)),
            fresh=sigmas[call + 1] * np.sqrt(gone) if self.fresh_noise else np.zeros(()),
        )


def _differences(h: float, past: list[float]) -> np.ndarray:
    """f64[order, order]: what data, slope and curvature over a step are made of, by call, the newest first.

    Args:
        h: the step in log SNR.
        past: the steps before it, the newest first.
    """
    made = np.zeros((len(past) + 1, len(past) + 1))
    made[0, 0] = 1.0
    if past:
        newer = h / past[0] * (np.eye(1, len(made), 0) - np.eye(1, len(made), 1))[0]
        made[1] = newer
    if len(past) == 2:
        older = h / past[1] * np.array([0.0, 1.0, -1.0])
        made[1] = newer + past[0] / (past[0] + past[1]) * (newer - older)
        made[2] = h / (past[0] + past[1]) * (newer - older)
    return made
