"""Medusa's heads as the drafter of a tree: several guesses of each head, in a shape that is fixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import is_whole, shown
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import check_head
from jaxmodels.decoding.drafters.medusa_drafter import LastHidden, begin_hidden, settled_hidden
from jaxmodels.decoding.trees import fixed_tree
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.medusa import Medusa
from jaxmodels.pytrees import register_dataclass


def rank_paths(children: Mapping[tuple[int, ...], int]) -> tuple[tuple[int, ...], ...]:
    """The tree in which each named path has so many children, nearer tokens first.

    A path is the rank of each of its tokens among the guesses of its head, 0 the best; () is the newest
    token.
    """
    paths = [(*path, rank) for path, count in children.items() for rank in range(count)]
    return tuple(sorted(paths, key=lambda path: (len(path), path)))


# The tree of 63 tokens that Medusa's authors searched for with a model of 7B (their ``mc_sim_7b_63``).
MC_SIM_7B_63 = rank_paths(
    {
        (): 10,
        **{(rank,): count for rank, count in enumerate((10, 7, 3, 2, 1, 1, 1, 1, 1, 1))},
        **{(0, rank): count for rank, count in enumerate((10, 3, 2, 1, 1, 1, 1, 1))},
        (1, 0): 2,
        (2, 0): 1,
        (0, 0, 0): 2,
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MedusaTreeDrafter:
    """A tree: a token at depth k is one of the best guesses of head k, whatever stands before it.

    The guesses are the most probable tokens, without chance; where tokens are sampled, each is verified as
    one that was certain.

    Attributes:
        head, params, token_ids: see `MedusaDrafter`.
        paths: the tree: of each drafted token the ranks that lead to it, see `rank_paths`. Every path but the
            shortest goes on from another one.

    Raises:
        ValueError: `paths` is no such tree, is deeper than there are heads, or asks for more guesses than
            there are tokens; parameters are not those of the heads; when run, heads for another model.
    """

    head: Medusa
    params: Params = field(repr=False)
    token_ids: jax.Array | None = field(default=None, repr=False)
    paths: tuple[tuple[int, ...], ...] = MC_SIM_7B_63
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", _checked(self.paths, self.head))
        check_head(self.head, self.params, self.token_ids)

    @property
    def size(self) -> int:
        return len(self.paths)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.head.taps

    @property
    def parents(self) -> tuple[int, ...]:
        """The window index of each drafted token's parent, as `fixed_tree` takes them."""
        index = {(): 0} | {path: i + 1 for i, path in enumerate(self.paths)}
        return tuple(index[path[:-1]] for path in self.paths)

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> LastHidden:
        self.head.check_target(around.config)
        return begin_hidden(around, taps)

    def propose(self, state: LastHidden, around: Round) -> tuple[Proposal, None]:
        widest = 1 + max(path[-1] for path in self.paths)
        guesses = lax.top_k(self.head(self.params, state.hidden), widest)[1].astype(jnp.int32)
        if self.token_ids is not None:
            guesses = self.token_ids[guesses]
        depth = jnp.asarray([len(path) - 1 for path in self.paths])
        tokens = guesses[:, depth, jnp.asarray([path[-1] for path in self.paths])]
        batch = around.token.shape[0]
        count = in_rows_that_run(around.output, self.size)
        return Proposal(tokens=tokens, count=count, tree=fixed_tree(self.parents, batch)), None

    def settle(self, pending: None, around: Round, verdict: Verdict) -> LastHidden:
        return settled_hidden(verdict)


def _checked(paths: Sequence[Sequence[int]], head: Medusa) -> tuple[tuple[int, ...], ...]:
    """The paths in the order of a window; raises ValueError where they are no tree for the head."""
    valid = isinstance(paths, tuple | list) and all(
        isinstance(path, tuple | list) and path and all(is_whole(rank) and rank >= 0 for rank in path)
        for path in paths
    )
    if not valid or not paths:
        raise ValueError(
            f"paths must be ranks that lead to each token, such as ((0,), (1,), (0, 0)), got {shown(paths)}"
        )
    ordered = sorted({tuple(path) for path in paths}, key=lambda path: (len(path), path))
    for path in ordered:
        if len(path) > head.heads:
            raise ValueError(f"paths: {path} is {len(path)} tokens deep, and there are {head.heads} heads")
        if path[-1] >= head.vocab_size:
            raise ValueError(f"paths: {path} asks for guess {path[-1]} of {head.vocab_size} tokens")
        if len(path) > 1 and path[:-1] not in ordered:
            raise ValueError(f"paths: {path} goes on from {path[:-1]}, which is not among them")
    return tuple(ordered)


register_dataclass(MedusaTreeDrafter, ["params", "token_ids"], ["head", "paths"])
