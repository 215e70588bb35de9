"""Suffix decoding: drafts what most often followed the newest tokens, in this text and in earlier answers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.drafters.matches import (
    NO_TOKEN,
    Matches,
    followed,
    grown,
    least_match,
    matches_of,
    searched,
    text_so_far,
)
from jaxmodels.decoding.drafters.suffix_search import Draft, Search
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class SuffixState:
    """The matches in the row's own text, and in the earlier answers if there are any."""

    own: Matches
    earlier: Matches | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SuffixDecoding:
    """Lets the text go on as it most often did behind its newest tokens.

    For each number m of newest tokens that stand elsewhere in the text, token after token is taken that most
    often followed there (the first one, of equals), as long as the product of the shares of occurrences is
    at least `least_probability`, and up to ``factor * m + offset`` tokens: longer matches are trusted
    further. Of all m the draft with the greatest sum of those products is taken, the longer match of equals.
    The earlier answers in `corpus` are searched in the same way, and used where their sum is greater.

    The counts are those of a trie of all suffixes, of which no node is built: occurrences are places in the
    text, and a path keeps those that agree with it. Source: SuffixDecoding (https://arxiv.org/abs/2411.04975)
    and its code in ArcticInference, whose tries bound match and draft together by their depth, and whose
    `least` and `factor` are 1 and `offset` 0. Here drafts are to fill windows of 4, 8, 16 ... tokens, see
    `rungs`.

    Attributes:
        corpus: i32[N], earlier answers one behind the other, `NO_TOKEN` between them and where there are
            none, see `remembering`; None for none. Data: another corpus of N tokens compiles nothing.
        size: tokens drafted at most.
        most, least: newest tokens that are compared at most, and that must be equal at least. `least` is
            data.
        factor, offset: of the length of a draft.
        least_probability: of the last token of a draft.

    Raises:
        ValueError: a value outside its range, or `least` exceeds `most`; when run, a corpus with a token that
            the model's vocabulary lacks.
    """

    corpus: Array | None = None
    size: int = 31
    most: int = 64
    least: Array | int = 4
    factor: float = 2.0
    offset: float = -1.0
    least_probability: float = 0.1

    def __post_init__(self) -> None:
        for name in ("size", "most"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        object.__setattr__(self, "least", least_match(self.least, self.most))
        ranges = {
            "factor": (0.0, math.inf),
            "offset": (-math.inf, math.inf),
            "least_probability": (0.0, 1.0),
        }
        for name, (low, high) in ranges.items():
            if not is_traced(getattr(self, name)):
                object.__setattr__(self, name, number(name, getattr(self, name), low=low, high=high))
        if self.corpus is not None and not is_traced(self.corpus):
            if np.ndim(self.corpus) != 1 or not np.issubdtype(np.asarray(self.corpus).dtype, np.integer):
                raise ValueError(f"corpus must be token ids i32[N], got {shown(self.corpus)}")
            object.__setattr__(self, "corpus", jnp.asarray(self.corpus, jnp.int32))

    def named_tokens(self) -> tuple[int, ...]:
        """The greatest id of the corpus, which stands for all of them."""
        if self.corpus is None or is_traced(self.corpus) or not self.corpus.size:
            return ()
        return (int(np.max(self.corpus)),)

    @property
    def search(self) -> Search:
        """How one text is searched for a chain."""
        return Search(
            size=self.size,
            least=self.least,
            factor=self.factor,
            offset=self.offset,
            least_probability=self.least_probability,
        )

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def varies(self) -> bool:
        return True

    def remembering(self, answers: Iterable[Sequence[int]], room: int = 4096) -> "SuffixDecoding":
        """The same with further answers in its corpus, which then holds the last `room` tokens.

        For the host, between requests: the corpus keeps its size, so that nothing is compiled anew.
        """
        room = whole("room", room, low=1)
        parts = [np.full(room, NO_TOKEN, np.int32)]
        if self.corpus is not None:
            parts.append(np.asarray(self.corpus))
        for answer in answers:
            parts += [np.asarray(answer, np.int32).reshape(-1), np.full(1, NO_TOKEN, np.int32)]
        return replace(self, corpus=jnp.asarray(np.concatenate(parts)[-room:]))

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> SuffixState:
        """The state is where the newest tokens stood before."""
        text, length = text_so_far(around)
        earlier = None
        if self.corpus is not None:
            corpus = jnp.broadcast_to(self.corpus, (text.shape[0], self.corpus.shape[0]))
            earlier = searched(corpus, text, length, self.most)
        return SuffixState(own=matches_of(text, length, self.most), earlier=earlier)

    def propose(self, state: SuffixState, around: Round) -> tuple[Proposal, SuffixState]:
        draft = best_drafts(state, self.search)
        count = jnp.minimum(draft.count, in_rows_that_run(around.output, self.size))
        return Proposal(tokens=draft.tokens, count=count), state

    def settle(self, pending: SuffixState, around: Round, verdict: Verdict) -> SuffixState:
        own = grown(pending.own, around, verdict, self.most)
        if pending.earlier is None:
            return SuffixState(own=own, earlier=None)
        return SuffixState(own=own, earlier=followed(pending.earlier, verdict, self.most))


def best_drafts(state: SuffixState, search: Callable[[Array, Array, int], Draft]) -> Draft:
    """Each row's draft by its own text, or by the earlier answers where those give a greater sum.

    search: the draft of one row, see `Search.__call__`.
    """
    # The newest tokens themselves are one more occurrence, behind which nothing stands yet.
    draft = jax.vmap(lambda text, lengths: search(text, lengths, 1))(state.own.text, state.own.lengths)
    if state.earlier is None:
        return draft
    earlier = state.earlier
    other = jax.vmap(lambda text, lengths: search(text, lengths, 0))(earlier.text, earlier.lengths)
    better = other.score > draft.score
    return jax.tree.map(lambda a, b: jnp.where(_as_rows(better, a), b, a), draft, other)


def _as_rows(rows: Array, like: Array) -> Array:
    return rows.reshape(-1, *(1,) * (like.ndim - 1))


register_dataclass(
    SuffixDecoding,
    ["corpus", "least", "factor", "offset", "least_probability"],
    ["size", "most"],
)
