import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, attention, quick_jit, random_params

from jaxmodels.layers import attend as attend_module
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.kv_cache import EMPTY, KVState
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL
from jaxmodels.layers.norm import RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.query_scale import LogScale
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import abstract_params, init_state, walk
from jaxmodels.layers.window import Window, fresh_window
from jaxmodels.layers.window import peek as peek_window

NORM = RMSNorm(dim=6, axis=None)
VARIANTS = {
    "ratio_1_sinks_partial_rope": attention(
        num_kv_heads=4, sink_logits=True, rope=Rope(rotary_dim=4, theta=50.0)
    ),
    "ratio_3_softcap_biases": attention(
        num_heads=6, softcap=2.0, qkv_bias=True, out_bias=True, rope=None, output_gate=True
    ),
    "ratio_8_scale_window": attention(num_heads=8, num_kv_heads=1, scale=0.9, sliding_window=4),
    "norms_wide_window": attention(query_norm=NORM, key_norm=NORM, sliding_window=50, output_gate=True),
    "norms_across_heads": attention(
        query_norm=RMSNorm(dim=24, axis=None), key_norm=RMSNorm(dim=12, axis=None), norm_across_heads=True
    ),
    "keys_as_values": attention(
        num_heads=6, query_norm=NORM, key_norm=NORM, value_norm=WeightlessRMSNorm(eps=NORM.eps),
        keys_as_values=True, scale=1.0, qkv_bias=True,
    ),
    "window_of_itself": attention(sliding_window=1, sink_logits=True, softcap=1.0),
    "chunks_clip_query_scale": attention(
        chunk=4, clip=0.6, query_scale=LogScale(strength=0.5, interval=3, offset=1), rope=None
    ),
}  # fmt: skip
# Window tokens 0..3 as a tree: 0 -> 1 -> 3 and 0 -> 2.
TREE = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)
DEPTH = np.array([0, 1, 1, 2], np.int32)
CHAIN = np.tril(np.ones((4, 4), bool))


@pytest.fixture(autouse=True)
def small_key_blocks(monkeypatch):
    """Five slots per block: the caches below end in the middle of one."""
    monkeypatch.setattr(attend_module, "KEY_BLOCK", 5)
    monkeypatch.setattr(attend_module, "KEY_BLOCK_ONE_QUERY", 5)


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


def rotate(x, positions, rope):
    half = rope.rotary_dim // 2
    angles = positions[:, None] * rope.theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def by_hand(layer, params, x, positions, seen):
    """One sequence [S, D] with its table of who sees whom, over the whole score matrix in float64."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in walk(params)}
    q, k, v = (
        np.einsum("sd,nhd->snh", x, p[f"w_{n}"]) + p.get(f"b_{n}", 0)
        for n in ("qkk" if layer.keys_as_values else "qkv")
    )
    if layer.value_norm is not None:
        v = v / np.sqrt((v**2).mean(-1, keepdims=True) + NORM.eps)
    if layer.query_norm is not None:
        together = (-2, -1) if layer.norm_across_heads else -1
        q, k = (
            a / np.sqrt((a**2).mean(together, keepdims=True) + NORM.eps) * p[f"{name}/scale"].reshape(-1, 6)
            for a, name in ((q, "query_norm"), (k, "key_norm"))
        )
    if layer.clip is not None:
        q, k, v = (np.clip(a, -layer.clip, layer.clip) for a in (q, k, v))
    if layer.query_scale is not None:
        steps = np.floor((positions + layer.query_scale.offset) / layer.query_scale.interval)
        q = q * (1 + layer.query_scale.strength * np.log(1 + steps))[:, None, None]
    if layer.rope is not None:
        q, k = (rotate(a, positions, layer.rope) for a in (q, k))
    k, v = (np.repeat(a, layer.num_heads // layer.num_kv_heads, axis=1) for a in (k, v))
    logits = np.einsum("snh,tnh->nst", q, k) * (layer.scale or layer.head_dim**-0.5)
    if layer.softcap is not None:
        logits = layer.softcap * np.tanh(logits / layer.softcap)
    if layer.sliding_window is not None:
        seen = seen & (np.abs(positions[:, None] - positions[None, :]) < layer.sliding_window)
    if layer.chunk is not None:
        seen = seen & (positions[:, None] // layer.chunk == positions[None, :] // layer.chunk)
    weights = np.where(seen, np.exp(logits), 0.0)
    total = weights.sum(-1, keepdims=True)
    if layer.sink_logits:
        total = total + np.exp(p["sink_logits"])[:, None, None]
    out = np.einsum("nst,tnh->snh", weights / total, v)
    if layer.output_gate:
        out = out / (1 + np.exp(-np.einsum("sd,nhd->snh", x, p["w_gate"]) - p.get("b_gate", 0)))
    return np.einsum("snh,dnh->sd", out, p["w_o"]) + p.get("b_o", 0)


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)


@functools.partial(quick_jit, static_argnums=0)
def forward(layer, params, x, valid, mask=CAUSAL):
    return layer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32), valid, mask))


@functools.partial(quick_jit, static_argnames=("layer", "kind"))
def run_peek(layer, params, x, state, start, valid, positions, *, mask, kind):
    window = Window(start=start, positions=positions, valid=valid, mask=mask if kind is None else kind)
    return peek_window(layer, params, x, state, window)


def peek(layer, params, x, state, start, *, valid=None, positions=None, mask=None, kind=CAUSAL):
    """`layer.peek`, compiled once per window size and kind of mask."""
    size = x.shape[1]
    positions = start[:, None] + np.arange(size, dtype=np.int32) if positions is None else positions
    valid = np.full(start.shape, size, np.int32) if valid is None else valid
    kind = None if mask is not None else kind
    return run_peek(layer, params, x, state, start, valid, positions, mask=mask, kind=kind)


commit = quick_jit(Attention.commit, static_argnums=0)
LENGTHS = np.array([6, 4], np.int32)  # of the histories below
HISTORY, NEW, NEXT = draw(2, 6, seed=1), draw(2, 4, seed=2), draw(2, 1, seed=3)


def settled_history(layer, params, capacity=13):
    """Two rows with histories of 6 and 4 tokens, fed in two windows of which the second is mostly padding."""
    state, padded = init_state(layer, 2, capacity, jnp.float32), np.pad(HISTORY, ((0, 0), (0, 2), (0, 0)))
    for begin, valid in ((0, [4, 4]), (4, [2, 0])):
        window, start = padded[:, begin : begin + 4], np.full(2, begin, np.int32)
        state = commit(layer, peek(layer, params, window, state, start, valid=np.array(valid, np.int32))[1])
    return state


@pytest.fixture(scope="module", params=VARIANTS)
def case(request):
    layer = VARIANTS[request.param]
    return layer, random_params(layer.spec())


def test_forward_against_the_definition(case):
    layer, params = case
    x, lengths = draw(2, 11), (11, 7)
    ours = forward(layer, params, x, jnp.asarray(lengths))
    for row, n in enumerate(lengths):
        causal = np.tril(np.ones((n, n), bool))
        close(ours[row, :n], by_hand(layer, params, x[row, :n], np.arange(n), causal))


def test_forward_with_other_masks():
    layer = VARIANTS["ratio_8_scale_window"]
    params, x, valid = random_params(layer.spec()), draw(2, 7), jnp.asarray([7, 5])
    window = fresh_window(jnp.zeros((2, 7), jnp.int32), valid, BIDIRECTIONAL)
    both_ways = quick_jit(lambda p, x: layer.forward(p, x, window))(params, x)
    mask = np.random.default_rng(5).random((7, 7)) < 0.5
    mask |= np.eye(7, dtype=bool)
    by_mask = forward(layer, params, x, valid, mask)
    for row, n in enumerate((7, 5)):
        everyone = np.ones((n, n), bool)
        close(both_ways[row, :n], by_hand(layer, params, x[row, :n], np.arange(n), everyone))
        close(by_mask[row, :n], by_hand(layer, params, x[row, :n], np.arange(n), mask[:n, :n]))


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "tree"])
def test_a_window_after_a_history(case, kind):
    layer, params = case
    state = settled_history(layer, params)
    in_order = np.arange(4, dtype=np.int32)
    inside = {"causal": [CHAIN, CHAIN], "bidirectional": [CHAIN | True] * 2, "tree": [TREE, CHAIN]}[kind]
    depth = np.stack([DEPTH if kind == "tree" else in_order, in_order])
    if kind == "tree":
        mask, positions = np.stack(inside), LENGTHS[:, None] + depth
        y, _ = peek(layer, params, NEW, state, LENGTHS, positions=positions, mask=mask)
    else:
        kinds = {"causal": CAUSAL, "bidirectional": BIDIRECTIONAL}
        y, _ = peek(layer, params, NEW, state, LENGTHS, kind=kinds[kind])
    for row, n in enumerate(LENGTHS):
        seen = np.tril(np.ones((n + 4, n + 4), bool))
        seen[n:, n:] = inside[row]
        at = np.concatenate([np.arange(n), n + depth[row]])
        x = np.concatenate([HISTORY[row, :n], NEW[row]])
        close(y[row], by_hand(layer, params, x, at, seen)[n:])


def next_token(layer, params, state, length):
    return peek(layer, params, NEXT, state, length)[0]


def expected_next(layer, params, row, taken):
    """The output of NEXT after row's history and the window tokens `taken`."""
    x = np.concatenate([HISTORY[row, : LENGTHS[row]], NEW[row, list(taken)], NEXT[row]])
    return by_hand(layer, params, x, np.arange(len(x)), np.tril(np.ones((len(x), len(x)), bool)))[-1]


def test_committing_n_tokens_is_having_seen_only_those(case):
    layer, params = case
    state = settled_history(layer, params)
    _, pending = peek(layer, params, NEW, state, LENGTHS)
    for n in np.array([(0, 4), (4, 0), (1, 3), (2, 2)], np.int32):
        by_valid = peek(layer, params, NEW, state, LENGTHS, valid=n)[1]
        for after in (commit(layer, pending, n), commit(layer, by_valid)):
            y = next_token(layer, params, after, LENGTHS + n)
            for row in range(2):
                close(y[row, 0], expected_next(layer, params, row, range(n[row])))


def test_committing_nothing_gives_the_history_back(case):
    layer, params = case
    state = settled_history(layer, params)
    _, pending = peek(layer, params, NEW, state, LENGTHS)
    after = commit(layer, pending, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(after.positions, state.positions)
    for row, n in enumerate((6, 4)):
        np.testing.assert_array_equal(after.k[row, :, :n], state.k[row, :, :n])
        np.testing.assert_array_equal(after.v[row, :, :n], state.v[row, :, :n])


def test_committing_a_path_through_a_tree(case):
    layer, params = case
    state = settled_history(layer, params)
    positions, mask = LENGTHS[:, None] + DEPTH, np.stack([TREE, TREE])
    _, pending = peek(layer, params, NEW, state, LENGTHS, positions=positions, mask=mask)
    path, n = np.array([[0, 1, 3], [0, 2, 2]]), np.array([3, 2], np.int32)
    y = next_token(layer, params, commit(layer, pending, n, path), LENGTHS + n)
    close(y[0, 0], expected_next(layer, params, 0, (0, 1, 3)))
    close(y[1, 0], expected_next(layer, params, 1, (0, 2)))
    whole = next_token(layer, params, commit(layer, pending, None, path), LENGTHS + 3)
    close(whole[0], y[0])


def test_the_order_of_slots_does_not_matter():
    """Who sees whom follows from the positions that slots carry."""
    layer = VARIANTS["ratio_8_scale_window"]
    params = random_params(layer.spec())
    state = settled_history(layer, params)
    order = np.array([3, 0, 2, 1, *range(4, 13)])
    shuffled = KVState(k=state.k[:, :, order], v=state.v[:, :, order], positions=state.positions[:, order])
    assert not np.array_equal(shuffled.positions, state.positions)
    close(
        next_token(layer, params, shuffled, LENGTHS),
        np.asarray(next_token(layer, params, state, LENGTHS)),
    )


@pytest.mark.parametrize("window", [None, 4])
def test_only_blocks_with_visible_slots_are_read(window):
    """Values that are no numbers spoil what reads them: slots beyond the length, or older than the window."""
    layer = attention(sliding_window=window)
    params = random_params(layer.spec())
    slots, start = np.arange(29), np.array([17, 17], np.int32)
    k, v = (np.random.default_rng(i).standard_normal((2, 2, 29, 6)).astype(np.float32) for i in (1, 2))
    state = KVState(
        k=k, v=v, positions=np.where(slots < 17, slots, EMPTY)[None].repeat(2, 0).astype(np.int32)
    )
    clean = next_token(layer, params, state, start)
    unread = slots >= 20 if window is None else (slots >= 20) | (slots < 10)
    spoiled = state.replace(v=jnp.where(unread[:, None], jnp.nan, state.v))
    np.testing.assert_array_equal(next_token(layer, params, spoiled, start), clean)


@pytest.mark.parametrize(("params_dtype", "state_dtype"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_state_keeps_its_types(params_dtype, state_dtype):
    layer = VARIANTS["ratio_1_sinks_partial_rope"]
    params = abstract_params(layer.spec(), params_dtype)
    state = jax.eval_shape(lambda: init_state(layer, 2, 9, state_dtype))
    i32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        window = (i32((2,)), i32((2,)), i32((2, size)))
        run = functools.partial(run_peek.__wrapped__, layer, kind=CAUSAL, mask=None)
        y, pending = jax.eval_shape(run, params, x, state, *window)
        assert y.dtype == params_dtype
        for arguments in ((), (i32((2,)),), (i32((2,)), i32((2, size)))):
            assert jax.eval_shape(layer.commit, pending, *arguments) == state


def test_an_empty_slot_is_never_seen():
    layer = attention()
    params = random_params(layer.spec())
    state = init_state(layer, 1, 7, jnp.float32)
    assert (state.positions == EMPTY).all()
    state = state.replace(v=state.v + 100.0)
    y, _ = peek(layer, params, NEXT[:1], state, np.zeros(1, np.int32), kind=BIDIRECTIONAL)
    close(y[0], by_hand(layer, params, NEXT[0], np.zeros(1), np.ones((1, 1), bool)))


# --- compiled memory -------------------------------------------------------------------------------

MIB = 2**20


def temp_bytes(function, *arguments, **jit):
    lowered = jax.jit(function, **jit).lower(*arguments)
    quickly = {"xla_backend_optimization_level": 0}  # buffers are assigned before code is generated
    return lowered.compile(compiler_options=quickly).memory_analysis().temp_size_in_bytes


def test_a_long_prefill_never_holds_its_score_matrix(monkeypatch):
    monkeypatch.undo()
    size, layer = (
        8192,
        Attention(d_model=8, num_heads=4, num_kv_heads=2, head_dim=16, rope=Rope(rotary_dim=16)),
    )
    params = abstract_params(layer.spec())
    x = jax.ShapeDtypeStruct((1, size, 8), jnp.float32)

    def whole(params, x):
        return layer.forward(params, x, fresh_window(jnp.zeros((1, size), jnp.int32)))

    def prefill(params, x, state, start):
        positions = start[:, None] + jnp.arange(size)
        window = Window(start=start, positions=positions, valid=jnp.full((1,), size))
        y, pending = peek_window(layer, params, x, state, window)
        return y, layer.commit(pending)

    state = jax.eval_shape(lambda: init_state(layer, 1, size + 64, jnp.float32))
    start = jax.ShapeDtypeStruct((1,), jnp.int32)
    # The score matrix of four heads would be 1024 MiB; q, k, v and the output are 2 MiB or less each.
    assert temp_bytes(whole, params, x) < 24 * MIB
    assert temp_bytes(prefill, params, x, state, start, donate_argnums=2) < 24 * MIB


def test_reverse_mode_does_not_keep_the_score_matrix(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(attend_module, "MAX_QUERY_BLOCKS", 2)
    monkeypatch.setattr(attend_module, "QUERY_BLOCK", 1024)
    size, layer = 2048, Attention(d_model=8, num_heads=4, num_kv_heads=2, head_dim=8)

    def loss(params, x):
        return layer.forward(params, x, fresh_window(jnp.zeros((1, size), jnp.int32))).sum()

    x = jax.ShapeDtypeStruct((1, size, 8), jnp.float32)
    # One float32 score matrix is 64 MiB; without recomputation at least two are kept.
    assert temp_bytes(jax.grad(loss), abstract_params(layer.spec()), x) < 32 * MIB


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"num_kv_heads": 0}, "num_kv_heads=0 must divide num_heads=4"),
        ({"sliding_window": 0}, "sliding_window=0 must be at least 1"),
        ({"softcap": 0.0}, "softcap=0.0 must be positive"),
        ({"clip": 0.0}, "clip=0.0 must be positive"),
        ({"chunk": 0}, "chunk=0 must be at least 1"),
        ({"chunk": 4, "sliding_window": 4}, "chunk=4 and sliding_window=4: at most one"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        attention(**changes)
