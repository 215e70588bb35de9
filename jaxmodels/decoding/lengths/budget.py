"""A budget of draft tokens for the whole batch, spent where they are most likely to be accepted."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.drafters.drafter import Proposal
from jaxmodels.decoding.lengths.length import DraftLength, Judging
from jaxmodels.decoding.lengths.whole import Whole
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A `DraftLength`: the rows of a batch share so many verified draft tokens in each round.

    All rows draft, as `within` lets them, and the tokens are verified whose drafts are the most probable from
    their first token on, by the draft itself: rows that it is sure of get long windows, others short ones. It
    pays where verification costs by the tokens of the whole batch; which tokens a row emits, but not how they
    are distributed, then depends on the others.

    Whether a sampled token is verified may not depend on the token itself, or tokens of high probability
    would come too often. So a token is judged by the probability of those before it and by how probable a
    next token can be at most. Where the sampler is `Greedy` that is the token's own.

    Source: TETRIS (https://arxiv.org/abs/2502.15197), which takes the token's own probability throughout.

    Attributes:
        tokens: draft tokens that are verified per round, those of all rows together.
        within: what bounds each row.

    Raises:
        ValueError: `tokens` is below 0; when run, a draft that is a tree or has no probabilities.
    """

    tokens: int
    within: DraftLength = Whole()

    def __post_init__(self) -> None:
        if not is_traced(self.tokens):
            object.__setattr__(self, "tokens", whole("tokens", self.tokens))

    @property
    def varies(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return self.within.needs

    def begin(self, batch: int) -> Any:
        return self.within.begin(batch)

    def limit(self, state: Any, size: int) -> Int[Array, "B"]:
        return self.within.limit(state, size)

    def stop(
        self, state: Any, index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        return self.within.stop(state, index, probability)

    def judge(
        self, before: Float[Array, "B"], index: Int[Array, ""], hidden: Float[Array, "B D"]
    ) -> Float[Array, "B"]:
        """That of `within`, which is one that judges where hidden states are among the needs."""
        assert isinstance(self.within, Judging)
        return self.within.judge(before, index, hidden)

    def update(self, state: Any, count: Int[Array, "B"], accepted: Int[Array, "B"]) -> Any:
        return self.within.update(state, count, accepted)

    def share(self, proposal: Proposal) -> Int[Array, "B"]:
        """How many tokens of each row's proposal are verified."""
        return spend(_hopes(proposal), proposal.count, self.tokens)


def spend(
    hopes: Float[Array, "B G"], count: Int[Array, "B"], tokens: Int[Array, ""] | int
) -> Int[Array, "B"]:
    """How many tokens each row gets where the `tokens` highest of all are taken.

    hopes: of each row's tokens, none higher than the one before. Of equals the earlier token comes first, and
        then the earlier row.
    count: how many there are.
    """
    batch, size = hopes.shape
    is_there = jnp.arange(size) < count[:, None]
    # Token by token, so that a stable order never takes a row's token before the one in front of it.
    order = jnp.argsort(jnp.where(is_there, -hopes, jnp.inf).T.ravel(), stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(batch * size)).reshape(size, batch).T
    return (is_there & (rank < tokens)).sum(1, dtype=jnp.int32)


def _hopes(proposal: Proposal) -> Float[Array, "B G"]:
    """How probable each drafted token can be, with those before it, under the draft."""
    if proposal.tree is not None:
        raise ValueError(
            f"length=Budget(...) cuts chains, and the draft is a tree of {proposal.tree.size - 1} tokens; "
            "draft a chain, or leave the length out"
        )
    most = drawn = proposal.probabilities
    if proposal.distributions is not None:
        most = proposal.distributions.max(-1)
        drawn = jnp.take_along_axis(proposal.distributions, proposal.tokens[:, :, None], axis=2)[:, :, 0]
    if most is None or drawn is None:
        raise ValueError(
            "length=Budget(...) spends tokens by the probabilities of a draft, and this drafter gives none; "
            "draft with a model or a head"
        )
    before = jnp.pad(jnp.cumprod(drawn, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=1.0)
    return before * most


register_dataclass(Budget, ["tokens", "within"], [])
