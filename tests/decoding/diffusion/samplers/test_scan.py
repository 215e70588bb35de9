"""Every sampler as the body of a scan: what it remembers keeps its form, and a run is that of single
steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_schedulers import SHAPE, one_step

from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    DDPM,
    DPMPP,
    EDMDPMPP,
    LCM,
    SCM,
    TCD,
    DualFast,
    EDMEuler,
    Euler,
    FlowEuler,
    FlowHeun,
    FlowMapEuler,
    Heun,
    PeRFlow,
    PiFlowGrid,
    PiFlowMixture,
    Sampler,
    UniPC,
)

SAMPLERS = [
    DDIM(), DDPM(), DPMPP(), DPMPP(order=3, fresh_noise=True), EDMDPMPP(), LCM(), SCM(), TCD(), EDMEuler(),
    DualFast(within=UniPC()), Euler(), FlowEuler(), FlowHeun(), FlowMapEuler(), Heun(), PeRFlow(),
    PiFlowGrid(points=2), PiFlowMixture(components=2), UniPC(order=3),
]  # fmt: skip
CHANNELS = {PiFlowGrid: 2 * SHAPE[3], PiFlowMixture: 2 * SHAPE[3] + 3}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: type(one).__name__)
def test_a_scan_is_a_run_of_single_steps(sampler: Sampler) -> None:
    draw, plan = np.random.default_rng(0), sampler.plan(5)
    start = (draw.normal(size=SHAPE) * plan.start).astype(np.float32)
    noises = draw.normal(size=(plan.calls, *SHAPE)).astype(np.float32)
    outputs = draw.normal(size=(plan.calls, *SHAPE[:3], CHANNELS.get(type(sampler), SHAPE[3])))
    outputs = outputs.astype(np.float32)

    def one(carry: Any, row: Any) -> tuple[Any, Any]:
        x, memory = carry
        alpha, sigma, rows, output, noise = row
        predicted = Predicted(output, x, alpha, sigma, sampler.prediction)
        x, memory = sampler.step(predicted, rows, memory, noise if plan.draws else None)
        return (x, memory), x

    def narrow(table: Any) -> Any:
        return jnp.asarray(table, jnp.float32)

    tables = jax.tree.map(narrow, (plan.alpha, plan.sigma, plan.rows, outputs, noises))
    canvases = jax.lax.scan(one, (jnp.asarray(start), sampler.begin(jnp.asarray(start))), tables)[1]
    assert canvases.dtype == jnp.float32
    x, memory = jnp.asarray(start), sampler.begin(jnp.asarray(start))
    for call in range(plan.calls):
        x, memory = one_step(sampler, plan, call, x, outputs[call], memory, noises[call])
        np.testing.assert_allclose(canvases[call], x, rtol=1e-4, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: type(one).__name__)
def test_a_sampler_is_hashable(sampler: Sampler) -> None:
    assert hash(sampler) == hash(sampler)
    assert {sampler: 1}[sampler] == 1
