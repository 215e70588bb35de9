"""Diffusion models: what they draw at once and step by step, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoiser_models import condition_of
from diffusion_models import AUTOENCODER, denoiser_of, dit_model

import jaxmodels as jm
from jaxmodels.decoding.diffusion import driver
from jaxmodels.decoding.diffusion.caches.step_mask import StepMask
from jaxmodels.decoding.diffusion.guidance import CFG, Interval
from jaxmodels.decoding.diffusion.noise import Injected
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import DDIM, Euler
from jaxmodels.image_models.conditions import GivenTexts
from jaxmodels.image_models.diffusion import Habits


@pytest.fixture(scope="module")
def model():
    return dit_model()


def test_images_are_those_of_their_latents(model):
    made = model.generate([3, 0, 9], seed=1)
    assert isinstance(model, jm.ImageModel) and model.size == 16
    assert made.pixels.shape == (3, 16, 16, 3) and made.latents.shape == (3, 8, 8, 4)
    assert made.pixels.min() >= 0 and made.pixels.max() <= 1 and made.calls == 4
    assert made.blocks.tolist() == [2, 2, 2, 2]
    np.testing.assert_allclose(model.pixels(made.latents), made.pixels, atol=1e-6)


def test_an_image_depends_on_its_seed_its_place_and_its_class_alone(model):
    first = model.generate([3, 0, 9], seed=1).latents
    np.testing.assert_allclose(model.generate([3, 1, 9], seed=1).latents[::2], first[::2], atol=1e-4)
    others = model.generate([3, 0, 9], seed=2).latents
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(first, others, strict=True))
    np.testing.assert_allclose(model.generate(3, seed=1).latents, first[:1], atol=1e-4)


def test_calls_end_in_the_images_that_are_drawn_at_once(model):
    whole = model.generate([2, 7], seed=3)
    stages = list(model.stream([2, 7], seed=3))
    assert [made.calls for made in stages] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(stages[-1].latents, whole.latents, atol=1e-4)
    noise = np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32)
    first = next(model.stream([2, 7], noise=Injected(noise)))
    np.testing.assert_array_equal(first.latents, noise)
    told = []
    again = model.generate([2, 7], seed=3, progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(again.latents, stages[-1].latents)


def test_other_classes_seeds_and_strengths_compile_nothing(model):
    model.generate([1, 2], guidance=2.0)
    before = driver.whole_run.count()
    model.generate([9, 0], guidance=5.0, seed=8, negative=[3, 3])
    model.generate([9, 0], guidance=5.0, seed=8, negative=4)
    assert driver.whole_run.count() == before


def test_guidance_leads_away_from_no_class_or_from_another(model):
    def latents(**options):
        return model.generate([4, 5], seed=1, **options).latents

    plain = latents(guidance=1)
    np.testing.assert_allclose(latents(guidance=CFG(1.0)), plain, atol=1e-3)
    assert np.abs(latents(guidance=3.0) - plain).max() > 1e-2
    np.testing.assert_allclose(latents(guidance=3.0), latents(), atol=1e-4)
    np.testing.assert_allclose(latents(guidance=CFG(3.0)), latents(), atol=1e-4)
    assert np.abs(latents(guidance=3.0, negative=7) - latents()).max() > 1e-3
    np.testing.assert_allclose(latents(negative=[4, 5]), plain, atol=1e-3)
    assert np.abs(latents(guidance=Interval(CFG(3.0), 0.5, 1.0)) - latents()).max() > 1e-3


def test_canvases_may_be_the_images(model):
    pixels = dit_model(autoencoder=None)
    made = pixels.generate(3)
    assert made.pixels.shape == (1, 8, 8, 4) and pixels.size == 8
    np.testing.assert_allclose(made.pixels, np.clip(made.latents / 2 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.sweep
def test_caches_and_samplers_go_by_their_names(model):
    every_second = model.generate([3, 4], cache=StepMask([1, 0, 1, 0]))
    assert every_second.blocks.tolist() == [2, 0, 2, 0]
    assert model.generate([3, 4], cache="fora").blocks.sum() < 8
    ratios = np.array([1.0, 1.001, 0.999, 1.001, 1.0, 1.0, 1.0, 1.0], np.float32)
    calibrated = dataclasses.replace(model, calibrations={"magcache": ratios})
    assert calibrated.generate([3, 4], steps=6, cache="magcache").blocks.min() == 0
    with pytest.raises(ValueError, match="cache 'magcache' goes by a calibration, and the model has none"):
        model.generate([3, 4], cache="magcache")
    with pytest.raises(ValueError, match="cache 'mag' is not known; the caches are: none, cache-dit, "):
        model.generate([3, 4], cache="mag")


def test_a_model_is_told_a_strength_that_it_imitates():
    denoiser, params = denoiser_of("FluxTransformer2DModel", guidance_embeds=True)
    model = dit_model(
        autoencoder=None,
        denoiser=denoiser,
        params=params,
        conditions=GivenTexts(tells_strength=True),
        habits=Habits(steps=2, guidance=3.5, tells_strength=True, time_scale=1e-3),
    )
    text = condition_of("FluxTransformer2DModel")
    usual, other = model.generate(text), model.generate(text, guidance=9.0)
    assert np.abs(usual.latents - other.latents).max() > 1e-6
    np.testing.assert_array_equal(model.generate(text, guidance=3.5).latents, usual.latents)
    assert model.adapted.denoiser is denoiser


def test_seeds_are_as_long_as_those_of_other_models(model):
    far = model.generate(3, seed=2**31).pixels
    assert np.abs(far - model.generate(3, seed=0).pixels).max() > 0.01
    assert np.isfinite(model.generate(3, seed=2**63 - 1).pixels).all()
    with pytest.raises(ValueError, match="seed must be a whole number >= 0 and <= 9223372036854775807"):
        model.generate(3, seed=2**63)


def test_latents_that_are_not_finite_stop_with_the_step(model):
    params = jax.tree.map(lambda leaf: leaf, model.params)
    params["blocks"]["1"]["modulation"] = {
        name: leaf * jnp.nan for name, leaf in params["blocks"]["1"]["modulation"].items()
    }
    with pytest.raises(ValueError, match="latents are not finite behind call 1 of 4 of the model"):
        dataclasses.replace(model, params=params).generate(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"asked": 10}, r"class_ids\[0\] is 10: the model has the classes 0 to 9"),
        ({"asked": "a cat"}, "the model draws classes, 0 to 9, and takes no prompt, got 'a cat'"),
        ({"size": 18}, "size=18 x 18: height and width must be multiples of 4, the pixels of a patch"),
        ({"size": (16, 32)}, "the model takes square canvases, got 8 x 16"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"steps": 1001}, "steps must be a whole number .* got 1001"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"guidance": "strong"}, "guidance must be a number, got 'strong'"),
        ({"guidance": np.nan}, "guidance must be a finite number"),
        ({"guidance": 1.0, "negative": 3}, "negative=3 is what guidance leads away from"),
        ({"negative": [1, 2]}, r"negative must be one for all images or one for each"),
        ({"negative": 11}, r"class_ids\[0\] is 11"),
        (
            {"sampler": DDIM(prediction=Prediction.V)},
            "the sampler takes predictions for 'v_prediction', and those of the model are 'epsilon'",
        ),
        ({"sampler": 3}, "sampler must"),
        ({"sampler": "dpm"}, "sampler 'dpm' is not known; the samplers are: "),
        ({"cache": StepMask([1, 0])}, "compute: the mask .* 2 .* 4"),
        (
            {"noise": Injected(np.zeros((2, 8, 8, 4)))},
            r"noise: expected \[1, 8, 8, 4\] .* got \[2, 8, 8, 4\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(options.get("asked", 3), **{k: v for k, v in options.items() if k != "asked"})


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="latents have 5 channels, and the denoiser works on 4"):
        dit_model(autoencoder={**AUTOENCODER, "latent_channels": 5})


def test_other_samplers_start_from_their_own_noise_level(model):
    first = next(model.stream(3, sampler=Euler(), seed=1))
    assert first.latents.std() < 2
    assert np.isfinite(model.generate(3, sampler=Euler(), seed=1).latents).all()
