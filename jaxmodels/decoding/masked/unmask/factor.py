"""Unmasking where confidence makes up for how many places are filled in at once."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import ranks
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Factor:
    """An `Unmask`: the n most confident places for the largest n with ``(n + 1) * (1 - c) < factor``, where c
    is the n-th highest confidence; at least one.

    This is the paper's rule (Fast-dLLM, https://arxiv.org/abs/2505.22618) and the one to take unless the
    released program is to be reproduced, which differs, see `ReleasedFactor`.

    Attributes:
        factor: > 0; the paper's is 1.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, low=0.0, low_included=False)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        place = ranks(seen.probability, seen.masked)
        passes = (place + 2) * (1 - seen.probability) < self.factor
        return seen.masked & ((place == 0) | passes)


@dataclass(frozen=True)
class ReleasedFactor:
    """An `Unmask`: `Factor` as the program released with Fast-dLLM has it.

    The n-th most confident place passes from ``1 - factor / (n + 1)`` on, and the first that does not pass
    ends the count. But if that is the last of all unknown places it is filled in with the others, so that
    two unknown places always go together: confidences 0.99, 0.97, 0.96 and 0.3 with factor 1 fill in four
    places, where the paper's rule fills in three.

    Attributes:
        factor: > 0.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, low=0.0, low_included=False)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        place = ranks(seen.probability, seen.masked)
        fails = seen.masked & (place > 0) & (seen.probability < 1 - self.factor / (place + 2))
        unknown = seen.masked.sum(1)
        count = jnp.where(fails, place, unknown[:, None]).min(1)
        count = jnp.where(count == unknown - 1, unknown, count)
        return seen.masked & (place < count[:, None])


register_dataclass(Factor, ["factor"], [])
register_dataclass(ReleasedFactor, ["factor"], [])
