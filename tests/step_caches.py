"""Runs of caches of denoising steps over given canvases, and the same in `diffusers` with its hooks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from denoiser_models import CONFIGS, condition_of
from model_helpers import quick_jit, random_params

from jaxmodels.decoding.diffusion.caches.cache import NoCache, Step
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.families import denoiser_from_config


def plan_at(times, sigma=None):
    """The plan of a run whose model is shown these times; of a flow where it is told no levels of noise."""
    times = np.asarray(times, np.float64)
    sigma = times / max(1.0, times.max()) if sigma is None else np.asarray(sigma, np.float64)
    ones = np.ones(len(times))
    return Plan(times=times, input_scale=ones, alpha=1 - sigma, sigma=sigma, rows=None, start=ones[0])


def canvases(steps, batch=2, height=8, width=8, channels=4, drift=0.15, seed=0):
    """f32[N, B, H, W, C], canvases that change little by little, now more and now less."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, height, width, channels))
    changes = [
        drift * (0.2 + rng.random() ** 2) * rng.standard_normal(x.shape) if i else np.zeros(x.shape)
        for i in range(steps)
    ]
    return (x + np.cumsum(changes, axis=0)).astype(np.float32)


@functools.partial(quick_jit, static_argnames=("config",))
def _scan(config, params, cache, xs, times, condition, rows):
    given = config.read(params, condition)
    batch = xs.shape[1]

    def step_at(x, time):
        made = config.conditions(params, jnp.full(batch, time), given)
        return Step(params=params, x=x, given=given, made=made, denoiser=config)

    def body(state, now):
        x, time, row = now
        prediction, state, blocks = cache.denoise(step_at(x, time), row, state)
        return state, (prediction, blocks)

    state = cache.begin(step_at(xs[0], times[0]))
    return jax.lax.scan(body, state, (xs, times, rows))


def run(cache, config, params, xs, plan, condition):
    """(predictions [N, B, H, W, C], blocks computed [N], what is kept at the end)"""
    rows = cache.rows(config, plan)
    times = jnp.asarray(plan.times, jnp.float32)
    state, (predictions, blocks) = _scan(config, params, cache, jnp.asarray(xs), times, condition, rows)
    return np.asarray(predictions), np.asarray(blocks), state


def programs():
    """How many programs `run` has compiled."""
    return _scan._cache_size()


def tiny(name, **changes):
    """(config, params, condition of two rows) of a family, see `denoiser_models`."""
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name], **changes})
    return config, random_params(config.spec()), condition_of(name)


def full(config, params, xs, plan, condition):
    """Predictions of all steps, computed."""
    return run(NoCache(), config, params, xs, plan, condition)[0]
