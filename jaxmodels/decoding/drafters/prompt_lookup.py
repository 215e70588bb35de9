"""Drafts from the text itself: what followed when its newest tokens last stood in it."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.processors.chain import contexts
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

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> tuple[()]:
        """There is no state: the text is part of the round."""
        return ()

    def propose(self, state: tuple[()], around: Round) -> tuple[Proposal, tuple[()]]:
        text = contexts(around.request, around.output)
        tokens, found = jax.vmap(self._draft)(text.tokens, text.length)
        count = jnp.where(found, in_rows_that_run(around.output, self.size), 0)
        return Proposal(tokens=tokens, count=count), ()

    def settle(self, pending: tuple[()], around: Round, verdict: Verdict) -> tuple[()]:
        return ()

    def _draft(self, text: Int[Array, "T"], length: Int[Array, ""]) -> tuple[Int[Array, "G"], Array]:
        """What one row's text goes on with, and whether there is a match."""
        places = jnp.arange(text.shape[0])
        last = length - 1
        agree, most = jnp.ones(text.shape, bool), jnp.zeros(text.shape, jnp.int32)
        for back in range(self.most):
            newest = text[jnp.maximum(last - back, 0)]
            # Rolled by `back`, the text has at each place the token that stood `back` places before it.
            agree = agree & (jnp.roll(text, back) == newest) & (places >= back)
            most = most + agree
        matched = (places < last) & (most >= self.least)
        # The longest match, and of equals the last.
        end = jnp.argmax(jnp.where(matched, most * text.shape[0] + places, -1))
        period = jnp.maximum(last - end, 1)
        draft = text[jnp.minimum(end + 1 + jnp.arange(self.size) % period, text.shape[0] - 1)]
        return draft, matched.any()


register_dataclass(PromptLookup, [], ["size", "most", "least"])
