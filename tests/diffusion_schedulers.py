"""Runs of samplers beside the schedulers of diffusers, on the same outputs of a model and the same noise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers import Sampler

SHAPE = (2, 3, 4, 3)  # canvases, channels last


# Its slopes are differences over a noise level, taken times a step that is thousands of times as long.
IN_FLOAT64 = ("HeunDiscreteScheduler",)


def assert_same_run(
    sampler: Sampler,
    scheduler: Any,
    steps: int,
    *,
    tokens: int = 0,
    outputs_shape: tuple[int, ...] = SHAPE,
    tolerance: float = 1e-5,
    step_arguments: dict[str, Any] | None = None,
) -> None:
    """That a sampler shows a model the same times and inputs as a scheduler, and gives the same canvases.

    `scheduler` has had its `set_timesteps` called. A canvas may differ by `tolerance` of the largest value
    that enters or leaves the step, since diffusers takes differences of values that large in float32. For the
    same reason the next step of both starts from diffusers' canvas; what samplers remember is their own.
    """
    draw = np.random.default_rng(steps)
    plan = sampler.plan(steps, tokens)
    times = scheduler.timesteps.numpy()[: plan.calls]  # SCM lists the end of the last step, too
    np.testing.assert_allclose(plan.times, times, rtol=2e-5, atol=2e-4)
    if hasattr(scheduler, "set_begin_index"):  # without it a run whose first two times agree skips a step
        scheduler.set_begin_index(0)
    np.testing.assert_allclose(plan.start, float(getattr(scheduler, "init_noise_sigma", 1.0)), rtol=1e-6)
    x = jnp.asarray(draw.normal(size=SHAPE) * plan.start, jnp.float32)
    wide = torch.float64 if type(scheduler).__name__ in IN_FLOAT64 else torch.float32
    theirs, memory = torch_canvas(x).to(wide), sampler.begin(x)
    for call in range(plan.calls):
        output = draw.normal(size=outputs_shape).astype(np.float32)
        noise = draw.normal(size=SHAPE).astype(np.float32)
        before, remembered, their_input = numpy_canvas(theirs), jax.tree.leaves(memory), theirs
        if hasattr(scheduler, "scale_model_input"):
            their_input = scheduler.scale_model_input(theirs, scheduler.timesteps[call])
        assert_near(x * np.float32(plan.input_scale[call]), numpy_canvas(their_input), tolerance)
        with drawn(scheduler, torch_canvas(noise)):
            theirs = scheduler.step(
                torch_canvas(output).to(wide),
                scheduler.timesteps[call],
                theirs,
                return_dict=False,
                **(step_arguments or {}),
            )[0]
        x, memory = one_step(sampler, plan, call, x, output, memory, noise)
        assert_near(x, numpy_canvas(theirs), tolerance, before, output, *remembered)
        x = jnp.asarray(numpy_canvas(theirs), jnp.float32)


def one_step(
    sampler: Sampler, plan: Any, call: int, x: Any, output: Any, memory: Any, noise: Any
) -> tuple[Any, Any]:
    """One update as a driver makes it: tables in float32, noise only where the plan draws."""
    row = jax.tree.map(lambda table: np.float32(table[call]), plan.rows)
    alpha, sigma = np.float32(plan.alpha[call]), np.float32(plan.sigma[call])
    predicted = Predicted(jnp.asarray(output), jnp.asarray(x), alpha, sigma, sampler.prediction)
    return sampler.step(predicted, row, memory, jnp.asarray(noise) if plan.draws else None)


@contextmanager
def drawn(scheduler: Any, noise: torch.Tensor) -> Iterator[None]:
    """Inside, this noise is what the scheduler draws."""
    module = sys.modules[type(scheduler).__module__]
    if not hasattr(module, "randn_tensor"):
        yield
        return
    with mock.patch.object(module, "randn_tensor", return_value=noise):
        yield


def torch_canvas(x: Any) -> torch.Tensor:
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


def numpy_canvas(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.numpy(), 1, -1)


def assert_near(ours: Any, theirs: Any, tolerance: float, *among: Any) -> None:
    """Equal within `tolerance` of the largest value in `theirs` and in `among`."""
    largest = max(np.abs(np.asarray(values)).max() for values in (theirs, *among))
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=tolerance * largest)
