"""The first layers of the model as its own drafter, on its own cache: self-speculation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import HIDDEN, LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import Draft, draft_levels, planned
from jaxmodels.models.cache import Cache
from jaxmodels.models.exits import BehindExit, Exit, halves_of
from jaxmodels.models.language_model import BlockStack, LanguageModel, WindowReader
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class FirstLayers:
    """A chain of `size` tokens by the model's first `layers` blocks, its final norm and its head.

    There is one cache, and no block sees a token twice: what the first blocks made of the draft, its streams
    and its part of their histories, is kept, and the window that verifies it runs through the other blocks
    alone. So a draft needs no parameters and no memory of its own, on every `Decoder`. It is worth its cost
    with models that were trained long enough to be left early, see the objective `EarlyExits` and the bundled
    `tiny-qwen3-exits`; others are seldom right so soon.

    Histories that evict tokens as others arrive cannot keep any part of a draft. With those, what the first
    blocks wrote is taken back, and verification begins in front of them.

    Source: LayerSkip (https://arxiv.org/abs/2404.16710).

    Attributes:
        layers: blocks that draft.
        size: tokens drafted per round.

    Raises:
        ValueError: a value below 1; when run, not fewer `layers` than the model has, or a model that is
            not made of blocks.
    """

    layers: int
    size: int = 3
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP | HIDDEN

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

    def propose_on(
        self, state: tuple[()], around: Round, cache: Cache
    ) -> tuple[Proposal, Exit | None, WindowReader, Cache]:
        config = around.config
        plan = planned(around, config.vocab_size, (1,) * self.size)
        halves = halves_of(config, self.layers)
        if halves is not None and halves.can_chain(cache, self.size + 1):
            drafted, at_exit, rest = halves.chain(
                around.params, around.token, cache, self.size + 1, plan.choose, plan.nothing,
                valid=in_rows_that_run(around.output, plan.levels + 1),
            )  # fmt: skip
            proposal = plan.proposal(drafted, jnp.maximum(at_exit.pending.valid - 1, 0))
            return proposal, at_exit, BehindExit(halves=halves, at_exit=at_exit), rest
        first: LanguageModel = self._first(around)
        own, rest = cache.of_blocks(0, self.layers), cache.of_blocks(self.layers)
        proposal, pending = draft_levels(Draft(first, around.params), own, around, plan.siblings)
        before: Cache = first.commit(pending, jnp.zeros_like(around.token))
        return proposal, None, config, before.in_front_of(rest)

    def settle_on(
        self, pending: Exit | None, around: Round, verdict: Verdict, cache: Cache
    ) -> tuple[tuple[()], Cache]:
        halves = halves_of(around.config, self.layers)
        if pending is None or halves is None:  # verified in front of the first block
            return (), cache
        return (), halves.commit(pending, verdict.count, cache)

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
