"""Models of two times on Gaussian data, whose flow is known: jumps of any length are exact."""

import math

import numpy as np
import pytest
from diffusion_schedulers import one_step

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import FlowLevels, FlowMapEuler, FlowSchedule, FlowTime, SecondTime

MEAN, DEVIATION = 2.0, 0.5  # of data in one dimension
START = np.array([-1.3, 0.2, 1.9], np.float32).reshape(1, 1, 3, 1)


def spread(t: np.ndarray | float) -> np.ndarray | float:
    return np.sqrt(((1 - t) * DEVIATION) ** 2 + t**2)


def moved(x: np.ndarray, t: float, r: float) -> np.ndarray:
    """Where the flow takes a canvas of time t, 1 for noise, until time r."""
    return (1 - r) * MEAN + spread(r) / spread(t) * (x - (1 - t) * MEAN)


def mean_velocity(x: np.ndarray, t: float, r: float) -> np.ndarray:
    return (x - moved(x, t, r)) / (t - r)


def test_the_oracle_is_that_of_the_velocity() -> None:
    np.testing.assert_allclose(mean_velocity(np.array(1.3), 0.9, 0.2), -1.2082, atol=5e-5)
    np.testing.assert_allclose(mean_velocity(np.array(1.3), 0.9, 0.9 - 1e-6), -0.8154, atol=5e-5)


SAMPLERS = {
    "times": FlowMapEuler(),
    "spans": FlowMapEuler(schedule=FlowSchedule(count=1, levels=FlowLevels.EVEN), second=SecondTime.SPAN),
    "halvings": FlowMapEuler(
        schedule=FlowSchedule(count=1, levels=FlowLevels.EVEN, time=FlowTime.DATA),
        prediction=Prediction.FLOW_TO_DATA,
        second=SecondTime.HALVINGS,
    ),
}


def shown(kind: str, times: np.ndarray) -> tuple[float, float]:
    """Noise levels that a jump begins and ends at, as a model reads what it is shown."""
    first, second = times
    if kind == "times":
        return first / 1000, second / 1000
    if kind == "spans":
        return first, first - second
    return 1 - first, 1 - first - 2.0**-second


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_jumps_end_where_the_flow_does(kind: str, steps: int) -> None:
    sampler, x = SAMPLERS[kind], START
    plan = sampler.plan(steps)
    for call in range(steps):
        velocity = mean_velocity(np.asarray(x), *shown(kind, plan.times[call]))
        output = -velocity if kind == "halvings" else velocity
        x, _ = one_step(sampler, plan, call, x, np.float32(output), (), None)
    np.testing.assert_allclose(x, MEAN + DEVIATION * START, rtol=1e-5)


def test_consistency_sampling_jumps_to_the_data_each_time() -> None:
    sampler = FlowMapEuler(
        schedule=FlowSchedule(count=1, levels=FlowLevels.EVEN), second=SecondTime.SPAN, renoises=True
    )
    plan, x = sampler.plan(4), START
    np.testing.assert_allclose(plan.times, [[1, 1], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]])
    draw = np.random.default_rng(0)
    for call in range(4):
        t, span = plan.times[call]
        noise = draw.normal(size=x.shape).astype(np.float32)
        clean = moved(np.asarray(x), t, t - span)
        x, _ = one_step(sampler, plan, call, x, np.float32((x - clean) / t), (), noise)
        end = 0.75 - 0.25 * call
        np.testing.assert_allclose(x, (1 - end) * clean + end * noise, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [3, 6])
def test_halvings_need_a_power_of_two(steps: int) -> None:
    assert not math.log2(steps).is_integer()
    with pytest.raises(ValueError, match=rf"power of 2, got steps={steps}"):
        SAMPLERS["halvings"].plan(steps)


def test_halvings_know_no_consistency_sampling() -> None:
    with pytest.raises(ValueError, match="renoises=True jumps to the data from every level"):
        FlowMapEuler(second=SecondTime.HALVINGS, renoises=True)
