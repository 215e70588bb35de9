"""How the tokens of one vocabulary are told in another: tables that are made once, on the host."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.checks import whole


@struct.dataclass
class VocabularyMap:
    """A target's tokens as a draft is shown them.

    Attributes:
        shared: i32[V], the draft's token that stands for the same text, -1 where it has none.
        pieces: i32[V, M], the draft's tokens that a text of the target's token is made of.
        lengths: i32[V], how many they are, at least 1.
        draft_size: the draft's vocabulary.
    """

    shared: jax.Array
    pieces: jax.Array
    lengths: jax.Array
    draft_size: int = struct.field(pytree_node=False)

    @property
    def longest(self) -> int:
        """M, the most tokens of the draft that one of the target's is shown as."""
        return self.pieces.shape[1]


def map_vocabularies(
    target: Tokenizer,
    draft: Tokenizer,
    target_size: int,
    draft_size: int,
    *,
    unknown: int = 0,
    longest: int = 8,
) -> VocabularyMap:
    """The map by the bytes of tokens; special tokens are the same where their texts are.

    Each table is indexed by ids, so that nothing depends on the order in which a tokenizer lists its
    vocabulary. Where two of the draft's tokens have the same bytes, the one of the lower id is taken.

    Args:
        target, draft: the tokenizers.
        target_size, draft_size: the models' vocabularies, which may be larger than the tokenizers'.
        unknown: the draft's token for texts that it has no tokens for, or only more than `longest`.
        longest: tokens of the draft that one of the target's is shown as at most.

    Raises:
        ValueError: a number out of range, or not one token that the two share.
    """
    whole("unknown", unknown, high=draft_size - 1)
    whole("longest", longest, low=1)
    theirs = _first_ids(draft.token_bytes()[:draft_size])
    special = {text: number for number, text in draft.special_texts().items() if number < draft_size}
    shared = np.full(target_size, -1, np.int32)
    pieces, lengths = np.full((target_size, longest), unknown, np.int32), np.ones(target_size, np.int32)
    for number, data in enumerate(target.token_bytes()[:target_size]):
        found = _longest_matches(data, theirs)
        if found and len(found) <= longest:
            pieces[number, : len(found)], lengths[number] = found, len(found)
        shared[number] = theirs.get(data, -1)
    for number, text in target.special_texts().items():
        if number < target_size and text in special:
            shared[number] = pieces[number, 0] = special[text]
    if (shared < 0).all():
        raise ValueError(
            f"draft: its vocabulary of {draft_size} tokens shares none with the model's {target_size}, so "
            "that it cannot draft for it"
        )
    # Two tokens of the target with the same text cannot both be what one of the draft stands for.
    _, first = np.unique(shared, return_index=True)
    once = np.zeros(target_size, bool)
    once[first] = True
    shared = np.where(once, shared, -1)
    used = int(lengths.max())
    return VocabularyMap(
        shared=jnp.asarray(shared),
        pieces=jnp.asarray(pieces[:, :used]),
        lengths=jnp.asarray(lengths),
        draft_size=draft_size,
    )


def _first_ids(tokens: Sequence[bytes]) -> dict[bytes, int]:
    ids: dict[bytes, int] = {}
    for number, data in enumerate(tokens):
        if data:
            ids.setdefault(data, number)
    return ids


def _longest_matches(data: bytes, ids: Mapping[bytes, int]) -> list[int]:
    """`data` cut into tokens from the left, each as long as can be; nothing where that cannot be done."""
    found: list[int] = []
    while data:
        size = next((size for size in range(len(data), 0, -1) if data[:size] in ids), 0)
        if not size:
            return []
        found.append(ids[data[:size]])
        data = data[size:]
    return found
