"""The model's own verdict on the last window as the draft for the next one: Jacobi iteration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class LastVerdict:
    """Drafts `size` tokens: what the model found most probable behind the draft tokens that were wrong.

    The choices behind the last accepted token, but for the first, which is the newest token now, moved to the
    front and filled up with their last one. The first draft is the first token, again and again. Costs
    nothing. Source: Santilli et al. 2023.

    Raises:
        ValueError: `size` is below 1.
    """

    size: int = 7
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("size", self.size, low=1))

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Int[Array, "B G"]:
        """The state is the next draft."""
        return jnp.broadcast_to(around.token[:, None], (around.token.shape[0], self.size))

    def propose(self, state: Int[Array, "B G"], around: Round) -> tuple[Proposal, None]:
        return Proposal(tokens=state, count=in_rows_that_run(around.output, self.size)), None

    def settle(self, pending: None, around: Round, verdict: Verdict) -> Int[Array, "B G"]:
        following = verdict.count[:, None] + jnp.arange(self.size)
        return jnp.take_along_axis(verdict.choices, jnp.minimum(following, self.size), axis=1)


register_dataclass(LastVerdict, [], ["size"])
