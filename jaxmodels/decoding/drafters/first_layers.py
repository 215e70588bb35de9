"""The first layers of the model as its own drafter, on its own cache: self-speculation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import Draft, draft_levels
from jaxmodels.models.cache import Cache
from jaxmodels.models.language_model import BlockStack, LanguageModel
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class FirstLayers:
    """A chain of `size` tokens by the model's first `layers` blocks, its final norm and its head.

    There is one cache. The blocks that draft write behind the history of the same blocks, and what they wrote
    is taken back before the model verifies the draft with all of its blocks; recurrent states are those in
    front of the draft again, bit for bit. So a draft needs no parameters and no memory of its own, on every
    `Decoder`. It is worth its cost with models that were trained long enough to be left early, see the
    objective `EarlyExits` and the recipe `tiny_qwen3_layerskip`; others are seldom right so soon.

    Source: LayerSkip (https://arxiv.org/abs/2404.16710), which also keeps the drafted tokens' streams at the
    exit, so that verification begins there; here it begins in front of the first block, as any other.

    Attributes:
        layers: blocks that draft.
        size: tokens drafted per round.

    Raises:
        ValueError: a value below 1; when run, not fewer `layers` than the model has, or a model that is
            not made of blocks.
    """

    layers: int
    size: int = 3
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        for name in ("layers", "size"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> tuple[()]:
        """There is no state but the model's cache."""
        self._first(around)
        return ()

    def propose_on(self, state: tuple[()], around: Round, cache: Cache) -> tuple[Proposal, tuple[()], Cache]:
        first: LanguageModel = self._first(around)
        layers = cache.layers
        own = replace(cache, layers=layers[: self.layers])
        proposal, pending = draft_levels(Draft(first, around.params), own, around, (1,) * self.size)
        before = first.commit(pending, jnp.zeros_like(around.token))
        return proposal, (), replace(cache, layers=(*before.layers, *layers[self.layers :]))

    def settle(self, pending: tuple[()], around: Round, verdict: Verdict) -> tuple[()]:
        return ()

    def _first(self, around: Round) -> LanguageModel:
        """The model of the first blocks, which has the parameters of the whole."""
        config = around.config
        if not isinstance(config, BlockStack):
            raise ValueError(
                f"draft: FirstLayers drafts with the first blocks of a model of blocks, and the model is a "
                f"{type(config).__name__}"
            )
        if self.layers >= len(config.blocks):
            raise ValueError(
                f"draft: FirstLayers(layers={self.layers}) must have fewer than the model's "
                f"{len(config.blocks)} blocks"
            )
        whole: Any = config
        return replace(whole, blocks=config.blocks[: self.layers])


register_dataclass(FirstLayers, [], ["layers", "size"])
