"""Edits of single tokens."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.seen import Edited, Seen, Stop
from jaxmodels.decoding.masked.unmask.confidence import Confidence, Probability, check_share
from jaxmodels.decoding.samplers import check_number
from jaxmodels.models.filling import MaskFilling
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class TokenEdits:
    """A `Remask`: a token that is known, and not of the prompt, is replaced by another that is proposed for
    its place with a confidence above `threshold`.

    A block is looked at until a step finds every place known and edits none, or until `passes` such steps
    were taken; one that has just been filled in is looked at once more. Source: LLaDA2.1 (Bie et al. 2026,
    https://arxiv.org/abs/2602.08676).

    The released program stops in front of step ``passes + 1``, and edits every change where the threshold is
    0. diffusers' ``BlockRefinementScheduler`` takes one step more, ``passes=max_post_steps + 1``, and with
    ``editing_threshold=0`` edits nothing: that is ``remask=None`` here. It does not look again at a block
    whose last place was filled in by the last planned step.

    Attributes:
        threshold: exceeded by the confidence of an edit.
        passes: steps of a block that begin with every place known, at most.
        by: the confidence, between 0 and 1; where tokens are drawn both programs have ``AsSampled()``.

    Raises:
        ValueError: a value outside its range; when run, a model without a mask token.
    """

    threshold: float = 0.9
    passes: int = 16
    by: Confidence = Probability()

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_passes(self.passes)
        check_share(self.by)

    def check(self, filling: MaskFilling, stop: Stop | None) -> None:
        check_known_places("TokenEdits", filling)

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Edited:
        return edited(seen, tokens, self.by(seen), self.threshold, self.passes)


def edited(
    seen: Seen,
    tokens: Int[Array, "B L"],
    confidence: Float[Array, "B L"],
    threshold: Array | float,
    passes: Array | int,
) -> Edited:
    """The block with every change whose confidence exceeds `threshold`, see `TokenEdits`."""
    edits = seen.editable & (seen.proposed != seen.tokens) & (confidence > threshold)
    was_full = ~seen.masked.any(1)
    return Edited(
        tokens=jnp.where(edits, seen.proposed, tokens),
        unfinished=(~was_full | edits.any(1)) & (seen.idle + was_full < passes),
    )


def check_known_places(rule: str, filling: MaskFilling) -> None:
    """Raises ValueError unless the model tells known places from unknown ones."""
    if filling.mask_token is None:
        raise ValueError(
            f"remask: {rule} edits tokens that are known, but the model has no mask token, and all of its "
            "places are unknown until the last step; leave it out"
        )


def check_passes(passes: Array | int) -> None:
    """Raises ValueError unless it is a whole number of at least 0."""
    if not is_traced(passes):
        whole("passes", passes)


register_dataclass(TokenEdits, ["threshold", "passes", "by"], [])
