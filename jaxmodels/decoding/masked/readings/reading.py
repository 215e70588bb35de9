"""How a window of known and unknown tokens is read behind a history."""

from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel


class Reading(Protocol):
    """In which order a model is shown a window, who sees whom in it, and what of it becomes history."""

    def check(self, config: LanguageModel, window: int) -> None:
        """Raises ValueError, with the reason, where a model or a window's size does not fit."""

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, window: int
    ) -> Cache:
        """The prompts as history, fed in windows of at most `window` tokens."""

    def settled(self, known: Int[Array, "B"]) -> Int[Array, "B"]:
        """How many tokens become history in a pass that finds the first `known` of the window known."""

    def score(
        self,
        config: LanguageModel,
        params: Params,
        tokens: Int[Array, "B W"],
        unknown: Bool[Array, "B W"],
        cache: Cache,
        valid: Int[Array, "B"],
    ) -> tuple[Float[Array, "B W V"], Any]:
        """The logits of each place, and what `commit` settles the first tokens with. `valid` is 0 in rows
        that have ended, and W in others."""
