"""Guidance against the guiders of `diffusers` and, where it has none, the published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance, ClassifierFreeZeroStarGuidance
from diffusers_modules import draw

from jaxmodels.decoding.diffusion.guidance import (
    CFG,
    CFGPlusPlus,
    Interval,
    Outputs,
    Rescaled,
    Residual,
    ResidualFromFirst,
    TimeInterval,
    ZeroStar,
)
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import DDIM

PLAN = DDIM().plan(7)


def outputs(channels=4, kind=Prediction.EPSILON, call=2):
    (c, tc), (u, tu), (x, _) = (draw(2, 6, 4, n, seed=i) for i, n in enumerate((channels, channels, 4)))
    alpha, sigma = (jnp.float32(table[call]) for table in (PLAN.alpha, PLAN.sigma))
    return Outputs(c, u, x, alpha, sigma, kind), tc.movedim(-1, 1), tu.movedim(-1, 1)


def guided(guidance, seen, call=2):
    row = jax.tree.map(lambda table: jnp.asarray(table)[call], guidance.rows(PLAN))
    return guidance(seen, row)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (CFG(3.5), ClassifierFreeGuidance(3.5)),
        (Rescaled(3.5, 0.7), ClassifierFreeGuidance(3.5, 0.7)),
        (Rescaled(3.5, 1.0), ClassifierFreeGuidance(3.5, 1.0)),
        (ZeroStar(3.5), ClassifierFreeZeroStarGuidance(3.5)),
        (ZeroStar(3.5, 3), ClassifierFreeZeroStarGuidance(3.5, 3)),
        (Interval(CFG(3.5), 0.3, 0.8), ClassifierFreeGuidance(3.5, start=0.3, stop=0.8)),
        (Interval(ZeroStar(3.5, 0), 0.15, 0.5), ClassifierFreeZeroStarGuidance(3.5, 0, start=0.15, stop=0.5)),
    ],
    ids=str,
)
def test_guided_outputs_are_those_of_diffusers(ours, theirs):
    seen, c, u = outputs(kind=Prediction.FLOW)
    for call in range(7):
        theirs.set_state(call, 7, torch.tensor(0))
        wanted = theirs.forward(c, u if theirs._is_cfg_enabled() else None).pred.movedim(1, -1)
        np.testing.assert_allclose(guided(ours, seen, call).raw(), wanted, rtol=1e-5, atol=1e-6)


def test_guided_channels_are_the_first_and_the_others_the_conditional_ones():
    seen, _, _ = outputs(channels=8)
    both, three = guided(CFG(3.0), seen).output, guided(CFG(3.0, channels=3), seen).output
    formula = seen.unconditional + 3.0 * (seen.conditional - seen.unconditional)
    for found, count in ((both, 4), (three, 3)):
        np.testing.assert_allclose(found[..., :count], formula[..., :count], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[..., count:], seen.conditional[..., count:])


@pytest.mark.parametrize("kind", [Prediction.EPSILON, Prediction.V, Prediction.FLOW, Prediction.CLEAN])
def test_cfg_plus_plus_takes_guided_data_and_unconditional_noise(kind):
    seen, _, _ = outputs(channels=8, kind=kind)
    found = guided(CFGPlusPlus(0.6), seen)
    plain = seen.read(seen.unconditional + 0.6 * (seen.conditional - seen.unconditional))
    np.testing.assert_allclose(found.clean(), plain.clean(), atol=1e-5)
    np.testing.assert_allclose(found.noise(), seen.read(seen.unconditional).noise(), atol=1e-5)
    np.testing.assert_array_equal(found.extra(), seen.conditional[..., 4:])
    row = jax.tree.map(lambda table: jnp.asarray(table[2], jnp.float32), PLAN.rows)
    if kind is Prediction.EPSILON:  # the update of the paper
        noise = seen.conditional[..., :4] * 0.6 + seen.unconditional[..., :4] * 0.4
        clean = (seen.x - seen.sigma * noise) / seen.alpha
        wanted = PLAN.alpha[3] * clean + PLAN.sigma[3] * seen.unconditional[..., :4]
        np.testing.assert_allclose(DDIM().step(found, row, (), None)[0], wanted, atol=1e-5)


def test_cfg_plus_plus_in_a_part_of_a_run():
    seen, _, _ = outputs(channels=8)
    inside, outside = (guided(Interval(CFGPlusPlus(0.6), 0.3, 0.8), seen, call) for call in (3, 0))
    np.testing.assert_allclose(inside.clean(), guided(CFGPlusPlus(0.6), seen).clean(), atol=1e-5)
    np.testing.assert_allclose(outside.clean(), seen.read(seen.conditional).clean(), atol=1e-5)
    np.testing.assert_allclose(outside.noise(), seen.conditional[..., :4], atol=1e-4)


def test_times_that_are_guided():
    guidance = TimeInterval(CFG(2.0), PLAN.times[4], PLAN.times[1])
    np.testing.assert_array_equal(np.flatnonzero(guidance.rows(PLAN).guided), [2, 3])


@pytest.mark.parametrize(
    ("whole", "real"),
    [
        (CFG(2), CFG(2.5)),
        (CFGPlusPlus(1), CFGPlusPlus(0.5)),
        (Rescaled(2, 1), Rescaled(2.5, 0.5)),
        (Residual(2, 1), Residual(2.5, 0.5)),
        (ResidualFromFirst(2, 1), ResidualFromFirst(2.5, 0.5)),
        (ZeroStar(2, np.int64(1)), ZeroStar(2.5, 1)),
        (Interval(CFG(2), 0, 1), Interval(CFG(2.5), 0.5, 1.0)),
        (TimeInterval(CFG(2), 0, 1), TimeInterval(CFG(2.5), 0.5, 1.0)),
    ],
)
def test_whole_strengths_run_the_program_of_real_ones(whole, real):
    assert [type(leaf) for leaf in jax.tree.leaves(whole)] == [type(leaf) for leaf in jax.tree.leaves(real)]


def test_zero_star_is_refused_where_no_flow_is_predicted():
    with pytest.raises(
        ValueError, match=r"guidance=ZeroStar\(...\) is for models that predict a flow, .*'epsilon'"
    ):
        guided(ZeroStar(2.0), outputs(kind=Prediction.EPSILON)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interval(Residual()), r"guidance must be one such as CFG\(4.0\), got Residual"),
        (lambda: CFG(float("nan")), "scale must be a finite number, got nan"),
        (lambda: CFG(2.0, channels=0), "channels must be a whole number >= 1 .*got 0"),
        (lambda: Rescaled(2.0, 1.5), "rescale must be a finite number >= 0 and <= 1, got 1.5"),
        (lambda: CFGPlusPlus(7.5), "scale must be a finite number >= 0 and <= 1, got 7.5"),
        (lambda: ZeroStar(2.0, -1), "zero_calls must be a whole number >= 0 .*got -1"),
        (lambda: Interval(CFG(2.0), 0.7, 0.2), "start must not lie behind stop, got 0.7 and 0.2"),
        (lambda: Interval(CFG(2.0), 0.7, 1.2), "stop must be a finite number >= 0 and <= 1, got 1.2"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
