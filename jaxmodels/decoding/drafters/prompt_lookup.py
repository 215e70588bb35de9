"""Drafts from the text itself: what followed when its newest tokens last stood in it."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.drafters.matches import Matches, grown, matches_of, text_so_far
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class PromptLookup:
    """Lets the text go on as it did behind the last match of its newest tokens.

    Prompt and answer are searched for the place before whose end most tokens agree with the newest ones, at
    least `least` and at most `most`; of equals the last. What follows there is drafted; where it reaches the
    end of the text, it goes on with the draft itself, as a text does that repeats itself. Rows without a
    match are drafted nothing. No model is asked. Source: prompt lookup decoding (Saxena 2023), which takes
    the first match instead, and stops at the end of the text.

    Attributes:
        size: tokens drafted.
        most, least: tokens that are compared.

    Raises:
        ValueError: a number is below 1, or `least` exceeds `most`.
    """

    size: int = 8
    most: int = 3
    least: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "most", "least"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        if self.least > self.most:
            raise ValueError(f"least={self.least} must not exceed most={self.most}")

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
        tokens, found = jax.vmap(self._draft)(state.text, state.lengths, length)
        count = jnp.where(found, in_rows_that_run(around.output, self.size), 0)
        return Proposal(tokens=tokens, count=count), state

    def settle(self, pending: Matches, around: Round, verdict: Verdict) -> Matches:
        return grown(pending, around, verdict, self.most)

    def _draft(
        self, text: Int[Array, "T"], lengths: Int[Array, "T"], length: Int[Array, ""]
    ) -> tuple[Int[Array, "G"], Array]:
        """What one row's text goes on with, and whether there is a match."""
        # The longest match, and of equals the last.
        place = jnp.argmax(lengths * text.shape[0] + jnp.arange(text.shape[0]))
        period = jnp.maximum(length - place, 1)
        draft = text[jnp.minimum(place + jnp.arange(self.size) % period, text.shape[0] - 1)]
        return draft, lengths[place] >= self.least


register_dataclass(PromptLookup, [], ["size", "most", "least"])
