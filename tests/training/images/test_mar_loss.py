"""MAR's loss against its parts in float64, and as something to descend on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_helpers import quick_jit, random_params
from scipy.stats import norm

from jaxmodels.decoding.masked.gaussian import TIMES, cosine_steps
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS
from jaxmodels.training.images.mar import (
    binned_log_likelihood,
    draw_unknown,
    gaussian_divergence,
    mar_loss,
    token_losses,
)

CONFIG = TOKEN_IMAGE_MODELS.read(
    {
        "_class_name": "MAR", "img_size": 64, "vae_stride": 16, "patch_size": 1, "vae_embed_dim": 3,
        "encoder_embed_dim": 16, "encoder_depth": 1, "encoder_num_heads": 2, "decoder_embed_dim": 16,
        "decoder_depth": 1, "decoder_num_heads": 2, "class_num": 4, "buffer_size": 2, "diffloss_d": 1,
        "diffloss_w": 12,
    }
)  # fmt: skip
RNG = np.random.default_rng(0)


def test_the_share_of_unknown_tokens_is_at_least_seven_tenths():
    for seed in range(20):
        unknown = np.asarray(draw_unknown(jax.random.key(seed), 3, 40))
        counts = unknown.sum(1)
        assert (counts == counts[0]).all() and 28 <= counts[0] <= 40
    assert (unknown[0] != unknown[1]).any()


def test_the_divergence_of_gaussians_is_their_mean_log_ratio():
    """By the trapezium rule."""
    mean, log_variance, other, other_log_variance = 0.3, -0.5, -0.2, 0.4
    x = np.linspace(-12, 12, 200_001)
    one, two = norm(mean, np.exp(0.5 * log_variance)), norm(other, np.exp(0.5 * other_log_variance))
    expected = np.trapezoid(one.pdf(x) * (one.logpdf(x) - two.logpdf(x)), x)
    ours = gaussian_divergence(*map(jnp.asarray, (mean, log_variance, other, other_log_variance)))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_likelihood_of_steps_sums_to_one():
    """The published process takes tanh for the error function: a few thousandths are lost."""
    levels = jnp.asarray(np.arange(256) / 127.5 - 1, jnp.float32)
    total = jnp.exp(binned_log_likelihood(levels, jnp.full(256, 0.2), jnp.full(256, -2.0))).sum()
    np.testing.assert_allclose(total, 1.0, atol=5e-3)
    exact = norm(0.2, np.exp(-2.0))
    middle = exact.cdf(levels[140] + 1 / 255) - exact.cdf(levels[140] - 1 / 255)
    ours = binned_log_likelihood(levels[140], jnp.asarray(0.2), jnp.asarray(-2.0))
    np.testing.assert_allclose(np.exp(ours), middle, rtol=2e-2)


def test_a_tokens_loss_is_its_error_and_its_bound():
    params = random_params(CONFIG.spec())
    tokens, noise = (RNG.standard_normal((2, 16, 3)).astype(np.float32) for _ in range(2))
    tokens = np.clip(tokens, -0.9, 0.9)
    z = RNG.standard_normal((2, 16, 16)).astype(np.float32)
    times = RNG.integers(1, TIMES, (2, 16))
    times[0, :12] = 0
    steps = cosine_steps(TIMES)
    signal, noisiness, least, greatest, to_clean, to_noisy = (
        getattr(steps, name)[times][..., None]
        for name in ("signal", "noise", "least", "greatest", "to_clean", "to_noisy")
    )
    noisy = signal * tokens + noisiness * noise
    made = np.asarray(
        quick_jit(CONFIG.head)(params["head"], *map(jnp.asarray, (noisy.astype(np.float32), times, z))),
        np.float64,
    )
    predicted, share = made[..., :3], (made[..., 3:] + 1) / 2
    log_variance = share * greatest + (1 - share) * least
    mean = to_clean * (noisy - noisiness * predicted) / signal + to_noisy * noisy
    true_mean = to_clean * tokens + to_noisy * noisy
    apart = (true_mean - mean) ** 2 / np.exp(log_variance)
    divergence = 0.5 * (log_variance - least + np.exp(least - log_variance) + apart - 1)
    first = -np.asarray(
        quick_jit(binned_log_likelihood)(tokens, *(a.astype(np.float32) for a in (mean, 0.5 * log_variance)))
    )
    bound = np.where(times == 0, first.mean(-1), divergence.mean(-1)) / np.log(2)
    expected = ((noise - predicted) ** 2).mean(-1) + bound
    ours = quick_jit(lambda *given: token_losses(CONFIG, params, *given))(
        *map(jnp.asarray, (tokens, z, times, noise))
    )
    # Far out the likelihood is a difference of two float32 numbers near 0 or 1.
    sound = (times > 0) | (first.max(-1) < 8)
    assert (sound & (times == 0)).any()
    np.testing.assert_allclose(np.asarray(ours)[sound], expected[sound], rtol=5e-3, atol=1e-3)


@pytest.mark.sweep
def test_descending_on_it_fits_an_image():
    """A constant image: what there is to learn is its tokens, and how sure to be of them."""
    params = random_params(CONFIG.spec())
    tokens = jnp.broadcast_to(jnp.asarray([0.5, -0.3, 0.1]), (4, 16, 3))
    classes, optimizer = jnp.zeros(4, jnp.int32), optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        loss, grads = jax.value_and_grad(lambda p: mar_loss(CONFIG, p, tokens, classes, key))(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for i in range(60):
        params, state, loss = step(params, state, jax.random.key(i))
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
