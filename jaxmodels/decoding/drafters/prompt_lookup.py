"""Drafts from the text itself: what followed when its newest tokens last stood in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.drafters.matches import Matches, grown, least_match, matches_of, text_so_far
from jaxmodels.pytrees import register_dataclass

# Which of the places is taken that agree with equally many tokens.
Match: TypeAlias = Literal["last", "first"]


@dataclass(frozen=True, kw_only=True)
class PromptLookup:
    """Lets the text go on as it did behind the last match of its newest tokens.

    Prompt and answer are searched for the place before whose end most tokens agree with the newest ones, at
    least `least` and at most `most`; `match` chooses among equals. What follows there is drafted. Rows
    without a match are drafted nothing. No model is asked. Source: prompt lookup decoding (Saxena 2023).

    Attributes:
        size: tokens drafted.
        most, least: tokens that are compared. `least` is data.
        match: "last" takes the last of equals, and where what follows it reaches the end of the text, goes on
            with the draft itself, as a text does that repeats itself. "first" takes the first of equals and
            stops at the end of the text, which is the published rule and that of transformers.

    Raises:
        ValueError: a number is below 1, `least` exceeds `most`, or `match` is neither.
    """

    size: int = 8
    most: int = 3
    least: Array | int = 1
    match: Match = "last"

    def __post_init__(self) -> None:
        for name in ("size", "most"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        object.__setattr__(self, "least", least_match(self.least, self.most))
        if self.match not in get_args(Match):
            known = " or ".join(repr(rule) for rule in get_args(Match))
            raise ValueError(f"match must be {known}, got {shown(self.match)}")

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def varies(self) -> bool:
        return True

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Matches:
        """The state is where the newest tokens stood before."""
        return matches_of(*text_so_far(around), self.most)

    def propose(self, state: Matches, around: Round) -> tuple[Proposal, Matches]:
        length = around.request.lengths + around.output.lengths
        tokens, count = jax.vmap(self._draft)(state.text, state.lengths, length)
        count = jnp.minimum(count, in_rows_that_run(around.output, self.size))
        return Proposal(tokens=tokens, count=count), state

    def settle(self, pending: Matches, around: Round, verdict: Verdict) -> Matches:
        return grown(pending, around, verdict, self.most)

    def _draft(
        self, text: Int[Array, "T"], lengths: Int[Array, "T"], length: Int[Array, ""]
    ) -> tuple[Int[Array, "G"], Array]:
        """What one row's text goes on with, and how many tokens that is; 0 where there is no match."""
        slots, drafted = text.shape[0], jnp.arange(self.size)
        if self.match == "first":
            place = jnp.argmax(lengths)
            there, steps = jnp.minimum(self.size, length - place), drafted
        else:
            place = jnp.argmax(lengths * slots + jnp.arange(slots))
            there, steps = jnp.asarray(self.size), drafted % jnp.maximum(length - place, 1)
        draft = text[jnp.minimum(place + steps, slots - 1)]
        return draft, jnp.where(lengths[place] >= self.least, there, 0)


register_dataclass(PromptLookup, ["least"], ["size", "most", "match"])
