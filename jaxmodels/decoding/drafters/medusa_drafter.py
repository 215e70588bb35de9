"""Medusa's heads as the drafter of a chain: all of its tokens from one hidden state, at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import check_head
from jaxmodels.decoding.drafters.feature_state import choose_chain
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.medusa import Medusa
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class LastHidden:
    """What Medusa's heads go by.

    Attributes:
        hidden: [B, D], the model's hidden state of the last token that is history, from which it chose the
            newest one.
    """

    hidden: jax.Array


@dataclass(frozen=True, kw_only=True, eq=False)
class MedusaDrafter:
    """A chain: token k of it is what head k finds, under the same sampler and processors.

    The heads do not know what those before them drafted, so that tokens far ahead are seldom right; a tree
    (`MedusaTreeDrafter`) gives each several guesses.

    Attributes:
        head: the heads.
        params: theirs.
        token_ids: i32[W], the model's number of each token that they know; None where both are the same.
        size: tokens drafted per round, at most one for each head; None is all of them.

    Raises:
        ValueError: `size` is below 1 or beyond the number of heads, or parameters are not those of the heads;
            when run, heads for another model.
    """

    head: Medusa
    params: Params = field(repr=False)
    token_ids: jax.Array | None = field(default=None, repr=False)
    size: int = None  # type: ignore[assignment]
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        size = self.head.heads if self.size is None else self.size
        object.__setattr__(self, "size", whole("size", size, low=1, high=self.head.heads))
        check_head(self.head, self.params, self.token_ids)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.head.taps

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> LastHidden:
        self.head.check_target(around.config)
        return begin_hidden(around, taps)

    def propose(self, state: LastHidden, around: Round) -> tuple[Proposal, None]:
        logits = self.head(self.params, state.hidden)
        return choose_chain(around, logits[:, : self.size], self.token_ids), None

    def settle(self, pending: None, around: Round, verdict: Verdict) -> LastHidden:
        return settled_hidden(verdict)


def begin_hidden(around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> LastHidden:
    """The state behind the prompts."""
    last = jnp.maximum(around.request.lengths - 1, 0)[:, None, None]
    return LastHidden(hidden=jnp.take_along_axis(taps["hidden"], last, axis=1)[:, 0])


def settled_hidden(verdict: Verdict) -> LastHidden:
    """The state behind the last accepted token."""
    last = jnp.maximum(verdict.count - 1, 0)[:, None]
    node = jnp.take_along_axis(verdict.path, last, axis=1)
    return LastHidden(hidden=jnp.take_along_axis(verdict.taps["hidden"], node[:, :, None], axis=1)[:, 0])


register_dataclass(MedusaDrafter, ["params", "token_ids"], ["head", "size"])
