"""Who sees whom under each mask, pair by pair in plain Python: the oracle of the tests of masks."""

from typing import NamedTuple

import numpy as np

from jaxmodels.layers.canvas_mask import OnCanvas
from jaxmodels.layers.dual_scope_mask import DualScope
from jaxmodels.layers.masks import (
    BIDIRECTIONAL,
    CAUSAL,
    All,
    Ancestors,
    Bidirectional,
    BlockCausal,
    Causal,
    Chunks,
    Either,
    Prefix,
    Sliding,
    Split,
)

BATCH, SIZE = 2, 6
PARENTS = ((-1, 0, 0, 1, 3, 2), (-1, -1, 1, 1, 0, 2))  # of each row's window tokens
NEAR = All((CAUSAL, Sliding(before=3)))


class Token(NamedTuple):
    position: int
    index: int
    is_history: bool


def ancestors(parents):
    tree = np.eye(len(parents), dtype=bool)
    for child, parent in enumerate(parents):
        if parent >= 0:
            tree[child] |= tree[parent]
    return tree


TREES = np.stack([ancestors(parents) for parents in PARENTS])
ANY_ARRAY = np.random.default_rng(5).random((SIZE, SIZE)) < 0.5
MASKS = {
    "causal": CAUSAL,
    "bidirectional": BIDIRECTIONAL,
    "block_causal": BlockCausal(3),
    "chunks": Chunks(4),
    "sliding": Sliding(before=2, after=1),
    "sliding_past": Sliding(before=3),
    "sliding_future": Sliding(after=0),
    "prefix": Prefix(4),
    "prefix_by_row": Prefix(np.array([3, 7])),
    "on_canvas": OnCanvas(start=7, before=3),
    "on_canvas_by_row": OnCanvas(start=np.array([5, 9])),
    "dual_scope": DualScope(tokens=2, near=1, every=4),
    "trees": Ancestors(TREES),
    "array": Ancestors(ANY_ARRAY),
    "all": NEAR,
    "either": Either((CAUSAL, Chunks(4))),
    "split": Split(history=Sliding(before=4, after=2), window=BIDIRECTIONAL),
    "split_tree": Split(history=NEAR, window=Ancestors(TREES)),
    "nested": All((Either((Prefix(np.array([5, 2])), BlockCausal(2))), Split(history=NEAR, window=CAUSAL))),
}


def sees(mask, row, query, key):
    distance = query.position - key.position
    match mask:
        case Causal():
            seen = distance >= 0
        case Bidirectional():
            seen = True
        case BlockCausal(block=size):
            seen = query.position // size >= key.position // size
        case Chunks(size=size):
            seen = query.position // size == key.position // size
        case Sliding(before=before, after=after):
            seen = (before is None or distance <= before) and (after is None or -distance <= after)
        case Prefix(length=length):
            seen = distance >= 0 or key.position < (length if np.ndim(length) == 0 else length[row])
        case DualScope(tokens=tokens, near=near, every=every):
            frame = key.position // tokens
            seen = abs(query.position // tokens - frame) <= near or frame % every == 0
        case OnCanvas(start=start, before=before):
            start = start if np.ndim(start) == 0 else start[row]
            seen = before is None or start - key.position <= before
        case Ancestors(tree=tree):
            tree = tree if tree.ndim == 2 else tree[row]
            seen = key.is_history or tree[query.index, key.index]
        case All(masks=masks):
            seen = all(sees(part, row, query, key) for part in masks)
        case Either(masks=masks):
            seen = any(sees(part, row, query, key) for part in masks)
        case Split(history=history, window=window):
            seen = sees(history if key.is_history else window, row, query, key)
    return seen


def in_layer(mask, row, query, key, window=None, chunk=None):
    """The same in a layer that has a sliding window or chunks."""
    distance = query.position - key.position
    if window is not None and isinstance(mask, OnCanvas):
        before = window - 1 if mask.before is None else min(mask.before, window - 1)
        return sees(OnCanvas(start=mask.start, before=before), row, query, key)
    if window is not None and not -window < distance < window:
        return False
    if chunk is not None and query.position // chunk != key.position // chunk:
        return False
    return sees(mask, row, query, key)


def table(mask, row, queries, keys, **layer):
    """bool[S, T]; a key that is None is an empty slot."""
    return np.array(
        [
            [key is not None and bool(in_layer(mask, row, query, key, **layer)) for key in keys]
            for query in queries
        ]
    )


def window_tokens(positions, valid):
    """One row's window: its real tokens, and None for padding."""
    return [Token(int(p), i, False) if i < valid else None for i, p in enumerate(positions)]
