"""A second model as the drafter of several independent paths, behind a trunk that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import even_without_choice, fold_keys, in_rows_that_run
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import (
    Draft,
    HasParams,
    as_draft,
    begin_draft,
    loaded,
    settle_draft,
)
from jaxmodels.decoding.processors.chain import process
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import has_choice
from jaxmodels.decoding.trees import Fork, forked_tree
from jaxmodels.models.chain import peek_chain
from jaxmodels.models.language_model import Cache, Pending
from jaxmodels.models.rows import repeat_rows
from jaxmodels.models.scored import Scored
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class PathsDrafter:
    """Several paths by another model, each drawn independently of the others, behind a common trunk.

        trunk=1, paths=2, length=2:    newest -> a -> b -> d
                                                   -> c -> e

    Without a trunk these are independent drafts of one text (K i.i.d. paths). With one it is a delayed tree
    (K, L1, L2): near the newest token a draft is mostly right, and paths are worth more behind it. Paths that
    begin alike have their beginning in common where they are verified; a token that is drawn twice counts
    twice for the acceptance rule, which is exact with it. Where the sampler is `Greedy`, the paths begin with
    the most probable tokens, one each, and go on with the most probable one.

    While it drafts, each path is a row of the draft's batch: a step of ``paths`` rows per token of a path,
    and a copy of the draft's cache for each path.

    Source: independent paths as in SpecInfer (https://arxiv.org/abs/2305.09781); delayed trees from Delayed
    Tree Expansion (https://arxiv.org/abs/2602.16994).

    Attributes:
        draft: see `ModelDrafter`.
        paths: K, how many.
        length: tokens of each path.
        trunk: tokens in front of the paths.

    Raises:
        ValueError: `draft` is no draft, `paths` or `length` is below 1 or `trunk` below 0; when run with
            `Greedy`, more paths than the vocabulary has tokens.
    """

    draft: Draft | HasParams | str
    paths: int = 2
    length: int = 4
    trunk: int = 0
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        for name, low in {"paths": 1, "length": 1, "trunk": 0}.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low))

    @property
    def fork(self) -> Fork:
        return Fork(trunk=self.trunk, paths=self.paths, length=self.length)

    @property
    def size(self) -> int:
        return self.fork.size

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Cache:
        """The state is the draft's cache: all tokens but the newest."""
        vocabulary = around.config.vocab_size
        if isinstance(around.sampler, Greedy) and self.paths > vocabulary:
            raise ValueError(
                f"paths={self.paths}: paths that begin with different tokens cannot be more than the "
                f"vocabulary has, {vocabulary}"
            )
        return begin_draft(loaded(self.draft), around, self.trunk + self.length)

    def propose(self, state: Cache, around: Round) -> tuple[Proposal, Pending]:
        draft, fork = loaded(self.draft), self.fork
        batch, levels, vocabulary = around.token.shape[0], fork.trunk + fork.length, draft.config.vocab_size
        certain = isinstance(around.sampler, Greedy)

        def choose(i: Array, scored: Scored, drafted: _Paths) -> tuple[Array, Array, _Paths]:
            by_path = scored.logits.reshape(batch, fork.paths, vocabulary)
            scores = _processed(around, by_path, drafted.tokens, i)
            if certain:
                tokens = _by_rank(scores, i == fork.trunk)
            else:
                tokens = jax.vmap(around.sampler, in_axes=1, out_axes=1)(scores, _keys(around.keys, fork, i))
            distributions = drafted.distributions
            if distributions is not None:
                distributions = _put(distributions, around.sampler.probabilities(scores), i)
            goes_on = jnp.ones((batch * fork.paths,), bool)
            return tokens.reshape(-1), goes_on, _Paths(_put(drafted.tokens, tokens, i), distributions)

        drafted, pending = peek_chain(
            draft.config,
            draft.params,
            jnp.repeat(around.token, fork.paths),
            repeat_rows(state, fork.paths),
            levels,
            choose,
            _Paths(
                tokens=jnp.zeros((batch, fork.paths, levels), jnp.int32),
                distributions=None if certain else jnp.zeros((batch, fork.paths, levels, vocabulary)),
            ),
            valid=jnp.repeat(in_rows_that_run(around.output, levels), fork.paths),
        )
        return _proposal(drafted, pending.valid[:: fork.paths], fork), pending

    def settle(self, pending: Pending, around: Round, verdict: Verdict) -> Cache:
        draft, fork = loaded(self.draft), self.fork
        # The path whose tokens were accepted, which follow one another in its row of the draft's batch.
        last = jnp.take_along_axis(verdict.path, jnp.maximum(verdict.count - 1, 0)[:, None], axis=1)[:, 0]
        path = jnp.where(last > fork.trunk, (last - 1 - fork.trunk) % fork.paths, 0)
        rows = jnp.arange(path.shape[0]) * fork.paths + path
        in_order = jnp.broadcast_to(jnp.arange(verdict.path.shape[1]), verdict.path.shape)
        as_chain = replace(verdict, path=in_order)
        return settle_draft(draft, pending, around, as_chain, range(fork.trunk + fork.length), rows)


@struct.dataclass
class _Paths:
    """What has been drafted so far.

    Attributes:
        tokens: i32[B, K, L], each path with the trunk in front.
        distributions: f32[B, K, L, V], what they were drawn from; None where they are certain.
    """

    tokens: jax.Array
    distributions: jax.Array | None


def _put(whole: Array, level: Array, i: Array) -> Array:
    """`whole`, [B, K, L, ...], with token i of all paths."""
    return lax.dynamic_update_slice_in_dim(whole, level[:, :, None], i, axis=2)


def _processed(
    around: Round, logits: Float[Array, "B K V"], tokens: Int[Array, "B K L"], i: Array
) -> Float[Array, "B K V"]:
    """The scores behind the first i tokens of each path."""

    def of_path(logits: Float[Array, "B V"], tokens: Int[Array, "B L"]) -> Float[Array, "B V"]:
        given = around.processors, logits[:, None], around.request, around.output, tokens
        scores = process(*given, first=i)
        return even_without_choice(scores, has_choice(scores))[:, 0]

    return jax.vmap(of_path, in_axes=1, out_axes=1)(logits, tokens)


def _by_rank(scores: Float[Array, "B K V"], is_first: Array) -> Int[Array, "B K"]:
    """The most probable token of each path; where paths begin, path k has that of rank k."""
    paths = scores.shape[1]
    _, best = lax.top_k(scores, paths)
    rank = jnp.where(is_first, jnp.arange(paths), 0)[None, :, None]
    return jnp.take_along_axis(best, rank, axis=2)[:, :, 0]


def _keys(keys: Array, fork: Fork, i: Array) -> Array:
    """Each path's key for its token i, [B, K]: one for all in the trunk, and one for each behind it."""
    behind = fork.trunk + (i - fork.trunk) * fork.paths + jnp.arange(fork.paths)
    numbers = jnp.where(i < fork.trunk, i, behind)
    return jax.vmap(fold_keys, in_axes=(None, 0), out_axes=1)(keys, numbers)


def _proposal(drafted: _Paths, levels: Int[Array, "B"], fork: Fork) -> Proposal:
    """The trunk, then all paths level by level, of which the draft could be asked for so many."""

    def joined(of_paths: Array) -> Array:
        behind = jnp.swapaxes(of_paths[:, :, fork.trunk :], 1, 2)
        return jnp.concatenate(
            [of_paths[:, 0, : fork.trunk], behind.reshape(behind.shape[0], -1, *behind.shape[3:])], axis=1
        )

    tokens = joined(drafted.tokens)
    return Proposal(
        tokens=tokens,
        count=jnp.minimum(levels, fork.trunk) + jnp.maximum(levels - fork.trunk, 0) * fork.paths,
        tree=forked_tree(tokens, fork),
        distributions=None if drafted.distributions is None else joined(drafted.distributions),
    )


register_dataclass(PathsDrafter, ["draft"], ["paths", "length", "trunk"])
