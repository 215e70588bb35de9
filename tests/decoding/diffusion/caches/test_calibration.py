"""Calibrations: ratios as `diffusers` measures them, masks of encoders, and the file that keeps both."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from diffusers.hooks import MagCacheConfig
from model_helpers import quick_jit
from step_caches import FluxPair, GivenCanvases, canvases, plan_at, tiny

from jaxmodels.decoding.diffusion.caches.calibration import encoder_mask, magcache_ratios
from jaxmodels.decoding.diffusion.caches.calibration_file import FILE, read_calibrations, write_calibrations
from jaxmodels.decoding.diffusion.caches.encoder_sharing import ENCODER, sharing_mask, similarities
from jaxmodels.decoding.diffusion.driver import Asked, Denoise
from jaxmodels.decoding.diffusion.noise import Injected


def along(times, xs):
    """A run over given canvases, and its noise."""
    return Denoise(sampler=GivenCanvases(times, xs), steps=len(xs)), Injected(xs[0])


def test_ratios_are_those_of_diffusers(tmp_path, capsys):
    pair = FluxPair(tmp_path, steps=6)
    pair.of_diffusers(MagCacheConfig(calibrate=True, num_inference_steps=6))
    wanted = json.loads(re.search(r"\[[\d., ]+\]", capsys.readouterr().out).group())
    policy, noise = along(pair.plan.times, pair.xs)
    ratios = magcache_ratios(policy, pair.config, pair.params, Asked(noise, pair.text))
    np.testing.assert_allclose(ratios, wanted, rtol=1e-5)
    assert np.ptp(ratios) > 0.01


def test_the_encoder_runs_where_it_finds_something_else():
    config, params, classes = tiny("DDT")
    xs, plan = canvases(6), plan_at(np.linspace(0, 0.9, 6))
    policy, noise = along(plan.times, xs)
    mask = encoder_mask(policy, config, params, Asked(noise, classes), computed=3)

    @quick_jit
    def encoded(x, t):
        outputs = {}

        def record(name, compute):
            outputs[name] = compute()
            return outputs[name]

        given = config.read(params, classes)
        made = config.conditions(params, jnp.full(2, t, jnp.float32), given)
        config.run(params, config.embed(params, x, given), made, given, range(2), record)
        return outputs[ENCODER]

    outputs = [np.asarray(encoded(x, np.float32(t))) for x, t in zip(xs, plan.times, strict=True)]
    found = [output.reshape(-1, output.shape[-1]) for output in outputs]
    np.testing.assert_array_equal(mask, sharing_mask(similarities(np.stack(found)), 3))


def test_a_model_without_an_encoder_has_none_to_share():
    config, params, classes = tiny("DiT")
    policy, noise = along(np.ones(2), canvases(2))
    with pytest.raises(ValueError, match="an encoder can be shared in a DDT, but the model is a DiT"):
        encoder_mask(policy, config, params, Asked(noise, classes), computed=1)


def test_calibrations_are_read_as_they_were_written(tmp_path):
    assert read_calibrations(tmp_path) == {}
    rng = np.random.default_rng(0)
    given = {
        "magcache": rng.random(7).astype(np.float32),
        "harmonica": rng.standard_normal((7, 4)).astype(np.float32),
        "encoder-sharing": rng.random(7) < 0.5,
    }
    for name, calibration in given.items():  # one by one: others stay
        write_calibrations(tmp_path, {name: calibration})
    again = read_calibrations(tmp_path)
    assert again.keys() == given.keys()
    for name, calibration in given.items():
        np.testing.assert_array_equal(again[name], calibration)
        assert again[name].dtype == calibration.dtype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", r"expected an object of calibrations, got \[1\]"),
        ('{"magcash": [1]}', "'magcash' is no calibration; there are magcache, harmonica, encoder-sharing"),
        ('{"magcache": [[1]]}', r"'magcache' must be a ratio > 0 for each step, got \[\[1\]\]"),
        ('{"harmonica": [[1, 2], [3]]}', "'harmonica' must be a logit for each step and part"),
        ('{"magcache": [1, "2"]}', "'magcache' must be a ratio"),
        ('{"encoder-sharing": [1, 0]}', "'encoder-sharing' must be true or false for each step"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_calibrations(tmp_path)
