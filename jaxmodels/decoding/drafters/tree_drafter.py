"""A second model as the drafter of a tree: at each level its choice and the next best beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.drafters.drafter import STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import (
    Draft,
    HasParams,
    as_draft,
    begin_draft,
    draft_levels,
    first_of_levels,
    loaded,
    settle_draft,
)
from jaxmodels.models.language_model import Cache, Pending
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeDrafter:
    """A tree by another model. Level i has ``siblings[i]`` tokens; the first has the next level as children.

        siblings=(3, 2, 1):    newest -> a -> c -> e
                                      -> b1   -> d1
                                      -> b2

    The first token of each level is what the sampler picks, the others are the most probable ones beside it.
    They cost the draft nothing: a step per level, as for a chain of as many tokens. Each is one more token in
    the window that the model verifies. Where an other is accepted, the draft catches up by one step.

    Attributes:
        draft: see `ModelDrafter`.
        siblings: tokens of each level.

    Raises:
        ValueError: `draft` is no draft, or a number of siblings is below 1; when run, more siblings than
            the vocabulary has tokens.
    """

    draft: Draft | HasParams | str
    siblings: tuple[int, ...] = (3, 2, 1, 1)
    obeys: ClassVar[frozenset[str]] = STOP

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        if not isinstance(self.siblings, tuple | list) or not self.siblings:
            raise ValueError(
                f"siblings must be numbers of tokens, such as (3, 2, 1), got {shown(self.siblings)}"
            )
        widths = tuple(whole(f"siblings[{i}]", width, low=1) for i, width in enumerate(self.siblings))
        object.__setattr__(self, "siblings", widths)

    @property
    def size(self) -> int:
        return sum(self.siblings)

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Cache:
        """The state is the draft's cache: all tokens but the newest."""
        vocabulary = around.config.vocab_size
        if max(self.siblings) > vocabulary:
            raise ValueError(
                f"siblings={self.siblings}: a level cannot have more tokens than the vocabulary, {vocabulary}"
            )
        return begin_draft(loaded(self.draft), around, len(self.siblings))

    def propose(self, state: Cache, around: Round) -> tuple[Proposal, Pending]:
        return draft_levels(loaded(self.draft), state, around, self.siblings)

    def settle(self, pending: Pending, around: Round, verdict: Verdict) -> Cache:
        # The last level's tokens were drafted, and not shown to the draft.
        return settle_draft(loaded(self.draft), pending, around, verdict, first_of_levels(self.siblings)[:-1])


register_dataclass(TreeDrafter, ["draft"], ["siblings"])
