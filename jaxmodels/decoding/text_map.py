"""What a draft says, told in the tokens of another model by way of the text, without leaving the device.

A text is a row of symbols here: its bytes, and one symbol of its own for each special token that both
vocabularies have.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.decoding.vocabulary_map import VocabularyMap, map_vocabularies

BYTES = 256  # symbols from here on are special tokens


@struct.dataclass
class TextMap:
    """The texts of a draft's tokens, and the target's tokens as a trie over texts.

    The trie's nodes are in the order of their depth, then of their text, so that the children of a node are
    one range of nodes, in the order of their symbols. Node 0 is the empty text.

    Attributes:
        vocabulary: how the target's tokens are told in the draft's.
        symbols: i32[N], the texts of the draft's tokens, one behind the other.
        starts: i32[D+1], where each begins; tokens without a text have none between two.
        children: i32[T+1], the first child of each node: those of node n end in front of ``children[n + 1]``.
        labels: i32[T], the symbol that leads to each node.
        tokens: i32[T], the target's token with the text of each node, -1 where there is none.
        branches: the most children that a node has.
    """

    vocabulary: VocabularyMap
    symbols: jax.Array
    starts: jax.Array
    children: jax.Array
    labels: jax.Array
    tokens: jax.Array
    branches: int = struct.field(pytree_node=False)

    def text_ends(self, drafted: Int[Array, "B N"], count: Int[Array, "B"]) -> Int[Array, "B N"]:
        """Where the text of each of the first ``count[b]`` tokens of the draft ends; the rest add nothing."""
        sizes = self.starts[drafted + 1] - self.starts[drafted]
        return jnp.cumsum(jnp.where(jnp.arange(drafted.shape[1]) < count[:, None], sizes, 0), axis=1)


def map_texts(
    target: Tokenizer,
    draft: Tokenizer,
    target_size: int,
    draft_size: int,
    *,
    unknown: int = 0,
    longest: int = 8,
) -> TextMap:
    """The tables of `reencode`, made once on the host, beside those of `map_vocabularies`.

    The arguments are those of `map_vocabularies`, and so is what it raises.

    Where two of the target's tokens have the same text, the one of the lower id is taken.
    """
    vocabulary = map_vocabularies(
        target, draft, target_size, draft_size, unknown=unknown, longest=longest
    )  # fmt: skip
    ours, theirs = target.special_texts(), draft.special_texts()
    both = sorted(set(ours.values()) & set(theirs.values()))
    codes = {text: BYTES + i for i, text in enumerate(both)}
    texts = _texts(draft, theirs, codes, draft_size)
    ids: dict[tuple[int, ...], int] = {}
    for number, text in enumerate(_texts(target, ours, codes, target_size)):
        if text:
            ids.setdefault(text, number)
    children, labels, tokens = _trie(ids)
    return TextMap(
        vocabulary=vocabulary,
        symbols=jnp.asarray(np.asarray([symbol for text in texts for symbol in text], np.int32)),
        starts=jnp.asarray(np.cumsum([0, *map(len, texts)], dtype=np.int32)),
        children=jnp.asarray(children),
        labels=jnp.asarray(labels),
        tokens=jnp.asarray(tokens),
        branches=int(np.diff(children).max()),
    )


def _texts(
    tokenizer: Tokenizer, special: Mapping[int, str], codes: Mapping[str, int], size: int
) -> list[tuple[int, ...]]:
    """The symbols of each of a model's `size` tokens; none for those that its tokenizer does not have."""
    texts: list[tuple[int, ...]] = [tuple(data) for data in tokenizer.token_bytes()[:size]]
    texts += [()] * (size - len(texts))
    for number, text in special.items():
        if number < size and text in codes:
            texts[number] = (codes[text],)
    return texts


def _trie(ids: Mapping[tuple[int, ...], int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(children, labels, tokens) of the nodes, which are the beginnings of all texts."""
    beginnings = {text[:size] for text in ids for size in range(len(text) + 1)}
    nodes: Sequence[tuple[int, ...]] = sorted(beginnings, key=lambda text: (len(text), text))
    number = {text: i for i, text in enumerate(nodes)}
    parents = np.asarray([number[text[:-1]] for text in nodes[1:]])
    children = 1 + np.searchsorted(parents, np.arange(len(nodes) + 1))
    labels = np.asarray([0, *(text[-1] for text in nodes[1:])], np.int32)
    tokens = np.asarray([ids.get(text, -1) for text in nodes], np.int32)
    return children.astype(np.int32), labels, tokens


@struct.dataclass
class _Reading:
    """How far a text has been told.

    Attributes:
        place, node: i32[B], the next symbol, and the trie's node of those since the last token told.
        best, end: i32[B], the longest token among these, -1 where there is none, and where it ends.
        told, ends: i32[B, G], the tokens told and where the text of each ends.
        count: i32[B], how many they are.
        on: bool[B], the rows in which there is more to tell.
    """

    place: jax.Array
    node: jax.Array
    best: jax.Array
    end: jax.Array
    told: jax.Array
    ends: jax.Array
    count: jax.Array
    on: jax.Array


def reencode(
    texts: TextMap, drafted: Int[Array, "B N"], count: Int[Array, "B"], size: int
) -> tuple[Int[Array, "B G"], Int[Array, "B G"], Int[Array, "B"]]:
    """The text of each row's first ``count[b]`` drafted tokens in up to `size` tokens of the target.

    From the left, each token is the longest that the text has there. The text goes on behind what was
    drafted: where it ends inside a longer token, the last token told is one that ends with it, or none is.
    A symbol that begins no token of the target ends what is told.

    Returns:
        (tokens, where the text of each of them ends, how many they are).
    """
    stops = texts.text_ends(drafted, count)
    total, rows = stops[:, -1], jnp.arange(drafted.shape[0])
    begins = texts.starts[drafted]
    before = jnp.pad(stops, ((0, 0), (1, 0)))[:, :-1]

    def symbol_at(place: Int[Array, "B"]) -> Int[Array, "B"]:
        which = jnp.minimum((stops <= place[:, None]).sum(1), drafted.shape[1] - 1)
        return texts.symbols[begins[rows, which] + place - before[rows, which]]

    def look(state: _Reading) -> _Reading:
        has_more = state.place < total
        child, is_child = _child(texts, state.node, symbol_at(state.place))
        goes_on = state.on & has_more & is_child
        tells = state.on & ~goes_on & (state.best >= 0) & (has_more | (state.end == total))
        slot = jnp.where(tells, state.count, size)
        token, place = texts.tokens[child], state.place + 1
        is_token = goes_on & (token >= 0)
        told = state.count + tells
        return _Reading(
            place=jnp.where(goes_on, place, jnp.where(tells, state.end, state.place)),
            node=jnp.where(goes_on, child, 0),
            best=jnp.where(is_token, token, jnp.where(goes_on, state.best, -1)),
            end=jnp.where(is_token, place, state.end),
            told=state.told.at[rows, slot].set(state.best, mode="drop"),
            ends=state.ends.at[rows, slot].set(state.end, mode="drop"),
            count=told,
            on=(goes_on | tells) & (told < size),
        )

    none, empty = jnp.zeros_like(total), jnp.zeros((rows.shape[0], size), jnp.int32)
    first = _Reading(
        place=none, node=none, best=none - 1, end=none, told=empty, ends=empty, count=none, on=total > 0
    )
    last = lax.while_loop(lambda state: state.on.any(), look, first)
    return last.told, last.ends, last.count


def _child(texts: TextMap, node: Int[Array, "B"], symbol: Int[Array, "B"]) -> tuple[Array, Array]:
    """The child of each node by a symbol, and whether there is one: a binary search in its children."""
    low, high = texts.children[node], texts.children[node + 1]
    end = high
    for _ in range(texts.branches.bit_length()):
        middle = (low + high) // 2
        is_before = (low < high) & (texts.labels[middle] < symbol)
        low, high = jnp.where(is_before, middle + 1, low), jnp.where(is_before, high, middle)
    return low, (low < end) & (texts.labels[low] == symbol)
