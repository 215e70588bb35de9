"""Images drawn scale by scale, against a torch loop over the published tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import published_next_scale as published
import pytest
import torch
from model_helpers import quick_jit
from next_scale_models import MVAR, SIDES, VAR, as_torch, codes_model, scale_model
from next_scale_models import published as tensors_of

from jaxmodels.checkpoints.diffusers import save_autoencoder, save_next_scale_model
from jaxmodels.decoding.next_scale import NextScale, begin, draw, draw_scale
from jaxmodels.decoding.samplers import Greedy, Sample
from jaxmodels.layers.spec import abstract_params

CLASSES = jnp.array([3, 0, 4])


@pytest.fixture(scope="module")
def models():
    (model, params), (autoencoder, codes) = scale_model(depth=1), codes_model(1)
    return params, codes, {"model": model, "autoencoder": autoencoder}


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(0), 3)


@pytest.mark.sweep
@pytest.mark.parametrize("layout", [VAR, MVAR], ids=["VAR", "MVAR"])
def test_guided_codes_are_those_of_the_published_loop(models, layout, keys, tmp_path):
    _, codes_params, parts = models
    model, params = scale_model(published=layout, depth=1)
    parts = parts | {"model": model}
    rule = NextScale(sampler=Greedy(), guidance=1.7)
    codes, pixels, _ = draw(params, codes_params, CLASSES, keys, rule, **parts)

    state = tensors_of(save_next_scale_model, model, params, tmp_path / "var")
    codes_state = tensors_of(save_autoencoder, parts["autoencoder"], codes_params, tmp_path / "vae")
    classes = torch.tensor(np.asarray(CLASSES))
    heads = model.blocks[0].mixer.num_heads
    expected, latents = published.drawn(state, codes_state, SIDES, heads, classes, 1.7)
    np.testing.assert_array_equal(codes, expected.numpy())
    decode = quick_jit(parts["autoencoder"].decode)
    decoded = np.asarray(decode(codes_params, latents.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(pixels, np.clip(decoded / 2 + 0.5, 0, 1), atol=1e-5)
    assert as_torch(pixels).shape == (3, 1, 8, 8)


def test_a_guidance_of_0_is_none(models, keys):
    params, codes_params, parts = models
    plain = draw(params, codes_params, CLASSES, keys, NextScale(sampler=Greedy()), **parts)
    guided = draw(params, codes_params, CLASSES, keys, NextScale(sampler=Greedy(), guidance=0.0), **parts)
    np.testing.assert_array_equal(plain[0], guided[0])


def test_scales_drawn_one_by_one_are_those_of_one_program(models, keys):
    params, codes_params, parts = models
    rule = NextScale(sampler=Greedy(), guidance=1.7)
    expected, *_ = draw(params, codes_params, CLASSES, keys, rule, **parts)
    drawing, codes = begin(params, CLASSES, keys, rule, **parts), []
    for scale in range(4):
        drawing, drawn = draw_scale(params, codes_params, drawing, rule, **parts, scale=scale)
        codes.append(drawn)
    np.testing.assert_array_equal(jnp.concatenate(codes, 1), expected)


@pytest.mark.sweep
def test_an_image_goes_by_its_own_key_and_class(models, keys):
    params, codes_params, parts = models
    rule = NextScale(sampler=Sample(top_k=5, top_p=0.9))
    together, *_ = draw(params, codes_params, CLASSES, keys, rule, **parts)
    alone, *_ = draw(params, codes_params, CLASSES[1:2], keys[1:2], rule, **parts)
    np.testing.assert_array_equal(together[1:2], alone)
    assert len({tuple(row) for row in np.asarray(together).tolist()}) == 3


def test_another_class_guidance_and_seed_compile_nothing(models, keys):
    params, codes_params, parts = models
    draw(params, codes_params, CLASSES, keys, NextScale(sampler=Greedy(), guidance=1.7), **parts)
    before = draw.count()
    other = NextScale(sampler=Greedy(), guidance=2)
    draw(params, codes_params, CLASSES[::-1], keys[::-1], other, **parts)
    assert draw.count() == before


@pytest.mark.sweep
def test_all_scales_of_the_published_size_are_one_program_without_a_host():
    model, _ = scale_model(patch_nums=[1, 2, 3, 4, 5, 6, 8, 10, 13, 16], depth=1)
    autoencoder, _ = codes_model(v_patch_nums=list(model.sides))
    abstract = [abstract_params(one.spec()) for one in (model, autoencoder)]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    lowered = draw.lower(
        *abstract,
        jax.ShapeDtypeStruct((2,), jnp.int32),
        keys,
        NextScale(guidance=1.5),
        model=model,
        autoencoder=autoencoder,
    )
    codes, pixels, _ = lowered.out_info
    assert codes.shape == (2, 680)
    assert pixels.shape == (2, 32, 32, 1)
    assert "callback" not in lowered.as_text()


def test_a_negative_guidance_is_refused():
    with pytest.raises(ValueError, match="guidance must be a finite number >= 0, got -1"):
        NextScale(guidance=-1)
