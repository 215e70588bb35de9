"""A second model as the drafter, which is shown a part of a long prompt: its cache stays small (SpecVLM)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.drafters.drafter import HIDDEN, LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import (
    Draft,
    HasParams,
    as_draft,
    begin_draft,
    draft_levels,
    loaded,
    settle_draft,
)
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.pytrees import register_dataclass

# How the names of the streams end that hold a block's attention weights.
WEIGHTS = "/attention_weights"


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedPromptDrafter:
    """A chain of `size` tokens by another model that is shown `keep` tokens of each prompt.

    Of a long prompt much can be dropped for drafting: most tokens of an image or a video, or of documents.
    The model itself sees all of it and verifies, so that what is dropped does not change what is said. Tokens
    that may not be dropped are kept first, the newest where they are more than `keep`. Of the others, some
    are those that the model itself attends to most, and the rest stand at even distances. What is kept stays
    in its order, side by side: the draft counts positions anew. Any architecture with the same vocabulary
    drafts.

    Source: SpecVLM (https://arxiv.org/abs/2508.16201), whose draft keeps a tenth of the visual tokens. The
    share by attention is not published; half is a choice made here. What is attended to is judged by the
    tokens that are not dropped, the prompt's last one among them.

    Attributes:
        draft: see `ModelDrafter`.
        keep: prompt tokens that the draft is shown, at most: its cache and its prefill are of that size.
        droppable: bool[B, P] or bool[1, P], which of the first P prompt tokens may be dropped, such as
            ``tokens == image_token``; those behind may not. None: all may.
        attended: the share of the kept droppable tokens that attention chooses, 0 to 1.
        block: the model's block whose attention is asked; None for none, so that all are at even distances.
        size: tokens drafted per round.

    Raises:
        ValueError: a value outside its range, or a share by attention without a block; when run, a draft of
            another vocabulary, a block without attention weights, or `droppable` of another batch.
    """

    draft: Draft | HasParams | str
    keep: int
    droppable: Any = None
    attended: float = 0.5
    block: int | None = None
    size: int = 4
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP | HIDDEN

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        for name, low in (("keep", 1), ("size", 1)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        if self.block is not None:
            object.__setattr__(self, "block", whole("block", self.block))
        if not is_traced(self.attended):
            share = number("attended", self.attended, low=0.0, high=1.0)
            if self.block is None and share > 0 and share != type(self).attended:
                raise ValueError(
                    f"attended={share}: which tokens are attended to is told by a block's attention, and "
                    "block is None; name one of the model's blocks"
                )
        if self.droppable is not None and not is_traced(self.droppable):
            shape, dtype = np.shape(self.droppable), getattr(self.droppable, "dtype", None)
            if len(shape) != 2 or dtype != jnp.bool_:
                raise ValueError(
                    f"droppable must be bool[B, P], which prompt tokens may be dropped, got "
                    f"{shown(self.droppable) if dtype is None else f'{dtype}{list(shape)}'}"
                )

    @property
    def taps(self) -> tuple[str, ...]:
        return () if self.block is None else (f"blocks/{self.block}{WEIGHTS}",)

    def check_model(self, config: LanguageModel) -> None:
        """Raises ValueError where the model's block has no attention weights."""
        if self.block is None:
            return
        has = [name for name in getattr(config, "tap_names", ()) if name.endswith(WEIGHTS)]
        if f"blocks/{self.block}{WEIGHTS}" not in has:
            blocks = ", ".join(name.split("/")[1] for name in has) or "none"
            raise ValueError(
                f"block={self.block} has no attention weights to choose by; blocks that have some: {blocks}"
            )

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S T"]]) -> Cache:
        """The state is the draft's cache: what is kept of the prompts, and the answer but for the newest."""
        request = around.request
        batch, slots = request.tokens.shape
        if slots <= self.keep:
            return begin_draft(loaded(self.draft), around, self.size)
        there = jnp.arange(slots) < request.lengths[:, None]
        droppable = self._droppable(batch, slots)
        scores = jnp.zeros((batch, slots))
        for name in self.taps:
            is_last = jnp.arange(slots) == request.lengths[:, None] - 1
            asks = there & (~droppable | is_last)
            # Slot i of the model's cache holds prompt token i.
            scores = jnp.einsum("bs,bst->bt", asks.astype(jnp.float32), taps[name])[:, :slots]
        share = jnp.asarray(self.attended if self.block is not None else 0.0)
        of_row = functools.partial(kept_places, share=share, keep=self.keep)
        places = jax.vmap(of_row)(there, droppable, scores)
        tokens = jnp.take_along_axis(request.tokens, places, axis=1)
        pruned = replace(
            request,
            tokens=_padded(tokens, around.prefill_window),
            lengths=jnp.minimum(request.lengths, self.keep),
        )
        return begin_draft(loaded(self.draft), replace(around, request=pruned), self.size)

    def propose(self, state: Cache, around: Round) -> tuple[Proposal, Pending]:
        return draft_levels(loaded(self.draft), state, around, (1,) * self.size)

    def settle(self, pending: Pending, around: Round, verdict: Verdict) -> Cache:
        return settle_draft(loaded(self.draft), pending, around, verdict, range(self.size))

    def _droppable(self, batch: int, slots: int) -> Bool[Array, "B S"]:
        if self.droppable is None:
            return jnp.ones((batch, slots), bool)
        rows, given = self.droppable.shape
        if rows not in (1, batch):
            raise ValueError(f"droppable has {rows} rows, and the batch has {batch}; give as many, or one")
        told = jnp.asarray(self.droppable)[:, :slots]
        told = jnp.pad(told, ((0, 0), (0, max(0, slots - given))))
        return jnp.broadcast_to(told, (batch, slots))


def kept_places(
    there: Bool[Array, "S"],
    droppable: Bool[Array, "S"],
    scores: Float[Array, "S"],
    share: Float[Array, ""],
    keep: int,
) -> Int[Array, "K"]:
    """Which `keep` tokens of a row are kept, in their order; behind them, where there are fewer, any others.

    there: which tokens are real. droppable: which of them may be dropped. scores: how much they are attended
    to. share: of the kept droppable tokens, how many of the highest scores; the rest are at even distances.
    """
    fixed, loose = there & ~droppable, there & droppable
    # Of the tokens that must stay, the newest `keep`.
    behind = jnp.cumsum(fixed[::-1])[::-1]
    fixed = fixed & (behind <= keep)
    budget = jnp.minimum(keep - fixed.sum(), loose.sum())
    by_score = jnp.floor(share * budget).astype(jnp.int32)
    rank = jnp.argsort(jnp.argsort(jnp.where(loose, -scores, jnp.inf), stable=True), stable=True)
    chosen = loose & (rank < by_score)
    rest = loose & ~chosen
    count, wanted = rest.sum(), budget - by_score
    # Number k of the wanted ones is number floor(k (count - 1) / (wanted - 1)) of the rest.
    k = jnp.arange(keep)
    number_of = k * (count - 1) // jnp.maximum(wanted - 1, 1)
    picked = jnp.zeros(there.shape[0] + 1, bool)
    picked = picked.at[jnp.where(k < wanted, number_of, there.shape[0])].set(True)[:-1]
    chosen = chosen | (rest & picked[jnp.cumsum(rest) - 1])
    return jnp.argsort(~(fixed | chosen), stable=True)[:keep]


def _padded(tokens: Int[Array, "B K"], window: int) -> Int[Array, "B S"]:
    """Prompts longer than a prefill window are fed in whole windows."""
    size = tokens.shape[1]
    return tokens if size <= window else jnp.pad(tokens, ((0, 0), (0, -size % window)))


register_dataclass(PrunedPromptDrafter, ["draft", "droppable", "attended"], ["keep", "block", "size"])
