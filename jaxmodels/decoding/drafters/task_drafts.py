"""Several drafts, each trained for its own kind of text: one is chosen, or all are verified together.

Source: TAPS (Task Aware Proposal Distributions for Speculative Sampling). Its abstract names both ways to
combine specialised drafts, routing by confidence and merged-tree verification, and says that confidence tells
more than entropy. The rest is inferred: what confidence is taken of, and how a tree is merged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_windows import fold_keys
from jaxmodels.decoding.drafters.drafter import LIMIT, NOTHING, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import (
    Draft,
    HasParams,
    as_draft,
    begin_draft,
    draft_levels,
    loaded,
    settle_draft,
)
from jaxmodels.decoding.trees import fixed_tree
from jaxmodels.models.language_model import Cache, Pending
from jaxmodels.pytrees import register_dataclass


def _as_drafts(value: Any) -> Any:
    """A tuple of drafts. Raises ValueError for anything else, and for fewer than two."""
    if is_traced(value):
        return value
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise ValueError(f"drafts must be two models or more, such as (code, prose), got {shown(value)}")
    return tuple(as_draft(one) for one in value)


def _begin(drafts: tuple[Any, ...], around: Round, length: int) -> tuple[Cache, ...]:
    """Each draft's cache behind the prompts."""
    return tuple(begin_draft(loaded(draft), around, length) for draft in drafts)


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedDrafts:
    """A chain of `size` tokens by the most confident of several drafts, row by row and round by round.

    Each draft makes its chain; where another's was chosen, it is shown the accepted tokens in one window.
    Where tokens are computed, a draft's confidence is the mean probability of its tokens. Where they are
    drawn it is that of the most probable first token, whichever was drawn: a choice that went by the drawn
    tokens would make them likelier than their distribution says, and sampling would no longer be exact.

    Attributes:
        drafts: models with the model's vocabulary, see `ModelDrafter`.
        size: tokens drafted per round.

    Raises:
        ValueError: fewer than two drafts, or `size` is below 1; when run, a draft of another vocabulary.
    """

    drafts: tuple[Draft | HasParams | str, ...]
    size: int = 4
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        object.__setattr__(self, "drafts", _as_drafts(self.drafts))
        object.__setattr__(self, "size", whole("size", self.size, low=1))

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> tuple[Cache, ...]:
        """The state is the drafts' caches: all tokens but the newest."""
        return _begin(self.drafts, around, self.size)

    def propose(self, state: tuple[Cache, ...], around: Round) -> tuple[Proposal, Any]:
        proposals, pendings, confidences = [], [], []
        chain = (1,) * self.size
        for number, (draft, cache) in enumerate(zip(self.drafts, state, strict=True)):
            here = replace(around, keys=_keys_of(around, self.size, number))
            proposal, pending = draft_levels(loaded(draft), cache, here, chain)
            proposals.append(proposal)
            pendings.append(pending)
            if proposal.probabilities is not None:
                confidences.append(proposal.probabilities.sum(1) / jnp.maximum(proposal.count, 1))
            elif proposal.distributions is not None:
                confidences.append(proposal.distributions[:, 0].max(-1))
        route = jnp.argmax(jnp.stack(confidences), axis=0)
        chosen = proposals[0]
        for number, other in enumerate(proposals[1:], 1):
            chosen = _where(route == number, other, chosen)
        return chosen, (tuple(pendings), route)

    def settle(self, pending: Any, around: Round, verdict: Verdict) -> tuple[Cache, ...]:
        pendings, route = pending
        # What another draft drafted is not what this one was shown, but for the newest token.
        shown_alone = jnp.where(jnp.arange(verdict.path.shape[1]) > 0, -1, verdict.path)
        return tuple(
            settle_draft(
                loaded(draft),
                one,
                around,
                replace(verdict, path=jnp.where((route == number)[:, None], verdict.path, shown_alone)),
                range(self.size),
                behind=self.size,
            )
            for number, (draft, one) in enumerate(zip(self.drafts, pendings, strict=True))
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedDrafts:
    """A chain of `length` tokens by each of several drafts, verified as the branches of one tree.

        two drafts, length=2:    newest -> a -> c
                                        -> b -> d

    A draft whose branch is not taken is shown the accepted tokens in one window. The draft's confidence ends
    no branch. With an acceptance rule for trees, such as `TokenVerification`.

    Attributes:
        drafts: models with the model's vocabulary, see `ModelDrafter`.
        length: tokens of each branch.

    Raises:
        ValueError: fewer than two drafts, or `length` is below 1; when run, a draft of another vocabulary.
    """

    drafts: tuple[Draft | HasParams | str, ...]
    length: int = 3
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "drafts", _as_drafts(self.drafts))
        object.__setattr__(self, "length", whole("length", self.length, low=1))

    @property
    def size(self) -> int:
        return len(self.drafts) * self.length

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> tuple[Cache, ...]:
        """The state is the drafts' caches: all tokens but the newest."""
        return _begin(self.drafts, around, self.length)

    def propose(self, state: tuple[Cache, ...], around: Round) -> tuple[Proposal, tuple[Pending, ...]]:
        branches, (batch, chain) = len(self.drafts), (around.token.shape[0], (1,) * self.length)
        proposals, pendings = [], []
        for number, (draft, cache) in enumerate(zip(self.drafts, state, strict=True)):
            here = replace(
                around,
                limit=-(-around.limit // branches),
                stop=lambda index, probability: jnp.zeros(probability.shape, bool),
                keys=_keys_of(around, self.size, number),
            )
            proposal, pending = draft_levels(loaded(draft), cache, here, chain)
            proposals.append(proposal)
            pendings.append(pending)
        levels = jnp.stack([pending.valid for pending in pendings]).min(0)
        distributions = None
        if proposals[0].distributions is not None:
            distributions = _interleaved([one.distributions for one in proposals])
        parents = [0] * branches + [1 + i for i in range((self.length - 1) * branches)]
        proposal = Proposal(
            tokens=_interleaved([one.tokens for one in proposals]),
            count=branches * levels,
            tree=fixed_tree(parents, batch),
            distributions=distributions,
        )
        return proposal, tuple(pendings)

    def settle(self, pending: tuple[Pending, ...], around: Round, verdict: Verdict) -> tuple[Cache, ...]:
        branches = len(self.drafts)
        return tuple(
            settle_draft(
                loaded(draft),
                one,
                around,
                verdict,
                (0, *range(1 + number, 1 + number + (self.length - 1) * branches, branches)),
                behind=self.length,
            )
            for number, (draft, one) in enumerate(zip(self.drafts, pending, strict=True))
        )


def _keys_of(around: Round, size: int, number: int) -> Array:
    """Keys of draft `number`, beyond those of the `size` drafted tokens and of their acceptance."""
    return fold_keys(around.keys, 2 * size + 1 + number)


def _where(rows: Int[Array, "B"], ours: Proposal, theirs: Proposal) -> Proposal:
    """One chain in some rows and the other elsewhere."""
    distributions = probabilities = None
    if ours.distributions is not None and theirs.distributions is not None:
        distributions = jnp.where(rows[:, None, None], ours.distributions, theirs.distributions)
    if ours.probabilities is not None and theirs.probabilities is not None:
        probabilities = jnp.where(rows[:, None], ours.probabilities, theirs.probabilities)
    return Proposal(
        tokens=jnp.where(rows[:, None], ours.tokens, theirs.tokens),
        count=jnp.where(rows, ours.count, theirs.count),
        distributions=distributions,
        probabilities=probabilities,
    )


def _interleaved(chains: list[Any]) -> Any:
    """Arrays [B, L, ...] of several chains as [B, L*K, ...], the first tokens of all in front."""
    stacked = jnp.stack(chains, axis=2)
    return stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])


for _kind, _static in ((RoutedDrafts, "size"), (MergedDrafts, "length")):
    register_dataclass(_kind, ["drafts"], [_static])
