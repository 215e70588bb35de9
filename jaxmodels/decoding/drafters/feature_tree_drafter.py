"""A head on features of the model as the drafter of a tree that grows where the head is sure: EAGLE-2.

From the most probable tokens behind the newest one, the best `top_k` of each level are read by the head, and
each has its `top_k` most probable followers as candidates. A candidate's score is the log-probability of its
whole path. The best of all candidates are the tree; with a token, its ancestors are always among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import MOST_INT32, whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import check_head
from jaxmodels.decoding.drafters.feature_state import (
    FeatureState,
    Read,
    begin_state,
    next_state,
    read_all,
)
from jaxmodels.decoding.trees import Tree
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.branches import Branches
from jaxmodels.models.draft_heads.feature_head import FeatureHead, Target
from jaxmodels.models.draft_heads.history import History, rewound
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class _Candidates:
    """Every token that was thought of, nearer ones first; C = K + depth * K * K.

    Attributes:
        tokens: i32[B, C], by the head's numbers.
        scores: f32[B, C], log-probabilities of their paths; minus infinity where there is none yet.
        parents: i32[B, C], the candidate that each follows; -1 for the newest token.
    """

    tokens: jax.Array
    scores: jax.Array
    parents: jax.Array


@struct.dataclass
class _Beam:
    """The candidates that are read next.

    Attributes:
        index: i32[B, K], which candidates they are.
        features: [B, K, F], what stands for the feature of the token in front of each.
        seen: bool[B, K, N], which of the tokens that were read each sees, itself included.
    """

    index: jax.Array
    features: jax.Array
    seen: jax.Array


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTreeDrafter:
    """A tree of ``total - 1`` tokens by a head on the model's features, of another shape in each round.

    The tokens are the most probable ones, without chance. Where tokens are sampled, each is verified as one
    that was certain, which is exact: a child is taken with the model's probability, and where it is not, the
    next one with what is left of it. (EAGLE's own code does the same, and calls it a probability of 1.)

    Attributes:
        head, params, token_ids: see `FeatureDrafter`.
        total: tokens of the window that is verified, the newest one included; the authors' is 60.
        depth: levels that the head reads: paths have up to one token more; the authors' is 7.
        top_k: tokens that are read per level, and candidates behind each; the authors' is 10.

    Raises:
        ValueError: a number out of range, fewer candidates than tokens of the tree, or parameters that are
            not those of the head; when run, a head for another model.
    """

    head: FeatureHead
    params: Params = field(repr=False)
    token_ids: jax.Array | None = field(default=None, repr=False)
    total: int = 60
    depth: int = 7
    top_k: int = 10
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        for name, low, high in (
            ("total", 2, MOST_INT32),
            ("depth", 1, MOST_INT32),
            ("top_k", 1, self.head.vocab_size),
        ):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low, high=high))
        candidates = self.top_k + self.depth * self.top_k**2
        if self.total - 1 > candidates:
            raise ValueError(
                f"total={self.total}: a tree of {self.total - 1} drafted tokens needs as many candidates, "
                f"and depth={self.depth} and top_k={self.top_k} give {candidates}"
            )
        check_head(self.head, self.params, self.token_ids)

    @property
    def size(self) -> int:
        return self.total - 1

    @property
    def taps(self) -> tuple[str, ...]:
        return self.head.taps

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> FeatureState:
        room = self.depth * self.top_k + self.depth + 2
        return begin_state(self.head, self.params, around, taps, room=room, longest=self.depth + 2)

    def propose(self, state: FeatureState, around: Round) -> tuple[Proposal, History]:
        """What is pending is the history of true pairs."""
        read = read_all(self.head, self.params, around, state)
        candidates, beam = self._first_level(read)
        grown = lax.fori_loop(
            0,
            self.depth,
            lambda level, state: self._grow(around, read, level, *state),
            (candidates, beam, read.history),
        )
        tokens, tree = self._best(grown[0])
        if self.token_ids is not None:
            tokens = self.token_ids[tokens]
        count = in_rows_that_run(around.output, self.size)
        return Proposal(tokens=tokens, count=count, tree=tree), rewound(grown[2], read.history.length)

    def settle(self, pending: History, around: Round, verdict: Verdict) -> FeatureState:
        return next_state(self.head, self.params, pending, verdict, self.depth + 2)

    def _first_level(self, read: Read) -> tuple[_Candidates, _Beam]:
        """The most probable tokens behind the newest one, which are all read."""
        batch, k = read.logits.shape[0], self.top_k
        scores, tokens = lax.top_k(jax.nn.log_softmax(read.logits), k)
        later = ((0, 0), (0, self.depth * k * k))
        candidates = _Candidates(
            tokens=jnp.pad(tokens.astype(jnp.int32), later),
            scores=jnp.pad(scores, later, constant_values=-jnp.inf),
            parents=jnp.full((batch, k + self.depth * k * k), -1, jnp.int32),
        )
        beam = _Beam(
            index=jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32), (batch, k)),
            features=jnp.repeat(read.feature[:, None], k, axis=1),
            seen=jnp.broadcast_to(jnp.eye(k, self.depth * k, dtype=bool), (batch, k, self.depth * k)),
        )
        return candidates, beam

    def _grow(
        self,
        around: Round,
        read: Read,
        level: Int[Array, ""],
        candidates: _Candidates,
        beam: _Beam,
        history: History,
    ) -> tuple[_Candidates, _Beam, History]:
        """The candidates behind a beam, and the best of them as the next one."""
        (batch, k), start = beam.index.shape, self.top_k + level * self.top_k**2
        tokens = jnp.take_along_axis(candidates.tokens, beam.index, axis=1)
        predicted, history = self.head.extend(
            self.params,
            Target(around.config, around.params),
            tokens if self.token_ids is None else self.token_ids[tokens],
            beam.features,
            history,
            positions=jnp.broadcast_to(read.history.length[:, None] + level, (batch, k)),
            mask=Branches(beam.seen, level * k),
            valid=in_rows_that_run(around.output, k),
        )
        assert predicted.logits is not None
        paths = jnp.take_along_axis(candidates.scores, beam.index, axis=1)
        scores, following = lax.top_k(jax.nn.log_softmax(predicted.logits), k)
        scores = (paths[:, :, None] + scores).reshape(batch, k * k)

        def put(whole: Array, level: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(whole, level.reshape(batch, k * k), start, axis=1)

        candidates = replace(
            candidates,
            tokens=put(candidates.tokens, following.astype(jnp.int32)),
            scores=put(candidates.scores, scores),
            parents=put(candidates.parents, jnp.repeat(beam.index, k, axis=1)),
        )
        best = lax.top_k(scores, k)[1]
        before = best // k
        itself = jnp.arange(beam.seen.shape[-1]) == ((level + 1) * k + jnp.arange(k))[:, None]
        return (
            candidates,
            _Beam(
                index=start + best,
                features=jnp.take_along_axis(predicted.features, before[:, :, None], axis=1),
                seen=jnp.take_along_axis(beam.seen, before[:, :, None], axis=1) | itself,
            ),
            history,
        )

    def _best(self, candidates: _Candidates) -> tuple[Int[Array, "B G"], Tree]:
        """The candidates of the highest scores, in their order, and which of them follows which."""
        chosen = jnp.sort(lax.top_k(candidates.scores, self.size)[1], axis=1)
        tokens, parents = (
            jnp.take_along_axis(a, chosen, axis=1) for a in (candidates.tokens, candidates.parents)
        )
        # Where a parent stands among the chosen ones, behind the newest token.
        place = jax.vmap(jnp.searchsorted)(chosen, parents)
        parents = jnp.where(parents < 0, 0, 1 + place).astype(jnp.int32)
        return tokens, Tree(parents=parents, depth=self.depth + 1, siblings=self.top_k)


register_dataclass(FeatureTreeDrafter, ["params", "token_ids"], ["head", "total", "depth", "top_k"])
