"""Suffix decoding by trees: several ways in which the text may go on, the most frequent first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.matches import NO_TOKEN
from jaxmodels.decoding.drafters.suffix import SuffixDecoding, SuffixState, best_drafts
from jaxmodels.decoding.drafters.suffix_search import Search, commonest
from jaxmodels.decoding.trees import Tree
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class SuffixTree:
    """The tree of `SuffixDecoding`: best first, where that drafts the one most frequent chain.

    Behind the places of a match, again and again the token is added, wherever in the tree, that is most often
    reached, as long as its share of occurrences is at least ``search.least_probability``; of equals, the one
    behind the token that was added first. Tokens, matches and sums are counted as for the chain. Source:
    SuffixDecoding (https://arxiv.org/abs/2411.04975) and its code in ArcticInference, whose trees have no
    bounds on depth and siblings.

    Attributes:
        search: how texts are searched, and in what; its `size` is the number of tokens of a tree.
        depth: levels of a tree at most.
        siblings: tokens behind one token at most.

    Raises:
        ValueError: `search` is no `SuffixDecoding`, or a number below 1.
    """

    search: SuffixDecoding = field(default_factory=SuffixDecoding)
    depth: int = 31
    siblings: int = 4
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        if not isinstance(self.search, SuffixDecoding) and not is_traced(self.search):
            raise ValueError(f"search must be a SuffixDecoding, got {shown(self.search)}")
        for name in ("depth", "siblings"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))

    def named_tokens(self) -> tuple[int, ...]:
        """Those of the search."""
        return self.search.named_tokens()

    @property
    def size(self) -> int:
        return self.search.size

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def varies(self) -> bool:
        return True

    def remembering(self, answers: Iterable[Sequence[int]], room: int = 4096) -> "SuffixTree":
        """See `SuffixDecoding.remembering`."""
        return replace(self, search=self.search.remembering(answers, room))

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> SuffixState:
        return self.search.begin(around, taps)

    def propose(self, state: SuffixState, around: Round) -> tuple[Proposal, SuffixState]:
        depth, siblings = min(self.depth, self.size), min(self.siblings, self.size)
        grow = TreeSearch(search=self.search.search, depth=depth, siblings=siblings)
        found = best_drafts(state, grow)
        count = jnp.minimum(found.count, in_rows_that_run(around.output, self.size))
        tree = Tree(parents=found.parents, depth=depth, siblings=siblings)
        return Proposal(tokens=found.tokens, count=count, tree=tree), state

    def settle(self, pending: SuffixState, around: Round, verdict: Verdict) -> SuffixState:
        return self.search.settle(pending, around, verdict)


@struct.dataclass
class Branches:
    """A tree for one row.

    Attributes:
        tokens: i32[G], nearer ones first.
        parents: i32[G], see `Tree`.
        count: i32, how many there are.
        score: f32, the sum of the probabilities of reaching each, by the counts.
    """

    tokens: jax.Array
    parents: jax.Array
    count: jax.Array
    score: jax.Array


@struct.dataclass
class _Nodes:
    """The newest token, number 0, and those of a tree that grows, in the order in which they were added.

    Attributes:
        count: i32, how many were added.
        tokens, parents, depths, children: i32[G+1], of each node; children are counted.
        counts: i32[G+1], occurrences of what leads to it.
        left: bool[G+1, T], their places, without those behind which a token stands that is a child.
        next_tokens, next_counts: i32[G+1], the token that most of them agree in, and how many.
    """

    count: jax.Array
    tokens: jax.Array
    parents: jax.Array
    depths: jax.Array
    children: jax.Array
    counts: jax.Array
    left: jax.Array
    next_tokens: jax.Array
    next_counts: jax.Array


@dataclass(frozen=True, kw_only=True)
class TreeSearch:
    """The options of `SuffixTree`, which explains them. Built anew inside each trace."""

    search: Search
    depth: int
    siblings: int

    def __call__(self, text: Int[Array, "T"], lengths: Int[Array, "T"], beside: int) -> Branches:
        """The best tree of one row; see `Search.__call__`."""
        none = jnp.zeros((self.search.size,), jnp.int32)
        nothing = Branches(none, none, jnp.zeros((), jnp.int32), jnp.zeros(()))
        return self.search.best(
            lengths, lambda places, limit: self._grown(text, places, beside, limit), nothing
        )

    def _grown(
        self, text: Int[Array, "T"], places: Bool[Array, "T"], beside: int, limit: Int[Array, ""]
    ) -> Branches:
        """The tree of at most so many tokens behind these places."""
        padded = jnp.pad(text, (0, self.search.size), constant_values=NO_TOKEN)

        def following(nodes: _Nodes, node: Array) -> Array:
            return lax.dynamic_slice(padded, (nodes.depths[node],), text.shape)

        def offered(nodes: _Nodes, node: Array) -> _Nodes:
            """The nodes, once it is known what comes next behind one of them."""
            behind = following(nodes, node)
            token, count = commonest(behind, nodes.left[node] & (behind != NO_TOKEN))
            return replace(
                nodes,
                next_tokens=nodes.next_tokens.at[node].set(token),
                next_counts=nodes.next_counts.at[node].set(count),
            )

        def add(nodes: _Nodes) -> _Nodes:
            parent, new = jnp.argmax(self._offers(nodes)), nodes.count + 1
            token = nodes.next_tokens[parent]
            same = nodes.left[parent] & (following(nodes, parent) == token)
            grown = _Nodes(
                count=new,
                tokens=nodes.tokens.at[new].set(token),
                parents=nodes.parents.at[new].set(parent),
                depths=nodes.depths.at[new].set(nodes.depths[parent] + 1),
                children=nodes.children.at[parent].add(1),
                counts=nodes.counts.at[new].set(nodes.next_counts[parent]),
                left=nodes.left.at[new].set(same).at[parent].set(nodes.left[parent] & ~same),
                next_tokens=nodes.next_tokens,
                next_counts=nodes.next_counts,
            )
            return offered(offered(grown, parent), new)

        def goes_on(nodes: _Nodes) -> Array:
            return (nodes.count < limit) & (self._offers(nodes).max() > 0)

        first = offered(self._root(places, beside), jnp.zeros((), jnp.int32))
        return self._branches(lax.while_loop(goes_on, add, first))

    def _root(self, places: Bool[Array, "T"], beside: int) -> _Nodes:
        """The newest token alone."""
        zeros = jnp.zeros((self.search.size + 1,), jnp.int32)
        return _Nodes(
            count=jnp.zeros((), jnp.int32),
            tokens=zeros,
            parents=zeros,
            depths=zeros,
            children=zeros,
            counts=zeros.at[0].set(places.sum(dtype=jnp.int32) + beside),
            left=jnp.zeros((len(zeros), len(places)), bool).at[0].set(places),
            next_tokens=zeros,
            next_counts=zeros,
        )

    def _offers(self, nodes: _Nodes) -> Int[Array, "G+1"]:
        """How often what comes next behind each node occurs; 0 where nothing may be added.

        The product of the shares that lead to a token is its share of all occurrences.
        """
        is_likely = nodes.next_counts / nodes.counts[0] >= self.search.least_probability
        has_room = (nodes.depths < self.depth) & (nodes.children < self.siblings)
        return jnp.where(is_likely & has_room, nodes.next_counts, 0)

    def _branches(self, nodes: _Nodes) -> Branches:
        """The tokens of a tree in the order of their distance."""
        size = self.search.size
        is_there = jnp.arange(size) < nodes.count
        order = jnp.argsort(jnp.where(is_there, nodes.depths[1:], size + 1), stable=True)
        places = jnp.zeros_like(nodes.parents).at[order + 1].set(jnp.arange(1, size + 1))
        return Branches(
            tokens=nodes.tokens[1:][order],
            parents=places[nodes.parents[1:][order]],
            count=nodes.count,
            score=jnp.where(is_there, nodes.counts[1:], 0).sum() / nodes.counts[0],
        )


register_dataclass(SuffixTree, ["search"], ["depth", "siblings"])
