"""Windows of several sizes in one program, of which each round runs the smallest that holds its drafts.

Drafts differ in length from round to round, and a window costs by its size, whatever is in it. So a program
holds a ladder of them: a round without a draft costs what a step without drafting costs.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmodels.decoding.drafters.drafter import Proposal, Verdict

State = TypeVar("State")


def rungs(size: int) -> tuple[int, ...]:
    """Numbers of draft tokens from 0 to `size`, of which each window is worth its compilation.

    With the newest token in front they are 1, 4, 8, 16, ...: products of few rows are computed in multiples
    of four rows. None is more than half of the last, but the last.
    """
    found, window = [0], 4
    while 2 * (window - 1) <= size:
        found.append(window - 1)
        window *= 2
    return (*found, size)


def run_rung(
    sizes: tuple[int, ...],
    proposal: Proposal,
    keys: Array,
    run: Callable[[Proposal, Array, State], State],
    state: State,
) -> State:
    """``run(proposal, keys, state)``, the proposal cut to the first of `sizes` that holds all rows' drafts.

    Each is a loop of no or one turn: a cache that leaves a `lax.cond` would be copied.
    """
    longest = proposal.count.max()
    for below, size in pairwise((-1, *sizes)):
        turns = (longest > below) & (longest <= size)

        def turn(i: Array, state: Any, size: int = size) -> Any:
            # Bound to the turn: else XLA computes what follows from these alone, distributions and random
            # numbers over the vocabulary, in front of the loops, for every window in every round.
            data = jax.random.key_data(keys)
            cut, data, _ = lax.optimization_barrier((shortened(proposal, size), data, i))
            return run(cut, jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys)), state)

        state = lax.fori_loop(0, turns.astype(jnp.int32), turn, state)
    return state


def shortened(proposal: Proposal, size: int) -> Proposal:
    """The first `size` tokens of a proposal that has no more."""
    tree, distributions = proposal.tree, proposal.distributions
    if tree is not None:
        kept = replace(tree, parents=tree.parents[:, :size], depth=min(tree.depth, size))
        tree = replace(kept, siblings=min(tree.siblings, size)) if size else None
    return Proposal(
        tokens=proposal.tokens[:, :size],
        count=proposal.count,
        tree=tree,
        distributions=None if distributions is None else distributions[:, :size],
    )


def lengthened(verdict: Verdict, as_large: Verdict) -> Verdict:
    """A verdict with room for a longer draft; what stands in the room is arbitrary."""

    def padded(found: Array, room: Array) -> Array:
        return jnp.pad(found, [(0, b - a) for a, b in zip(found.shape, room.shape, strict=True)])

    return jax.tree.map(padded, verdict, as_large)
