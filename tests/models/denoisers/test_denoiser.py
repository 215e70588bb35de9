"""The stages of every denoiser: what they compose to, and the hook inside their blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoiser_models import CONFIGS, condition_of, times_of
from model_helpers import quick_jit, random_params

from jaxmodels.models.denoisers.families import denoiser_from_config


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    """(a denoiser, its parameters, canvases, times, what it is conditioned on)"""
    config = denoiser_from_config({"_class_name": request.param, **CONFIGS[request.param]})
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, config.projections.in_channels))
    return (
        config,
        random_params(config.spec()),
        x,
        times_of(request.param, 0.3, 0.9),
        condition_of(request.param),
    )


def in_two_runs(config, params, x, times, condition, step):
    """The prediction of one of several steps, whose conditions are made at once, by two runs of blocks."""
    given = config.read(params, condition)
    made = jax.vmap(lambda t: config.conditions(params, t, given))(times)
    made = jax.tree.map(lambda leaf: leaf[step], made)
    streams, middle = config.embed(params, x, given), config.num_blocks // 2
    streams = config.run(params, streams, made, given, range(middle))
    streams = config.run(params, streams, made, given, range(middle, config.num_blocks))
    return config.finish(params, streams, made, *x.shape[1:3])


@pytest.mark.wide(every_run=2)
def test_the_stages_compose_to_a_step(case):
    config, params, x, t, condition = case
    whole = quick_jit(config.denoise)(params, x, t, condition).prediction
    times = jnp.stack([t + 5, t, t - 0.1])
    parts = quick_jit(in_two_runs, static_argnums=(0, 5))(config, params, x, times, condition, 1)
    np.testing.assert_allclose(parts, whole, atol=2e-5 * np.abs(whole).max())


@pytest.mark.wide(every_run=2)
def test_the_hook_sees_each_part_once_in_order_and_its_value_counts(case):
    config, params, x, t, condition = case

    def prediction(modules):
        given = config.read(params, condition)
        made = config.conditions(params, t, given)
        streams = config.embed(params, x, given)
        streams = config.run(params, streams, made, given, range(config.num_blocks), modules)
        return config.finish(params, streams, made, *x.shape[1:3])

    def recorded():
        kept = {}

        def record(name, compute):
            names.append(name)
            kept[name] = compute()
            return kept[name]

        return prediction(record), kept

    names = []
    whole, kept = quick_jit(recorded)()
    assert tuple(names) == config.module_names()
    given = quick_jit(lambda kept: prediction(lambda name, compute: kept[name]))
    np.testing.assert_allclose(given(kept), whole, atol=2e-5 * np.abs(whole).max())

    @quick_jit
    def multiplied(factors):
        by_name = dict(zip(names, factors, strict=True))
        return prediction(lambda name, compute: jax.tree.map(lambda leaf: by_name[name] * leaf, compute()))

    for i, name in enumerate(names):
        assert np.abs(multiplied(jnp.ones(len(names)).at[i].set(2)) - whole).max() > 1e-3, name
