"""Unmasking of images: a schedule says how many places stay unknown, chance and confidence say which."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.schedules import COSINE, Annealing, Schedule, ToZero
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.pytrees import register_dataclass

# That of the published class-conditional models.
PUBLISHED = ToZero(4.5)


@dataclass(frozen=True, kw_only=True)
class MaskGIT:
    """An `Unmask`: all places are filled in but the m that are least certain, m as `schedule` has it.

    A place's certainty is the logarithm of the probability of what is proposed for it, plus a temperature
    times Gumbel noise. A step leaves at least one place unknown until the last planned step, which fills in
    all: with one place left it fills in none. Of places that are equally certain with the last of the m all
    are filled in. Source: Chang et al. 2022 (MaskGIT, https://arxiv.org/abs/2202.04200) and its
    ``parallel_decode``, whose default is ``ToZero(1.0)``; aMUSEd's is ``FromTo(2.0, 0.0)``. With the
    sampler `Sample()`, whose proposals are drawn.

    Attributes:
        temperature: of the noise, in each step.
        schedule: how many of the places that were unknown at first stay so.
    """

    temperature: Annealing = PUBLISHED
    schedule: Schedule = COSINE

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        certainty = noisy_certainty(seen, self.temperature)
        left = left_unknown(seen, self.schedule)
        cut = jnp.take_along_axis(jnp.sort(certainty, axis=1), left[:, None], axis=1)
        return seen.masked & ((certainty >= cut) | is_last_step(seen)[:, None])


@dataclass(frozen=True, kw_only=True)
class MAGE:
    """`MaskGIT`, but of places that are equally certain with the last of the m all stay unknown.

    Source: Li et al. 2022 (MAGE, https://arxiv.org/abs/2211.09117) and its ``gen_img_uncond.py``.

    Attributes:
        temperature, schedule: see `MaskGIT`.
    """

    temperature: Annealing = PUBLISHED
    schedule: Schedule = COSINE

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        certainty = noisy_certainty(seen, self.temperature)
        left = left_unknown(seen, self.schedule)
        cut = jnp.take_along_axis(jnp.sort(certainty, axis=1), left[:, None] - 1, axis=1)
        return seen.masked & ((certainty > cut) | is_last_step(seen)[:, None])


def noisy_certainty(seen: Seen, temperature: Annealing) -> Float[Array, "B L"]:
    """How certain each unknown place is, with noise: infinitely where a token is known, not at all where none
    can be filled in now."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, seen.masked.shape[1:]))(seen.keys)
    certainty = jnp.log(seen.probability) + temperature(seen.step, seen.steps)[:, None] * noise
    return jnp.where(seen.masked, certainty, jnp.where(seen.still_unknown, -jnp.inf, jnp.inf))


def left_unknown(seen: Seen, schedule: Schedule) -> Int[Array, "B"]:
    """How many places stay unknown behind this step: at least 1, and fewer than before where more were."""
    done = (seen.step + 1) / seen.steps
    # A cosine that is a whole number of places may come out a little below it.
    planned = jnp.floor(seen.initial * schedule(done) + 1e-4).astype(jnp.int32)
    return jnp.clip(planned, 1, jnp.maximum(seen.still_unknown.sum(1) - 1, 1))


def is_last_step(seen: Seen) -> Bool[Array, "B"]:
    """Whether no further step is planned for the block."""
    return seen.step >= seen.steps - 1


def _check(rule: MaskGIT | MAGE) -> None:
    check_policy("temperature", rule.temperature, "__call__", "ToZero(4.5)")
    check_policy("schedule", rule.schedule, "__call__", "Cosine()")


for _rule in (MaskGIT, MAGE):
    register_dataclass(_rule, ["temperature", "schedule"], [])
