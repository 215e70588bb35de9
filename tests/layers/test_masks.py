import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masks_by_hand import BATCH, MASKS, PARENTS, SIZE, TREES, Token, ancestors, table, window_tokens
from model_helpers import quick_jit

from jaxmodels.layers import attend as attend_module
from jaxmodels.layers.attend import Scores, attend
from jaxmodels.layers.canvas_mask import OnCanvas
from jaxmodels.layers.dual_scope_mask import DualScope
from jaxmodels.layers.kv_cache import EMPTY, allowed_by_position, range_in_use, range_of_sequence, window_tags
from jaxmodels.layers.masks import (
    BIDIRECTIONAL,
    CAUSAL,
    All,
    Ancestors,
    BlockCausal,
    Chunks,
    Either,
    Places,
    Prefix,
    Sliding,
    Split,
    as_mask,
    check_mask,
    tree_of,
)
from jaxmodels.layers.slot_writes import Ring
from jaxmodels.layers.window import Window, fresh_window

LAYERS = {"plain": {}, "sliding": {"window": 3}, "chunks": {"chunk": 5}}
DATA = {name: jax.tree.map(jnp.asarray, mask) for name, mask in MASKS.items()}
# What `within_reach` can say from positions alone, and says exactly.
EXACT = (
    "causal",
    "bidirectional",
    "block_causal",
    "sliding",
    "sliding_past",
    "prefix",
    "prefix_by_row",
    "on_canvas",
    "on_canvas_by_row",
    "all",
)


def of_layer(layer):
    return {"reach": layer.get("window", layer.get("chunk")), "chunk": layer.get("chunk")}


# --- definitions -----------------------------------------------------------------------------------


PICTURES = {
    "Causal": CAUSAL,
    "Bidirectional": BIDIRECTIONAL,
    "BlockCausal": BlockCausal(2),
    "Chunks": Chunks(2),
    "Sliding": Sliding(before=1, after=2),
    "Prefix": Prefix(2),
    "Ancestors": Ancestors(ancestors((-1, 0, 0, 1))),
    "All": All((CAUSAL, Sliding(before=1))),
    "Either": Either((CAUSAL, Chunks(2))),
    "Split": Split(history=Sliding(before=2), window=BIDIRECTIONAL),
    "OnCanvas": OnCanvas(start=4, before=2),
    "DualScope": DualScope(tokens=1, near=1, every=3),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_mask_is_what_its_picture_shows(name):
    lines = re.findall(r"^ {4,}([x.](?: +[x.])+)$", type(PICTURES[name]).__doc__, re.MULTILINE)
    picture = np.array([[c == "x" for c in line.split()] for line in lines])
    size, keys = picture.shape
    history = keys - size
    at = np.arange(keys)
    columns = Places(positions=at, index=at - history, is_history=at < history)
    rows = jax.tree.map(lambda a: a[history:, None], columns)
    ours = np.broadcast_to(PICTURES[name].sees(rows, columns), picture.shape)
    np.testing.assert_array_equal(ours, picture)


def test_masks_are_data_but_for_their_sizes():
    for name, mask in DATA.items():
        again = jax.jit(lambda m: m)(mask)
        assert jax.tree.structure(again) == jax.tree.structure(mask), name
    assert jax.tree.leaves((CAUSAL, BIDIRECTIONAL, Sliding(before=3), BlockCausal(2))) == []
    assert hash(CAUSAL) == hash(type(CAUSAL)())
    np.testing.assert_array_equal(jax.tree.leaves(DATA["split_tree"]), [TREES])


# --- slots -----------------------------------------------------------------------------------------


def random_cache(seed, ring):
    """A window behind histories at any positions: the window, its tags, and what lies in each slot."""
    rng = np.random.default_rng(seed)
    capacity = 14 if ring is None else ring.pinned + ring.size
    start = rng.integers(0, capacity - SIZE if ring is None else 3 * capacity, BATCH)
    valid = rng.integers(1, SIZE + 1, BATCH)
    positions = rng.integers(0, 12, (BATCH, SIZE))
    slots, tags = [], np.full((BATCH, capacity), EMPTY)
    for row in range(BATCH):
        held = [None] * capacity
        history = [Token(int(p), -1, True) for p in rng.integers(0, 12, start[row])]
        for number, token in enumerate(history + window_tokens(positions[row], valid[row])):
            held[number if ring is None else int(ring.slots(np.asarray(number)))] = token
        tags[row] = [EMPTY if token is None else token.position for token in held]
        slots.append(held)
    return start.astype(np.int32), positions.astype(np.int32), valid, tags.astype(np.int32), slots


RINGS = {"all_slots": None, "ring": Ring(size=9), "pinned_ring": Ring(size=8, pinned=3)}


@pytest.mark.parametrize(
    "ring", [None, RINGS["ring"], pytest.param(RINGS["pinned_ring"], marks=pytest.mark.sweep)], ids=RINGS
)
@pytest.mark.parametrize("name", MASKS)
def test_slots_that_are_seen_and_visited(name, ring):
    for seed, (_, layer) in enumerate(sorted(LAYERS.items())):
        start, positions, valid, tags, slots = random_cache(seed, ring)
        window = Window(start=start, positions=positions, valid=valid, mask=DATA[name])
        arguments = {"ring": ring, **of_layer(layer)}
        allowed = allowed_by_position(window, tags, start, **arguments)
        whole = np.asarray(allowed(0, SIZE, 0, tags.shape[1]))
        for row in range(BATCH):
            queries = [Token(int(p), i, False) for i, p in enumerate(positions[row])]
            np.testing.assert_array_equal(whole[row], table(MASKS[name], row, queries, slots[row], **layer))
        np.testing.assert_array_equal(allowed(2, 3, 4, 5), whole[:, 2:5, 4:9])
        key_range = range_in_use(window, tags, start, **arguments)
        for q0, size in ((0, SIZE), (2, 3), (5, 1)):
            low, high = map(int, key_range(q0, size))
            seen = np.nonzero(whole[:, q0 : q0 + size].any((0, 1)))[0]
            assert not len(seen) or (low <= seen[0] and seen[-1] < high), (q0, size)


@pytest.mark.parametrize("mask", [DATA["array"], DATA["split"], CAUSAL], ids=["array", "split", "causal"])
def test_slots_of_its_own_and_an_index_say_where_a_windows_tokens_lie(mask):
    """The window's tokens lie out of order among the history, and were given in another order too."""
    rng = np.random.default_rng(0)
    tags = np.stack([rng.permutation(12)[:10] for _ in range(BATCH)]).astype(np.int32)
    slots = np.array([[7, 2, 3, 9, 0, 99], [1, 0, 8, 4, 5, 6]], np.int32)  # the sixth of row 0 is padding
    index = np.array([[3, 0, 1, 5, 2, 4], [5, 4, 3, 2, 1, 0]], np.int32)
    positions = np.take_along_axis(np.pad(tags, ((0, 0), (0, 90))), slots, axis=1)
    valid, start = np.array([5, 6], np.int32), np.full(BATCH, 10, np.int32)
    window = Window(start=start, positions=positions, valid=valid, mask=mask, slots=slots, index=index)
    ours = allowed_by_position(window, tags, start, None)(0, SIZE, 0, 10)
    for row in range(BATCH):
        held = [Token(int(p), -1, True) for p in tags[row]]
        for i in range(valid[row]):
            held[slots[row, i]] = Token(int(positions[row, i]), int(index[row, i]), False)
        queries = [Token(int(p), int(i), False) for p, i in zip(positions[row], index[row], strict=True)]
        np.testing.assert_array_equal(ours[row], table(jax.tree.map(np.asarray, mask), row, queries, held))


# --- whole sequences -------------------------------------------------------------------------------

QUERIES, KEYS, VALUES = (
    np.random.default_rng(seed).standard_normal((BATCH, 2, SIZE, 4)).astype(np.float32) for seed in range(3)
)
VALID = np.array([SIZE, 5])


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(attend_module, "KEY_BLOCK", 2)


def over_sequence(masks, q, k, v, **layer):
    """Attention over whole sequences under each mask, in blocks of three queries and two keys."""
    outputs = {}
    for name, mask in masks.items():
        window = fresh_window(jnp.zeros((BATCH, SIZE), jnp.int32), VALID, mask)
        outputs[name] = attend(
            q[:, :, None],
            k,
            v,
            allowed=allowed_by_position(window, window_tags(window), window.start, **of_layer(layer)),
            key_range=range_of_sequence(window, **of_layer(layer)),
            scores=Scores(scale=0.5),
            query_block=3,
        )[:, :, 0]
    return outputs


def by_hand(mask, q, k, v, **layer):
    out = np.zeros_like(q, np.float64)
    for row in range(BATCH):
        tokens = [Token(i, i, False) for i in range(SIZE)]
        seen = table(mask, row, tokens, window_tokens(range(SIZE), VALID[row]), **layer)
        weights = np.where(seen, np.exp(0.5 * np.einsum("nsh,nth->nst", q[row], k[row])), 0.0)
        total = weights.sum(-1, keepdims=True)
        out[row] = np.einsum("nst,nth->nsh", weights / np.where(total > 0, total, 1.0), v[row])
    return out


@pytest.mark.sweep
@pytest.mark.parametrize("given", ["as data", "in the program"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_attention_over_a_sequence(small_blocks, layer, given):
    run = functools.partial(over_sequence, **layer)
    if given == "as data":
        ours = quick_jit(run)(DATA, QUERIES, KEYS, VALUES)
    else:
        ours = quick_jit(functools.partial(run, DATA))(QUERIES, KEYS, VALUES)
    for name, mask in MASKS.items():
        expected = by_hand(mask, QUERIES, KEYS, VALUES, **layer)
        for row, n in enumerate(VALID):
            np.testing.assert_allclose(
                ours[name][row, :, :n], expected[row, :, :n], rtol=1e-4, atol=1e-6, err_msg=name
            )


@pytest.mark.sweep
@pytest.mark.parametrize("given", ["as data", "in the program"])
def test_attention_over_a_sequence_is_differentiable(small_blocks, given):
    def loss(masks, q):
        return {
            name: (out[:, :, :5] ** 2).sum() for name, out in over_sequence(masks, q, KEYS, VALUES).items()
        }

    def total(q, masks):
        return sum(loss(masks, q).values())

    if given == "as data":
        ours = quick_jit(jax.grad(total))(QUERIES, DATA)
    else:
        ours = quick_jit(jax.grad(functools.partial(total, masks=DATA)))(QUERIES)
    step = 1e-4 * np.random.default_rng(7).standard_normal(QUERIES.shape)

    def exactly(q):
        return sum((by_hand(mask, q, KEYS, VALUES)[:, :, :5] ** 2).sum() for mask in MASKS.values())

    q = QUERIES.astype(np.float64)
    expected = (exactly(q + step) - exactly(q - step)) / 2
    np.testing.assert_allclose((ours * step).sum(), expected, rtol=1e-3)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("name", EXACT)
def test_work_on_a_sequence_follows_what_is_seen(name, layer):
    """Bounds are Python integers, and no wider than what a block's queries see between them."""
    window = fresh_window(jnp.zeros((BATCH, SIZE), jnp.int32), mask=DATA[name])
    key_range = range_of_sequence(window, **of_layer(layer))
    tokens = [Token(i, i, False) for i in range(SIZE)]
    seen = np.any([table(MASKS[name], row, tokens, tokens, **layer) for row in range(BATCH)], axis=0)
    for q0, size in ((0, SIZE), (0, 2), (3, 2), (5, 1)):
        low, high = key_range(q0, size)
        assert type(low) is type(high) is int
        at = np.nonzero(seen[q0 : q0 + size].any(0))[0]
        assert (low, high) == (at[0], at[-1] + 1), (q0, size)


def test_lengths_that_are_data_leave_a_sequence_its_static_bounds():
    def bounds(mask):
        window = fresh_window(jnp.zeros((BATCH, SIZE), jnp.int32), mask=mask)
        assert range_of_sequence(window, None)(0, 2) == (0, SIZE)
        return window.start

    jax.eval_shape(bounds, DATA["prefix_by_row"])


@pytest.mark.parametrize("name", [*EXACT, "split"])
def test_work_over_a_cache_follows_what_is_seen(name):
    """Behind a history in order, no more slots are visited than a block's queries see between them."""
    start = np.array([7, 7], np.int32)
    positions = start[:, None] + np.arange(SIZE, dtype=np.int32)
    tags = np.broadcast_to(np.where(np.arange(16) < 7 + SIZE, np.arange(16), EMPTY), (BATCH, 16))
    window = Window(start=start, positions=positions, valid=np.full(BATCH, SIZE), mask=DATA[name])
    allowed = np.asarray(allowed_by_position(window, tags, start, 5)(0, SIZE, 0, 16))
    key_range = range_in_use(window, tags, start, 5)
    for q0, size in ((0, SIZE), (2, 3), (5, 1)):
        at = np.nonzero(allowed[:, q0 : q0 + size].any((0, 1)))[0]
        assert tuple(map(int, key_range(q0, size))) == (at[0], at[-1] + 1), (q0, size)


# --- trees -----------------------------------------------------------------------------------------


def test_masks_that_make_a_window_a_tree():
    tree = Ancestors(TREES)
    np.testing.assert_array_equal(tree_of(tree), TREES)
    np.testing.assert_array_equal(tree_of(jnp.asarray(TREES)), TREES)
    np.testing.assert_array_equal(tree_of(Split(history=Sliding(before=2), window=tree)), TREES)
    np.testing.assert_array_equal(tree_of(All((tree, Sliding(before=2)))), TREES)
    chain = Ancestors(np.tril(np.ones((SIZE, SIZE), bool)))
    np.testing.assert_array_equal(tree_of(All((chain, tree))), TREES)
    for mask in (
        CAUSAL,
        BIDIRECTIONAL,
        Prefix(3),
        Either((CAUSAL, Chunks(2))),
        Split(history=tree, window=CAUSAL),
    ):
        assert tree_of(mask) is None


def test_a_rule_beside_a_tree_is_refused_by_recurrent_layers():
    with pytest.raises(ValueError, match="Either joins Ancestors with another rule"):
        tree_of(Either((Ancestors(TREES), Prefix(2))))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree & ~np.eye(SIZE, dtype=bool),  # tokens that do not see themselves
        np.ones_like,  # each an ancestor of each
        lambda tree: (
            tree & ~((np.arange(SIZE)[:, None] == 3) & (np.arange(SIZE) == 0))
        ),  # not the grandparent
        lambda tree: tree | ((np.arange(SIZE)[:, None] == 5) & (np.arange(SIZE) < 2)),  # two parents
    ],
)
def test_an_array_that_is_no_tree_is_refused_by_recurrent_layers(spoil):
    tree = spoil(ancestors(PARENTS[0]))
    with pytest.raises(ValueError, match="each row to name the token itself and its ancestors"):
        tree_of(jnp.asarray(tree))
    jax.eval_shape(tree_of, jnp.asarray(tree))  # without a value it passes


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [*MASKS.values(), np.ones((SIZE, SIZE), bool)], ids=[*MASKS, "bare"])
def test_masks_that_fit(mask):
    check_mask(mask, SIZE, BATCH)
    check_mask(jax.tree.map(jnp.asarray, mask), SIZE, BATCH)
    jax.eval_shape(lambda m: check_mask(m, SIZE, BATCH), jax.tree.map(jnp.asarray, mask))


@pytest.mark.parametrize(
    ("shape", "dtype", "got"),
    [
        ((3, 2), bool, r"bool\[3, 2\]"),
        ((2, 2), bool, r"bool\[2, 2\]"),
        ((3,), bool, r"bool\[3\]"),
        ((1, 2, 3, 3), bool, r"bool\[1, 2, 3, 3\]"),
        ((3, 3), np.int32, r"int32\[3, 3\]"),
        ((3, 3), np.float32, r"float32\[3, 3\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(shape, dtype, got):
    array = jnp.ones(shape, dtype)
    for mask in (array, Ancestors(array), Split(history=CAUSAL, window=Ancestors(array))):
        with pytest.raises(ValueError, match=r"mask: expected bool\[3, 3\] or bool\[B, 3, 3\].*got " + got):
            check_mask(mask, 3)


def test_a_masks_batch_must_be_the_windows():
    with pytest.raises(ValueError, match=r"mask: expected .*bool\[2, 3, 3\].*got bool\[5, 3, 3\]"):
        check_mask(jnp.ones((5, 3, 3), bool), 3, 2)
    with pytest.raises(ValueError, match=r"Prefix expected a whole length or int\[2\].*got int32\[3\]"):
        check_mask(All((CAUSAL, Prefix(jnp.ones(3, jnp.int32)))), 3, 2)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("causal", "expected a mask such as CAUSAL, or a bool array, got 'causal'"),
        (None, "expected a mask such as CAUSAL, or a bool array, got None"),
        (Prefix(2.0), r"Prefix expected a whole length or int\[B\].*got 2.0"),
        (Prefix(np.ones((2, 2), int)), r"Prefix expected a whole length.*got int64\[2, 2\]"),
        (Prefix(-1), "Prefix expected lengths of at least 0, got -1"),
        (OnCanvas(start=2.0), r"OnCanvas expected a whole length or int\[B\].*got 2.0"),
        (All(()), "All expected at least one mask, got none"),
        (Split(history=CAUSAL, window=np.ones((3, 3), bool)), r"Split expected masks.*got bool\[3, 3\]"),
        (Either((CAUSAL, None)), "Either expected masks.*got None"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(ValueError, match="mask: " + message):
        check_mask(mask, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockCausal(0), "BlockCausal: block must be a whole number >= 1"),
        (lambda: DualScope(tokens=0, near=1, every=4), "DualScope: tokens must be a whole number >= 1"),
        (lambda: DualScope(tokens=1, near=-1, every=4), "DualScope: near must be a whole number >= 0"),
        (lambda: DualScope(tokens=1, near=1, every=0), "DualScope: every must be a whole number >= 1"),
        (lambda: Chunks(2.5), "Chunks: size must be a whole number, got 2.5"),
        (lambda: Sliding(before=-1), "Sliding: before must be a whole number >= 0"),
        (lambda: Sliding(after=True), "Sliding: after must be a whole number, got True"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_array_is_short_for_ancestors():
    array = jnp.asarray(TREES)
    assert as_mask(array) == Ancestors(array)
    assert as_mask(CAUSAL) is CAUSAL
