"""A confidence by a head of few rows: the vocabulary's usual tokens instead of all."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.depth.confidence.confidence import Confidence, Following, Passed, Recalling
from jaxmodels.models.depth import Walk
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class AmongTokens:
    """Another confidence, for which there are no tokens but these.

    The head is a product with its rows for them alone. A token that is none of them is not seen, so that the
    confidence is too high where one is due: thresholds are higher than with the whole vocabulary. Which token
    is said is still the whole head's choice.

    Attributes:
        tokens: i32[N], at least two and none twice, such as the `frequent_tokens` of a text.
        confidence: one that looks at the head.

    Raises:
        ValueError: tokens of another kind; when run, tokens that the model does not have.
    """

    tokens: jax.Array | np.ndarray
    confidence: Confidence

    def __post_init__(self) -> None:
        if is_traced(self.tokens):
            return
        tokens = np.asarray(self.tokens)
        if tokens.ndim != 1 or tokens.size < 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(
                f"AmongTokens: tokens must be at least two whole numbers [N], got {shown(self.tokens)}"
            )
        if tokens.min() < 0 or len(np.unique(tokens)) < tokens.size:
            raise ValueError(f"AmongTokens: tokens must be from 0 on and none twice, got {shown(tokens)}")
        if isinstance(self.confidence, Recalling):
            raise ValueError(
                f"AmongTokens: {type(self.confidence).__name__} does not look at the head; use it as it is"
            )

    def named_tokens(self) -> list[int]:
        """See `NamesTokens`."""
        return [int(np.asarray(self.tokens).max())]

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        return self.confidence(self._restricted(passed))

    def begin(self, walk: Walk) -> Any:
        """What the other confidence has found, if it goes by that."""
        return self.confidence.begin(walk) if isinstance(self.confidence, Following) else ()

    def follow(self, passed: Passed, found: Any) -> tuple[Float[Array, "B S"], Any]:
        passed = self._restricted(passed)
        if isinstance(self.confidence, Following):
            return self.confidence.follow(passed, found)
        return self.confidence(passed), found

    def _restricted(self, passed: Passed) -> Passed:
        tokens = jnp.asarray(self.tokens)
        return replace(passed, head=lambda stream: passed.head_of(stream, tokens))


register_dataclass(AmongTokens, ["tokens", "confidence"], [])
