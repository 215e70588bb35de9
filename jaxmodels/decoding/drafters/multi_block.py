"""Multi-block Jacobi decoding: blocks iterated ahead of the one that is verified, and recycled drafts."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.decoding.trees import Tree, fixed_tree
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Blocks:
    """The blocks of one row; every field leads with B where there are several.

    Attributes:
        tokens: i32[K, n]. In block 0, the real one, those up to the newest token are output.
        accepted: i32[K], in block 0 the place of the newest token; in the others how many leading tokens the
            model agreed with behind a draft that was still uncertain.
        active: i32[], blocks that are there.
        kept: i32[P, K * n], drafts of earlier rounds, the latest last.
        lengths: i32[P], tokens of each.
    """

    tokens: jax.Array
    accepted: jax.Array
    active: jax.Array
    kept: jax.Array
    lengths: jax.Array


@dataclass(frozen=True, kw_only=True)
class MultiBlock:
    """Jacobi iteration in blocks of `block` tokens, of which the next ones begin before the first is done.

    Block 0 is verified: its tokens are output as far as the model agrees. Once `spawn` of the newest block
    is accepted, another one begins, with the rest of block 0 as its draft. Blocks behind block 0 are iterated
    in the same pass; what is accepted there is only kept from changing. When block 0 is full, the next block
    takes its place with that as its draft. Drafts of earlier rounds are recycled: where one held the newest
    token, what came behind it is tried beside the current draft, as another branch of a tree.

    Source: Jacobi Forcing (https://arxiv.org/abs/2512.14681) and its code, whose numbers are the defaults.
    There, candidates are rows of a batch, which are tried only where there are two or more, and a block ends
    the pass; here they are branches, and what is right of the next block behind a full one is output too.

    Attributes:
        block: n, tokens of a block.
        blocks: K, the most there are at once.
        spawn: r, the part of the newest block that must be accepted before another one begins.
        pool: drafts kept; all but the latest are tried. With 1 or none, nothing is recycled, and the draft is
            a chain.

    Raises:
        ValueError: a value is out of range.
    """

    block: int = 64
    blocks: int = 2
    spawn: float = 0.85
    pool: int = 4
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        for name, low in (("block", 2), ("blocks", 1), ("pool", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        if not is_traced(self.spawn):
            object.__setattr__(self, "spawn", number("spawn", self.spawn, low=0, high=1))

    @property
    def size(self) -> int:
        return len(self._layout.depth)

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def _layout(self) -> "Layout":
        return layout(self.block, self.block * self.blocks, max(self.pool - 1, 0))

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Blocks:
        batch = around.token.shape[0]
        return Blocks(
            tokens=jnp.broadcast_to(around.token[:, None, None], (batch, self.blocks, self.block)),
            accepted=jnp.zeros((batch, self.blocks), jnp.int32),
            active=jnp.ones((batch,), jnp.int32),
            kept=jnp.zeros((batch, self.pool, self.blocks * self.block), jnp.int32),
            lengths=jnp.zeros((batch, self.pool), jnp.int32),
        )

    def propose(self, state: Blocks, around: Round) -> tuple[Proposal, Blocks]:
        batch, at = around.token.shape[0], self._layout
        draft, others = jax.vmap(self._drafts)(state)
        tokens = jnp.zeros((batch, self.size + 1), jnp.int32)
        tokens = tokens.at[:, at.draft[1:]].set(draft)
        tokens = tokens.at[:, at.others[:, 1:]].set(others)
        there = self.block * state.active - 1 - state.accepted[:, 0]
        count = (at.depth <= there[:, None]).sum(1, dtype=jnp.int32)
        proposal = Proposal(
            tokens=tokens[:, 1:], count=jnp.where(around.output.done, 0, count), tree=self._tree(batch)
        )
        return proposal, state

    def settle(self, pending: Blocks, around: Round, verdict: Verdict) -> Blocks:
        next_blocks = jax.vmap(self._next, in_axes=(0, 0, 0, 0, 0, None))
        return next_blocks(
            pending, verdict.path, verdict.count, verdict.tokens, verdict.choices, around.request.pad_token
        )

    def _drafts(self, row: Blocks) -> tuple[Int[Array, "D"], Int[Array, "C M"]]:
        """All active blocks behind the newest token, and the recycled drafts for the rest of block 0."""
        flat, newest = row.tokens.reshape(-1), row.accepted[0]
        ahead = newest + 1 + jnp.arange(flat.shape[0] - 1)
        draft = flat[jnp.minimum(ahead, flat.shape[0] - 1)]

        def recycled(kept: Int[Array, "T"], length: Int[Array, ""]) -> Int[Array, "M"]:
            is_newest = (kept == flat[newest]) & (jnp.arange(kept.shape[0]) < length)
            places = jnp.argmax(is_newest) + 1 + jnp.arange(self.block - 1)
            there = is_newest.any() & (places < length)
            return jnp.where(there, kept[jnp.minimum(places, kept.shape[0] - 1)], draft[: self.block - 1])

        return draft, jax.vmap(recycled)(row.kept[:-1], row.lengths[:-1])

    def _next(
        self,
        row: Blocks,
        path: Int[Array, "P"],
        count: Int[Array, ""],
        emitted: Int[Array, "P"],
        choices: Int[Array, "S"],
        pad: Int[Array, ""],
    ) -> Blocks:
        size, total, before = self.block, self.block * self.blocks, row.accepted[0]
        place, newest = jnp.arange(total), before + count
        ours, theirs = self._behind(row, path[jnp.maximum(count - 1, 0)], choices)
        tokens, accepted = jax.vmap(_iterated)(row.tokens, theirs.reshape(self.blocks, size), row.accepted)
        flat = tokens.reshape(-1)
        # The rest of block 0 is what the model said behind the branch that was accepted.
        flat = jnp.where((place > before) & (place < size), jnp.roll(ours, 1), flat)
        last = emitted[jnp.maximum(count - 1, 0)]
        flat = jnp.concatenate([jnp.where(place // size < row.active, flat, last), jnp.full((total,), last)])
        ahead = jnp.arange(2 * total) - before - 1  # among what was emitted
        is_output = (ahead >= 0) & (ahead < count)
        flat = jnp.where(is_output, emitted[jnp.clip(ahead, 0, path.shape[0] - 1)], flat)
        done = newest // size  # blocks that are full
        shifted = jax.lax.dynamic_slice_in_dim(flat, done * size, total).reshape(self.blocks, size)
        accepted = jax.lax.dynamic_slice_in_dim(jnp.pad(accepted, (0, self.blocks)), done, self.blocks)
        after = replace(
            row,
            tokens=shifted,
            accepted=accepted.at[0].set(newest % size),
            active=jnp.maximum(row.active - done, 1),
        )
        after = self._kept(row, after, (done == 0) & (count > 0))
        return self._spawned(after, pad)

    def _behind(
        self, row: Blocks, node: Int[Array, ""], choices: Int[Array, "S"]
    ) -> tuple[Int[Array, "D"], Int[Array, "D"]]:
        """The model's choice behind each token of all blocks: that of the branch which holds `node`, as far
        as it goes, and that of the draft. Nothing for output before the newest token."""
        at, total = self._layout, self.block * self.blocks
        draft, others = choices[at.draft], jnp.pad(choices[at.others], ((0, 0), (0, total - self.block)))
        branches = jnp.concatenate([draft[None], others])
        chosen = branches[jnp.asarray(at.branch)[node]]
        behind = jnp.clip(jnp.arange(total) - row.accepted[0], 0, total - 1)
        return chosen[behind], draft[behind]

    def _kept(self, before: Blocks, after: Blocks, is_rejected: Bool[Array, ""]) -> Blocks:
        """With what was rejected: all blocks as they are, then what the model said in the rest of block 0."""
        place, newest = jnp.arange(self.block * self.blocks), after.accepted[0]
        everything = before.tokens.at[0].set(after.tokens[0]).reshape(-1)
        rest = everything[jnp.minimum(place + newest + 1, place.shape[0] - 1)]
        kept = jnp.concatenate([after.kept, jnp.stack([everything, rest])])[2:]
        added = jnp.stack([before.active * self.block, self.block - 1 - newest])
        lengths = jnp.concatenate([after.lengths, added])[2:]
        return replace(
            after,
            kept=jnp.where(is_rejected, kept, after.kept),
            lengths=jnp.where(is_rejected, lengths, after.lengths),
        )

    def _spawned(self, row: Blocks, pad: Int[Array, ""]) -> Blocks:
        """With another block, where it is time for one: the rest of block 0, and padding."""
        is_due = (row.accepted[row.active - 1] >= self.spawn * self.block) & (row.active < self.blocks)
        places = row.accepted[0] + jnp.arange(self.block)
        rest = jnp.where(places < self.block, row.tokens[0, jnp.minimum(places, self.block - 1)], pad)
        at = jnp.where(is_due, row.active, self.blocks)  # beyond the end: dropped
        return replace(
            row,
            tokens=row.tokens.at[at].set(rest, mode="drop"),
            accepted=row.accepted.at[at].set(0, mode="drop"),
            active=row.active + is_due,
        )

    def _tree(self, batch: int) -> Tree | None:
        at = self._layout
        return fixed_tree(at.parents, batch) if at.others.size else None


def _iterated(
    tokens: Int[Array, "N"], behind: Int[Array, "N"], accepted: Int[Array, ""]
) -> tuple[Int[Array, "N"], Int[Array, ""]]:
    """A block behind block 0 after a pass: its first open token counts as right, and what agrees behind it.

    behind: the model's choice behind each token.
    """
    place = jnp.arange(tokens.shape[0])
    agrees = (place <= accepted) | (tokens == jnp.roll(behind, 1))
    accepted = jnp.cumprod(agrees).sum()
    return jnp.where(place < accepted, tokens, jnp.roll(behind, 1)), accepted


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a window stand, the newest token at 0, drafted tokens in the order of their depth.

    Attributes:
        parents: of each drafted token, as `fixed_tree` takes them.
        depth: int[G], how many tokens behind the newest one each drafted token stands.
        branch: int[G+1], of each window token: 0 the draft, then the recycled ones.
        draft: int[K * n], the window index of the draft's token at each depth.
        others: int[C, n], those of the recycled ones.
    """

    parents: tuple[int, ...]
    depth: np.ndarray
    branch: np.ndarray
    draft: np.ndarray
    others: np.ndarray


@functools.cache
def layout(block: int, total: int, others: int) -> Layout:
    """A draft of ``total - 1`` tokens, and `others` of ``block - 1`` tokens beside it."""
    ends = [total] + [block] * others
    order = [(depth, branch) for depth in range(1, total) for branch, end in enumerate(ends) if depth < end]
    place = {at: index for index, at in enumerate(order, 1)}
    place |= {(0, branch): 0 for branch in range(len(ends))}
    return Layout(
        parents=tuple(place[depth - 1, branch] for depth, branch in order),
        depth=np.array([depth for depth, _ in order]),
        branch=np.array([0] + [branch for _, branch in order]),
        draft=np.array([place[depth, 0] for depth in range(total)]),
        others=np.array(
            [[place[depth, 1 + i] for depth in range(block)] for i in range(others)], int
        ).reshape(others, block),
    )


register_dataclass(MultiBlock, ["spawn"], ["block", "blocks", "pool"])
