"""`LatentSampler`: masked generation of continuous tokens, which a diffusion head draws."""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.arguments import MOST_SEEDS
from jaxmodels.decoding.masked.gaussian import GaussianSteps, cosine_steps
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.samplers import check_number
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.token_images.mar import MAR
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class LatentSampler:
    """Draws an image's tokens in a random order, ever more of them per step, as `MaskGIT` does with codes.

    Each step reads the tokens that are known, and draws those that come next in the order: by a diffusion of
    their own, all at once, under what the network says of their places. Source: Li et al. 2024 (MAR,
    https://arxiv.org/abs/2406.11838), ``sample_tokens``; its evaluation takes 256 steps and guidances of 2.9,
    3.0 and 3.2 for the three sizes.

    Attributes:
        steps: readings of the image, at most one per token.
        head_steps: steps of each token's diffusion.
        temperature: multiplies the noise that these add.
        guidance: how far predictions of noise are pushed away from those without a class; it grows from 1 to
            this as tokens become known. None: not at all, which saves half of the work.

    Raises:
        ValueError: a value outside its range.
    """

    steps: int = 64
    head_steps: int = 100
    temperature: float = 1.0
    guidance: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "head_steps"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        check_number("temperature", self.temperature, low=0.0)
        if self.guidance is not None:
            check_number("guidance", self.guidance, low=0.0)

    def counts(self, places: int) -> list[int]:
        """How many of an image's tokens are unknown before the first step and behind each of them."""
        unknown = [places]
        for step in range(1, self.steps):
            wanted = int(np.floor(places * np.cos(np.pi / 2 * step / self.steps)))
            unknown.append(max(1, min(unknown[-1] - 1, wanted)))
        return [*unknown, 0]


def sample_latents(
    config: MAR, params: Params, class_ids: ArrayLike, sampler: LatentSampler = LatentSampler(), seed: int = 0
) -> Float[Array, "B H W E"]:
    """The latents of an image of each class, channels last, as one compiled program; an autoencoder makes
    pixels of them.

    Args:
        class_ids: int[B], from 0; `config.num_classes` for no class.
        sampler: how.
        seed: of the order, and of all draws. Rows are independent.

    Raises:
        ValueError: a class that the model does not have, more steps than tokens, parameters that are not the
            model's.
    """
    check_params(config.spec(), params)
    classes = np.atleast_1d(np.asarray(class_ids))
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer) or not classes.size:
        raise ValueError(f"class_ids must be whole numbers, one or several, got {shown(class_ids)}")
    for each in classes.tolist():
        if not 0 <= each <= config.num_classes:
            raise ValueError(
                f"class_ids: the model has classes 0 to {config.num_classes - 1}, and {config.num_classes} "
                f"for none, got {each}"
            )
    if sampler.steps > config.places:
        raise ValueError(
            f"steps={sampler.steps} exceeds the {config.places} tokens of an image, of which a step draws at "
            "least one"
        )
    key = jax.random.key(whole("seed", seed, high=MOST_SEEDS))
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(classes.size))
    tokens = _sample(params, jnp.asarray(classes, jnp.int32), keys, sampler, config=config)
    return config.to_latents(tokens)


@bounded_jit(static_argnames=("config",))
def _sample(
    params: Params, classes: Int[Array, "B"], keys: Array, sampler: LatentSampler, *, config: MAR
) -> Float[Array, "B S C"]:
    batch, places, channels = classes.shape[0], config.places, config.head.channels
    unknown = sampler.counts(places)
    most = max(before - behind for before, behind in itertools.pairwise(unknown))
    counts = jnp.asarray(unknown, jnp.int32)
    order = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, 0), places))(keys)
    rank = jnp.argsort(order, axis=1)  # the tokens with the highest ranks are drawn first
    steps = cosine_steps(sampler.head_steps)
    rows = jnp.arange(batch)[:, None]

    def step(index: Array, tokens: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
        before, behind = counts[index], counts[index + 1]
        known = rank >= before
        at = behind + jnp.arange(most)
        drawn = jnp.broadcast_to(at < before, (batch, most))
        at = jnp.take_along_axis(order, jnp.broadcast_to(jnp.minimum(at, places - 1), (batch, most)), axis=1)
        conditions, guidance = [_at(config.features(params, tokens, known, classes), at)], None
        if sampler.guidance is not None:
            none = jnp.full_like(classes, config.num_classes)
            conditions.append(_at(config.features(params, tokens, known, none), at))
            # In the last step, too, the published schedule counts one token as unknown.
            share = (places - jnp.maximum(behind, 1)) / places
            guidance = 1.0 + (sampler.guidance - 1.0) * share
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, index + 1))(keys)
        new = draw(config, params, conditions, step_keys, steps, sampler.temperature, guidance)
        return tokens.at[rows, jnp.where(drawn, at, places)].set(new, mode="drop")

    start = jnp.zeros((batch, places, channels), params["in"]["w"].dtype)
    result: Array = lax.fori_loop(0, sampler.steps, step, start)
    return result


def draw(
    config: MAR,
    params: Params,
    conditions: list[Float[Array, "B S D"]],
    keys: Array,
    steps: GaussianSteps,
    temperature: Float[Array, ""] | float,
    guidance: Float[Array, ""] | None,
) -> Float[Array, "B S C"]:
    """Tokens of the places that the first of `conditions` speaks of; with `guidance`, the second speaks of
    them without a class."""
    tables: Any = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), steps)
    batch, size = conditions[0].shape[:2]
    channels, last = config.head.channels, len(steps.times) - 1

    def noise(number: Array | int) -> Float[Array, "B S C"]:
        each = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        return jax.vmap(lambda key: jax.random.normal(key, (size, channels)))(each)

    def step(number: Array, x: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
        i = last - number
        time = jnp.full((batch, size), tables.times[i])
        made = [config.head(params["head"], x, time, z).astype(jnp.float32) for z in conditions]
        predicted = made[0][..., :channels]
        if guidance is not None:
            without = made[1][..., :channels]
            predicted = without + guidance * (predicted - without)
        share = (made[0][..., channels:] + 1) / 2
        log_variance = share * tables.greatest[i] + (1 - share) * tables.least[i]
        clean = (x - tables.noise[i] * predicted) / tables.signal[i]
        mean = tables.to_clean[i] * clean + tables.to_noisy[i] * x
        spread = jnp.where(i > 0, temperature * jnp.exp(0.5 * log_variance), 0.0)
        return mean + spread * noise(number + 1)

    result: Array = lax.fori_loop(0, last + 1, step, noise(0))
    return result


def _at(z: Float[Array, "B S D"], places: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    return jnp.take_along_axis(z, places[:, :, None], axis=1)


register_dataclass(LatentSampler, ["temperature", "guidance"], ["steps", "head_steps"])
