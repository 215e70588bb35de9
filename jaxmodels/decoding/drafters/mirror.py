"""A draft that is complete before the model has chosen its token: branches from an early exit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import fold_keys
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import (
    Draft,
    HasParams,
    as_draft,
    begin_draft,
    draft_levels,
    loaded,
    settle_draft,
)
from jaxmodels.models.block import Stream
from jaxmodels.models.language_model import BlockStack, LanguageModel, Pending
from jaxmodels.models.rows import repeat_rows
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Branches:
    """Where the draft stands.

    Attributes:
        cache: the draft's: all tokens but the newest.
        roots: i32[B, K], what an early exit of the model took the newest token to be, most probable first.
    """

    cache: Any
    roots: jax.Array


@dataclass(frozen=True, kw_only=True, eq=False)
class MirrorDrafter:
    """A chain of `size` tokens by another model, begun from what the model's first blocks say comes next.

    Behind its first `layers` blocks the model already favours some tokens as the next. The draft goes on from
    each of the `branches` most probable ones, and once the model has said which token it is, that branch is
    the draft; where it is none of them, the round has no draft. So nothing of the draft depends on the
    model's other blocks: it can be made while they run, on another device. In a program for one device both
    take their turns, which costs a step of ``branches`` rows per token of the draft and gains nothing over
    `ModelDrafter`; only what is accepted can be seen there. The draft's confidence ends no branch.

    Source: the abstract of Mirror Speculative Decoding, "branch-complete rollouts from early-exit signals in
    parallel with the target's suffix". Inferred: that branches are the tokens most probable at the exit, by
    the model's own final norm and head, and that those behind tokens which were not accepted are left out.

    Attributes:
        draft: see `ModelDrafter`.
        layers: blocks in front of the exit.
        branches: K, tokens that are gone on from.
        size: tokens of each branch, drafted per round.

    Raises:
        ValueError: `draft` is no draft, or a number below 1; when run, more `layers` than the model has, more
            `branches` than its vocabulary, a model that is not made of blocks, or a draft of another
            vocabulary.
    """

    draft: Draft | HasParams | str
    layers: int
    branches: int = 4
    size: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        for name in ("layers", "branches", "size"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))

    @property
    def taps(self) -> tuple[str, ...]:
        return (f"blocks/{self.layers - 1}",)

    def check_model(self, config: LanguageModel) -> None:
        """Raises ValueError where the model is not made of blocks, or of fewer than `layers`."""
        if not isinstance(config, BlockStack):
            raise ValueError(
                f"draft: MirrorDrafter reads an early exit of a model of blocks, and the model is a "
                f"{type(config).__name__}"
            )
        if self.layers > len(config.blocks):
            raise ValueError(
                f"draft: MirrorDrafter(layers={self.layers}) exits behind more than the model's "
                f"{len(config.blocks)} blocks"
            )

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Branches:
        """Raises ValueError, see the class."""
        if self.branches > around.config.vocab_size:
            raise ValueError(
                f"branches={self.branches}: there cannot be more than the vocabulary has tokens, "
                f"{around.config.vocab_size}"
            )
        cache = begin_draft(loaded(self.draft), around, self.size)
        return Branches(cache=cache, roots=self._roots(around, taps, around.request.lengths - 1))

    def propose(self, state: Branches, around: Round) -> tuple[Proposal, Any]:
        count = self.branches

        def repeated(leaf: Array) -> Array:
            return leaf if leaf.ndim == 0 else jnp.repeat(leaf, count, axis=0)

        request = replace(
            around.request,
            tokens=repeated(around.request.tokens),
            lengths=repeated(around.request.lengths),
            keys=repeated(around.request.keys),
        )
        of_branches = replace(
            around,
            request=request,
            output=jax.tree.map(repeated, around.output),
            token=state.roots.reshape(-1),
            keys=fold_keys(repeated(around.keys), 2 * self.size + 1),
            limit=repeated(around.limit),
            stop=lambda index, probability: jnp.zeros(probability.shape, bool),
        )
        cache = repeat_rows(state.cache, count)
        drafted, pending = draft_levels(loaded(self.draft), cache, of_branches, (1,) * self.size)
        is_root = state.roots == around.token[:, None]
        rows = jnp.arange(is_root.shape[0]) * count + jnp.argmax(is_root, axis=1)
        chosen = jax.tree.map(lambda leaf: leaf[rows], drafted)
        return replace(chosen, count=jnp.where(is_root.any(1), chosen.count, 0)), (
            pending,
            rows,
            is_root.any(1),
        )

    def settle(self, pending: tuple[Pending, Array, Array], around: Round, verdict: Verdict) -> Branches:
        chain, rows, is_drafted = pending
        # Where no branch was the newest token, the draft was not shown it.
        path = jnp.where(is_drafted[:, None], verdict.path, -1)
        cache = settle_draft(
            loaded(self.draft), chain, around, replace(verdict, path=path), range(self.size), rows
        )
        last = jnp.take_along_axis(verdict.path, jnp.maximum(verdict.count - 1, 0)[:, None], axis=1)[:, 0]
        return Branches(cache=cache, roots=self._roots(around, verdict.taps, last))

    def _roots(
        self, around: Round, taps: Mapping[str, Float[Array, "B S D"]], at: Int[Array, "B"]
    ) -> Int[Array, "B K"]:
        """The most probable tokens behind token ``at[b]`` as if the model ended at the exit."""
        config, params = around.config, around.params
        hidden = jnp.take_along_axis(taps[self.taps[0]], at[:, None, None], axis=1)
        narrow = hidden.astype(config.dtype_of(params))
        stack: Any = config
        exit_stream = stack.normalise(params, Stream(hidden=hidden, embedded=narrow))
        return lax.top_k(config.logits(params, exit_stream)[:, 0], self.branches)[1].astype(jnp.int32)


register_dataclass(MirrorDrafter, ["draft"], ["layers", "branches", "size"])
