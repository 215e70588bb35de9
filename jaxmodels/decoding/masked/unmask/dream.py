"""Dream's rules of unmasking, whose schedule follows the time of a diffusion."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import (
    AsSampled,
    Confidence,
    Probability,
    check_confidence,
)
from jaxmodels.decoding.masked.unmask.ranking import top
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Dream:
    """An `Unmask`: of n unknown places, step i fills in the ``floor(n * (1 - s / t))`` of highest confidence,
    where t falls evenly from 1 to `eps` and s is the t of step i + 1; the last planned step fills in all.

    A step may fill in none. 16 places in 8 steps are 1, 2, 2, 2, 2, 2, 2 and 3. Source: Ye et al. 2025
    (Dream, https://arxiv.org/abs/2508.15487), ``diffusion_generate`` with ``alg`` ``maskgit_plus``
    (`Probability`), ``topk_margin`` (`Margin`) or ``entropy`` (`NegativeEntropy`); there n is the mean over
    the batch, here each row has its own.

    Attributes:
        by: which places come first, measured behind the sampler's temperature and filters.
        temperature: 0, or how much chance has a say: places are drawn without replacement by the softmax of
            confidence / temperature (``alg_temp``).
        eps: the t behind the last step, 0 < eps <= 1.
    """

    by: Confidence = Probability()
    temperature: float = 0.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_confidence(self.by)
        check_number("temperature", self.temperature, low=0.0)
        check_eps(self.eps)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        unknown = seen.still_unknown.sum(1)
        count = jnp.floor(unknown * revealed_share(seen, self.eps)).astype(jnp.int32)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, seen.masked.shape[1:]))(seen.keys)
        return top(AsSampled(self.by)(seen) + self.temperature * noise, seen.masked, count)


@dataclass(frozen=True, kw_only=True)
class DreamOrigin:
    """An `Unmask`: every unknown place is filled in with probability 1 - s / t, whatever the model says; see
    `Dream` for t and s. The last planned step fills in all; another may fill in none. Dream's ``origin``.

    Attributes:
        eps: the t behind the last step, 0 < eps <= 1.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_eps(self.eps)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        drawn = jax.vmap(lambda key: jax.random.uniform(key, seen.masked.shape[1:]))(seen.keys)
        return seen.masked & (drawn < revealed_share(seen, self.eps)[:, None])


def revealed_share(seen: Seen, eps: Array | float) -> Float[Array, "B"]:
    """1 - s / t of each row's step, and 1 from the last planned step on."""
    fall = (1.0 - eps) / seen.steps
    share = fall / (1.0 - seen.step * fall)
    return jnp.where(seen.step < seen.steps - 1, share, 1.0)


def check_eps(eps: Array | float) -> None:
    """Raises ValueError unless it lies above 0 and not above 1."""
    check_number("eps", eps, low=0.0, low_included=False, high=1.0)


register_dataclass(Dream, ["by", "temperature", "eps"], [])
register_dataclass(DreamOrigin, ["eps"], [])
