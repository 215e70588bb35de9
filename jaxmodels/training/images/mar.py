"""The loss that MAR is trained with: a diffusion of each unknown token, under what is said of its place."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.masked.gaussian import TIMES, GaussianSteps, cosine_steps
from jaxmodels.layers.spec import Params
from jaxmodels.models.token_images.mar import MAR

# Of the published run: shares of unknown tokens, images without their class, times drawn for each token.
LEAST_UNKNOWN, SPREAD, DROPPED, TIMES_PER_TOKEN = 0.7, 0.25, 0.1, 4
# Latents are taken to be numbers in steps of 2 / 255 between -1 and 1, as the pixels of the process's origin.
_HALF_STEP = 1 / 255


def mar_loss(
    config: MAR, params: Params, tokens: Float[Array, "B S C"], classes: Int[Array, "B"], key: Array
) -> Float[Array, ""]:
    """The mean over unknown tokens of the squared error of their noise and a bound on their variance.

    One share of unknown tokens is drawn for the batch, from the upper half of a Gaussian around 1 that begins
    at 0.7, and an order for each image; a tenth of the images lose their class. Each token is diffused to
    four times. The bound, in bits, trains the variances alone: the prediction of the noise is held in it.
    Source: Li et al. 2024 (MAR, https://arxiv.org/abs/2406.11838), its code, and Nichol and Dhariwal 2021.
    """
    keys = jax.random.split(key, 4)
    batch, places = tokens.shape[:2]
    unknown = draw_unknown(keys[0], batch, places)
    dropped = jax.random.bernoulli(keys[1], DROPPED, (batch,))
    classes = jnp.where(dropped, config.num_classes, classes)
    z = config.features(params, tokens, ~unknown, classes)
    tokens, z = (jnp.tile(a, (TIMES_PER_TOKEN, 1, 1)) for a in (tokens, z))
    times = jax.random.randint(keys[2], tokens.shape[:2], 0, TIMES)
    noise = jax.random.normal(keys[3], tokens.shape)
    each = token_losses(config, params, tokens, z, times, noise)
    counted = jnp.tile(unknown, (TIMES_PER_TOKEN, 1))
    return (each * counted).sum() / counted.sum()


def draw_unknown(key: Array, batch: int, places: int) -> Bool[Array, "B S"]:
    """Which tokens of each image are unknown: as many in all of them."""
    keys = jax.random.split(key, batch + 1)
    share = 1 + SPREAD * jax.random.truncated_normal(keys[0], (LEAST_UNKNOWN - 1) / SPREAD, 0.0)
    count = jnp.ceil(places * share)
    order = jax.vmap(lambda row: jax.random.permutation(row, places))(keys[1:])
    return order < count


def token_losses(
    config: MAR,
    params: Params,
    tokens: Float[Array, "B S C"],
    z: Float[Array, "B S D"],
    times: Int[Array, "B S"],
    noise: Float[Array, "B S C"],
) -> Float[Array, "B S"]:
    """Of tokens that are diffused to `times` with `noise`, where `z` speaks of their places."""
    tables: GaussianSteps = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), cosine_steps(TIMES))
    at: Any = jax.tree.map(lambda a: a[times][..., None], tables)
    noisy = at.signal * tokens + at.noise * noise
    made = config.head(params["head"], noisy, times, z).astype(jnp.float32)
    predicted, share = made[..., : config.head.channels], (made[..., config.head.channels :] + 1) / 2
    log_variance = share * at.greatest + (1 - share) * at.least
    held = jax.lax.stop_gradient(predicted)
    mean = at.to_clean * (noisy - at.noise * held) / at.signal + at.to_noisy * noisy
    true_mean = at.to_clean * tokens + at.to_noisy * noisy
    behind = gaussian_divergence(true_mean, at.least, mean, log_variance).mean(-1)
    first = -binned_log_likelihood(tokens, mean, 0.5 * log_variance).mean(-1)
    bound = jnp.where(times == 0, first, behind) / np.log(2)
    return ((noise - predicted) ** 2).mean(-1) + bound


def gaussian_divergence(mean: Array, log_variance: Array, other: Array, other_log_variance: Array) -> Array:
    """The Kullback-Leibler divergence of a Gaussian from another, in nats."""
    spread = jnp.exp(log_variance - other_log_variance)
    distance = (mean - other) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance + spread + distance - 1)


def binned_log_likelihood(x: Array, mean: Array, log_scale: Array) -> Array:
    """The logarithm of what a Gaussian gives to the step of 2 / 255 around `x`; the outermost have no end."""

    def below(edge: Array) -> Array:
        scaled = (x - mean + edge) * jnp.exp(-log_scale)
        return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (scaled + 0.044715 * scaled**3)))

    upper, lower = below(jnp.asarray(_HALF_STEP)), below(jnp.asarray(-_HALF_STEP))
    inside = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(inside, 1e-12))
