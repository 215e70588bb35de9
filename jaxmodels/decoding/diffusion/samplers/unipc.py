"""UniPC: a multistep solver that corrects each canvas by the output that it led to."""

from dataclasses import dataclass, field
from enum import StrEnum

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.decoding.diffusion.samplers.bounds import Bound
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FlowSchedule, check_flow
from jaxmodels.decoding.diffusion.samplers.multistep import LastStep
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.sigmas import KarrasGrid, SigmaGrid, preserving, time_of_sigma
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing, solver_times


class Basis(StrEnum):
    """B(h) of the paper."""

    BH1 = "bh1"  # h
    BH2 = "bh2"  # e^h - 1


@struct.dataclass
class Row:
    """Factors of a call: first the canvas is corrected, then the next one is predicted from it.

    Attributes:
        keep: of the canvas as it came, in the corrected one.
        last: of the canvas that was corrected last, in the corrected one.
        now: of this call's clean data, in the corrected one.
        past: [order], of the clean data before, the newest first, in the corrected one.
        canvas: of the corrected canvas, in the next one.
        clean: [order], of the clean data from this call on, the newest first, in the next one.
    """

    keep: np.ndarray
    last: np.ndarray
    now: np.ndarray
    past: np.ndarray
    canvas: np.ndarray
    clean: np.ndarray


Memory = tuple[Float[Array, "B H W C"], tuple[Float[Array, "B H W C"], ...]]


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """UniPC (Zhao et al. 2023) for clean data, as `diffusers.UniPCMultistepScheduler` with `predict_x0`.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        spacing: which training steps a run visits.
        offset: added to the times of leading spacing.
        grid: where noise levels lie between the ends of the whole schedule, None for at the times of
            `spacing`.
        flow: a schedule of flow matching in place of `noise` and `spacing`, None for none. A Karras grid is
            made of `noise` all the same, and then bent into one of flow matching.
        order: calls that a step looks at, >= 1.
        basis: B(h).
        easy_end: whether the last steps are of lower order. Only so can a run end at clean data.
        uncorrected: calls after which the next canvas is not corrected.
        last: where the last step ends.
        bound: what the clean data are held to, None for as they are.

    Raises:
        ValueError: a number outside its range, `flow` beside a grid that is not Karras', or a run that ends
            at clean data without `easy_end`.
    """

    noise: Betas = field(default_factory=Betas)
    prediction: Prediction = Prediction.EPSILON
    spacing: Spacing = Spacing.LINSPACE
    offset: int = 0
    grid: SigmaGrid | None = None
    flow: FlowSchedule | None = None
    order: int = 2
    basis: Basis = Basis.BH2
    easy_end: bool = True
    uncorrected: tuple[int, ...] = ()
    last: LastStep = LastStep.CLEAN
    bound: Bound | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "basis", Basis(self.basis))
        object.__setattr__(self, "last", LastStep(self.last))
        whole("offset", self.offset)
        whole("order", self.order, low=1)
        check_flow(self.prediction, self.flow)
        if self.flow is not None and self.grid is not None and not isinstance(self.grid, KarrasGrid):
            raise ValueError(f"flow={self.flow} goes with a Karras grid or none, got grid={self.grid}")
        if self.last is LastStep.CLEAN and self.order > 1 and not self.easy_end:
            raise ValueError(
                f"a run of order={self.order} with easy_end=False cannot end at clean data: "
                f"last must be {LastStep.NOISY.value!r}"
            )

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        times, sigmas, end = self._levels(steps, tokens)
        sigmas = np.append(sigmas, 0.0 if self.last is LastStep.CLEAN else end)
        sigmas = sigmas.astype(np.float32).astype(np.float64)  # as there: 1 - 1e-6 keeps 1.01e-6 of the data
        alphas, sigmas = preserving(sigmas) if self.flow is None else (1 - sigmas, sigmas)
        return Plan(
            times=times,
            input_scale=np.ones(steps),
            alpha=alphas[:-1],
            sigma=sigmas[:-1],
            rows=self._rows(alphas, sigmas),
            start=np.ones(()),
        )

    def begin(self, x: Float[Array, "B H W C"]) -> Memory:
        return jnp.zeros_like(x), tuple(jnp.zeros_like(x) for _ in range(self.order))

    def step(
        self, predicted: Predicted, row: Row, memory: Memory, noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], Memory]:
        last, history = memory
        clean = predicted.clean() if self.bound is None else self.bound(predicted.clean())
        corrected = row.keep * predicted.x + row.last * last + row.now * clean
        for place, past in enumerate(history):
            corrected = corrected + row.past[place] * past
        history = (clean, *history)[: self.order]
        x = row.canvas * corrected
        for place, past in enumerate(history):
            x = x + row.clean[place] * past
        return x, (corrected, history)

    def _levels(self, steps: int, tokens: int) -> tuple[np.ndarray, np.ndarray, float]:
        """f64[steps] times, noise levels, and the level of a last step that is not clean."""
        trained, count = self.noise.sigmas, self.noise.count
        if self.flow is not None and self.grid is None:
            sigmas = self.flow.sigmas(steps, tokens)
            sigmas[0] -= 1e-6 * (sigmas[0] > 1 - 1e-6)  # some of the data must be left
            return self.flow.step_times(sigmas), sigmas, sigmas[-1]
        times = solver_times(self.spacing, steps, count, self.offset).astype(np.float64)
        if self.grid is None:
            return np.trunc(times), trained[times.astype(int)], trained[0]
        sigmas = self.grid(steps, trained[0], trained[-1])
        if self.flow is not None:
            sigmas = sigmas / (sigmas + 1)
            return self.flow.step_times(sigmas), sigmas, sigmas[-1]
        times = time_of_sigma(sigmas, trained)
        times = np.round(times) if isinstance(self.grid, KarrasGrid) else np.trunc(times)
        return times, sigmas, sigmas[-1]

    def _rows(self, alphas: np.ndarray, sigmas: np.ndarray) -> Row:
        steps = len(sigmas) - 1
        with np.errstate(divide="ignore"):
            log_snr = np.log(alphas) - np.log(sigmas)
        rows, order = [], 0
        for call in range(steps):
            keep, last, now, past = 1.0, 0.0, 0.0, np.zeros(self.order)
            if call > 0 and call - 1 not in self.uncorrected:
                keep, last = 0.0, sigmas[call] / sigmas[call - 1]
                weights = alphas[call] * self._weights(log_snr, call - 1, order, corrects=True)
                now, past[:order] = weights[0], weights[1:]
            order = min(self.order, call + 1, steps - call if self.easy_end else self.order)
            clean = np.zeros(self.order)
            clean[:order] = alphas[call + 1] * self._weights(log_snr, call, order, corrects=False)
            rows.append(
                Row(
                    keep=np.asarray(keep),
                    last=np.asarray(last),
                    now=np.asarray(now),
                    past=past,
                    canvas=np.asarray(sigmas[call + 1] / sigmas[call]),
                    clean=clean,
                )
            )
        return jax.tree.map(lambda *each: np.stack(each), *rows)

    def _weights(self, log_snr: np.ndarray, call: int, order: int, *, corrects: bool) -> np.ndarray:
        """Factors of clean data in the canvas behind a call, over its alpha: the newest first.

        With `corrects` the data at that canvas come in front: f64[order + 1], else f64[order].
        """
        h = log_snr[call + 1] - log_snr[call]
        distances = [(log_snr[call - k] - log_snr[call]) / h for k in range(1, order)]
        gone = np.expm1(-h)
        factor = -h if self.basis is Basis.BH1 else gone
        shares = _shares(-h, gone, factor, np.array([*distances, 1.0]), corrects=corrects)
        weights = np.zeros(order + 1)  # of the data at the end, at the call, before it
        weights[1] = -gone
        for place, distance in enumerate(distances):
            weights[place + 2] -= factor * shares[place] / distance
            weights[1] += factor * shares[place] / distance
        if corrects:
            weights[0] -= factor * shares[-1]
            weights[1] += factor * shares[-1]
        return weights if corrects else weights[1:]


def _shares(hh: float, gone: float, factor: float, distances: np.ndarray, *, corrects: bool) -> np.ndarray:
    """How much each difference of clean data counts, so that a step has its order: the last is that of the
    end.

    Args:
        hh: the step in log SNR, negative.
        gone: ``e^hh - 1``.
        factor: B(hh).
        distances: f64[order], of other calls in steps; the end's, 1, is the last.
        corrects: whether the end is known.
    """
    order = len(distances)
    if order == 1 and corrects:
        return np.array([0.5])
    if order == 2 and not corrects:
        return np.array([0.5])
    if order == 1:
        return np.array([])
    targets, integral, factorial = [], gone / hh - 1, 1
    for power in range(1, order + 1):
        targets.append(integral * factorial / factor)
        factorial *= power + 1
        integral = integral / hh - 1 / factorial
    matrix = np.stack([distances**power for power in range(order)])
    if corrects:
        return np.linalg.solve(matrix, np.array(targets))
    return np.linalg.solve(matrix[:-1, :-1], np.array(targets[:-1]))
