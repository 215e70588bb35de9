"""Drawing continuous tokens, against the published loop on the host with the same draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.decoding.masked.gaussian import TIMES, cosine_steps
from jaxmodels.decoding.masked.latents import LatentSampler, draw, sample_latents
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS

VALUES = {
    "_class_name": "MAR", "img_size": 64, "vae_stride": 16, "patch_size": 1, "vae_embed_dim": 3,
    "encoder_embed_dim": 16, "encoder_depth": 1, "encoder_num_heads": 2, "decoder_embed_dim": 16,
    "decoder_depth": 1, "decoder_num_heads": 2, "class_num": 4, "buffer_size": 2, "diffloss_d": 1,
    "diffloss_w": 12,
}  # fmt: skip


@functools.cache
def model():
    config = TOKEN_IMAGE_MODELS.read(VALUES)
    return config, random_params(config.spec())


def test_counts_are_those_of_the_published_schedule():
    """256 tokens in 12 steps; the fixture of MaskGIT, and the rest in the last step."""
    expected = [256, 253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33, 0]
    assert LatentSampler(steps=12).counts(256) == expected
    assert LatentSampler(steps=16).counts(16)[-3:] == [2, 1, 0]  # a step draws one token at least


def test_tables_are_those_of_the_cosine_schedule():
    """The whole process by its definition, and a part of it by the ratios of what is kept."""
    betas = [
        min(1 - np.cos((i + 1 + 8) / 1008 * np.pi / 2) ** 2 / np.cos((i + 8) / 1008 * np.pi / 2) ** 2, 0.999)
        for i in range(TIMES)
    ]
    kept = np.cumprod(1 - np.array(betas))
    whole, part = cosine_steps(TIMES), cosine_steps(100)
    np.testing.assert_allclose(whole.signal**2, kept, rtol=1e-9)
    np.testing.assert_allclose(np.exp(whole.greatest), betas, rtol=1e-6)
    assert part.times[:3].tolist() == [0, 10, 20] and part.times[-1] == 999
    np.testing.assert_allclose(part.signal, whole.signal[part.times])
    assert part.least[0] == part.least[1]


def published_draw(z, without, noises, temperature, guidance, steps):
    """One diffusion of tokens as the published loop has it, in float64."""
    config, params = model()
    head = quick_jit(lambda x, t, z: config.head(params["head"], x, t, z))
    betas_kept = steps.signal**2
    x = noises[0]
    for number, i in enumerate(reversed(range(len(steps.times)))):
        before = betas_kept[i - 1] if i else 1.0
        beta = 1 - betas_kept[i] / before
        time = jnp.full(z.shape[:2], int(steps.times[i]))
        out, other = (
            np.asarray(head(jnp.asarray(x, jnp.float32), time, c), np.float64) for c in (z, without)
        )
        eps = other[..., :3] + guidance * (out[..., :3] - other[..., :3])
        share = (out[..., 3:] + 1) / 2
        log_variance = share * np.log(beta) + (1 - share) * steps.least[i]
        clean = x / np.sqrt(betas_kept[i]) - np.sqrt(1 / betas_kept[i] - 1) * eps
        mean = beta * np.sqrt(before) / (1 - betas_kept[i]) * clean
        mean = mean + (1 - before) * np.sqrt(1 - beta) / (1 - betas_kept[i]) * x
        x = mean + (i > 0) * np.exp(0.5 * log_variance) * temperature * noises[number + 1]
    return x


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("temperature", "guidance"), [(1.0, 1.0), (0.7, 2.5)])
def test_a_token_is_drawn_by_the_published_process(temperature, guidance):
    config, params = model()
    steps, size = cosine_steps(7), 5
    z, without = (
        jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).standard_normal((2, 2, size, 16))
    )
    keys = jax.random.split(jax.random.key(3), 2)
    noises = [
        np.stack([jax.random.normal(jax.random.fold_in(key, n), (size, 3)) for key in keys]) for n in range(8)
    ]
    ours = quick_jit(lambda *given: draw(config, params, *given))(
        [z, without], keys, steps, temperature, jnp.asarray(guidance)
    )
    np.testing.assert_allclose(
        ours, published_draw(z, without, noises, temperature, guidance, steps), atol=2e-4, rtol=1e-3
    )
    if guidance == 1.0:
        plain = quick_jit(lambda *given: draw(config, params, *given, None))([z], keys, steps, temperature)
        np.testing.assert_allclose(plain, ours, rtol=1e-4)


@pytest.mark.sweep
def test_images_follow_the_seed_the_row_and_the_class():
    config, params = model()
    sampler = LatentSampler(steps=4, head_steps=3, guidance=2.0)
    together = sample_latents(config, params, [1, 3], sampler, seed=5)
    assert together.shape == (2, 4, 4, 3) and np.isfinite(together).all()
    alone = sample_latents(config, params, 1, sampler, seed=5)
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)
    other = sample_latents(config, params, [1, 2], sampler, seed=5)
    assert np.abs(other[1] - together[1]).max() > 1e-3
    assert np.abs(sample_latents(config, params, [1, 3], sampler, seed=6) - together).max() > 1e-3


@pytest.mark.sweep
def test_without_noise_every_schedule_knows_its_tokens_when_it_reads_them():
    """One token per step, or all at once: each place is drawn, once."""
    config, params = model()
    for steps in (1, 16):
        latents = sample_latents(config, params, 0, LatentSampler(steps=steps, head_steps=2, temperature=0.0))
        assert (np.abs(latents) > 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_ids": 5}, "classes 0 to 3, and 4 for none, got 5"),
        ({"class_ids": [0.5]}, "class_ids must be whole numbers"),
        ({"class_ids": 0, "sampler": LatentSampler(steps=17)}, "steps=17 exceeds the 16 tokens"),
    ],
)
def test_what_the_model_lacks_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        sample_latents(*model(), **given)


@pytest.mark.parametrize(
    "arguments", [{"steps": 0}, {"head_steps": 0}, {"temperature": -1.0}, {"guidance": -1.0}]
)
def test_values_outside_their_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        LatentSampler(**arguments)
