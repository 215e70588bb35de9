import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from backend_forms import forms_of
from model_helpers import quick_jit

from jaxmodels.layers import attend as attend_module
from jaxmodels.layers.attend import Scores, absorb, attend, start_softmax, wide_blocks
from jaxmodels.layers.backends import BACKENDS

BLOCK = 8


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that a handful of slots fill more than once."""
    monkeypatch.setattr(attend_module, "KEY_BLOCK", BLOCK)
    monkeypatch.setattr(attend_module, "KEY_BLOCK_ONE_QUERY", BLOCK)
    monkeypatch.setattr(attend_module, "QUERY_BLOCK", BLOCK)
    monkeypatch.setattr(attend_module, "WIDE_QUERY_BLOCK", BLOCK)
    monkeypatch.setattr(attend_module, "WIDE_KEY_BLOCK", BLOCK)
    monkeypatch.setattr(attend_module, "MOST_KEYS_ONE_QUERY", BLOCK)


def draw(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def dense(q, k, v, seen, *, scale, softcap=None, sink_logits=None):
    """The same attention in float64 over the whole score matrix."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    logits = np.einsum("bkmsh,bkth->bkmst", q, k) * scale
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
    logits = np.where(seen[:, None, None], logits, -np.inf)
    if sink_logits is not None:
        column = np.broadcast_to(
            np.asarray(sink_logits, np.float64)[None, :, :, None, None], (*logits.shape[:-1], 1)
        )
        logits = np.concatenate([logits, column], axis=-1)
    maximum = logits.max(-1, keepdims=True)
    weights = np.exp(logits - np.where(np.isfinite(maximum), maximum, 0.0))
    total = weights.sum(-1, keepdims=True)
    weights = (weights / np.where(total > 0, total, 1.0))[..., : k.shape[2]]
    return np.einsum("bkmst,bkth->bkmsh", weights, v)


def by_table(seen):
    """The `allowed` of a whole boolean table."""

    def allowed(q0, q_size, k0, k_size):
        rows = jax.lax.dynamic_slice_in_dim(seen, q0, q_size, axis=1)
        return jax.lax.dynamic_slice_in_dim(rows, k0, k_size, axis=2)

    return allowed


@functools.partial(quick_jit, static_argnames=("scores", "static", "unpack"))
def run(q, k, v, seen, sink_logits, limits, *, scores, static, unpack=lambda k, v: (k, v)):
    """`attend` with a table; its key range is all slots as Python integers, or the traced `limits`.

    The block sizes are read when it is traced: tests that change them share no shapes with the others.
    """
    slots = k.shape[2]

    def key_range(q0, q_size):
        return (0, slots) if static else limits

    table = by_table(seen)
    return attend(
        q, k, v, allowed=table, key_range=key_range, scores=scores, sink_logits=sink_logits, unpack=unpack
    )


def inputs(batch, kv_heads, per_kv, queries, slots, width, seed=0):
    q = draw(batch, kv_heads, per_kv, queries, width, seed=seed).astype(np.float32)
    k, v = (draw(batch, kv_heads, slots, width, seed=seed + i).astype(np.float32) for i in (1, 2))
    seen = np.random.default_rng(seed + 3).random((batch, queries, slots)) < 0.6
    seen[0, -1] = False  # a query that may attend to nothing
    seen[-1, 0] = True
    return q, k, v, seen


@pytest.mark.parametrize(
    ("kv_heads", "per_kv", "queries", "slots", "softcap", "with_sinks", "static"),
    [
        (1, 1, 1, 1, None, False, True),
        (2, 3, 1, 7, None, True, False),
        (2, 1, 8, 8, 1.5, False, True),
        (1, 8, 9, 9, None, False, False),
        (2, 2, 5, 15, 0.7, True, False),
        (3, 1, 17, 16, None, True, True),
        (1, 2, 16, 17, 2.0, False, False),
        (2, 4, 3, 31, None, False, True),
    ],
)
def test_against_the_dense_form(small_blocks, kv_heads, per_kv, queries, slots, softcap, with_sinks, static):
    q, k, v, seen = inputs(2, kv_heads, per_kv, queries, slots, 5, seed=slots)
    sink_logits = draw(kv_heads, per_kv, seed=9).astype(np.float32) if with_sinks else None
    limits = (jnp.int32(0), jnp.int32(slots))
    ours = run(q, k, v, seen, sink_logits, limits, scores=Scores(scale=0.6, softcap=softcap), static=static)
    expected = dense(q, k, v, seen, scale=0.6, softcap=softcap, sink_logits=sink_logits)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)
    assert not ours[0, :, :, -1].any()


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("queries", [1, 8, 17, 24])
def test_an_accelerators_order_of_blocks_finds_the_same(small_blocks, queries, static):
    q, k, v, seen = inputs(2, 2, 3, queries, 37, 5)
    wider = np.concatenate([v, v[..., :3]], axis=-1)
    limits, scores = (jnp.int32(0), jnp.int32(37)), Scores(scale=0.6)
    with forms_of("tpu"):
        ours = quick_jit(
            lambda *arrays: run.__wrapped__(*arrays, None, limits, scores=scores, static=static)
        )(q, k, wider, seen)
        rows = jax.vmap(
            lambda *one: run.__wrapped__(*(a[None] for a in one), None, limits, scores=scores, static=static)
        )(q, k, wider, seen)
    expected = dense(q, k, wider, seen, scale=0.6)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(rows[:, 0], expected, rtol=2e-5, atol=2e-6)


def test_a_softmax_over_other_keys_goes_on_in_every_block(small_blocks):
    q, k, v, seen = inputs(1, 2, 1, 19, 24, 5)
    before = absorb(
        start_softmax(q), Scores(scale=0.6)(q, k[:, :, :8], seen[:, :, :8]), seen[:, :, :8], v[:, :, :8]
    )
    for backend in BACKENDS:
        with forms_of(backend):
            ours = attend(
                q, k[:, :, 8:], v[:, :, 8:], allowed=by_table(seen[:, :, 8:]), running=before,
                key_range=lambda start, size: (jnp.int32(0), jnp.int32(16)), scores=Scores(scale=0.6),
            )  # fmt: skip
        np.testing.assert_allclose(ours, dense(q, k, v, seen, scale=0.6), rtol=2e-5, atol=2e-6)


def test_accelerators_get_blocks_that_are_worth_a_step():
    def keys(rows, heads, queries=1):
        q, k = (jax.ShapeDtypeStruct((rows, heads, *a, 128), jnp.bfloat16) for a in ((4, queries), (2**15,)))
        return wide_blocks(q, k, k).keys

    assert (keys(1, 1), keys(1, 8), keys(4, 8), keys(8, 8), keys(64, 8)) == (8192, 8192, 2048, 1024, 1024)
    assert keys(1, 8, queries=2) == 1024


def test_values_may_have_another_width_and_lie_among_the_keys(small_blocks):
    q, k, v, seen = inputs(2, 2, 3, 4, 19, 6)
    limits = (jnp.int32(0), jnp.int32(19))
    wider = np.concatenate([v, v[..., :3]], axis=-1)
    for values in (wider, v[..., :1]):
        ours = run(q, k, values, seen, None, limits, scores=Scores(scale=0.6), static=False)
        np.testing.assert_allclose(ours, dense(q, k, values, seen, scale=0.6), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("static", [True, False])
def test_keys_and_values_may_be_stored_in_another_form(small_blocks, static):
    q, k, _, seen = inputs(2, 2, 3, 4, 19, 6)
    stored = k.transpose(0, 2, 1, 3).reshape(2, 1, 19, 12)  # heads side by side, in one buffer

    def unpack(stored, again):
        keys, values = (block.reshape(2, -1, 2, 6).swapaxes(1, 2) for block in (stored, again))
        return keys, 2 * values[..., :4]

    limits = (jnp.int32(0), jnp.int32(19))
    scores = Scores(scale=0.6)
    ours = run(q, stored, stored, seen, None, limits, scores=scores, static=static, unpack=unpack)
    np.testing.assert_allclose(ours, dense(q, k, 2 * k[..., :4], seen, scale=0.6), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("slots", [255, 257, 511])
def test_around_the_real_block_size(slots):
    q, k, v, seen = inputs(1, 1, 2, 3, slots, 4)
    limits = (jnp.int32(0), jnp.int32(slots))
    ours = run(q, k, v, seen, None, limits, scores=Scores(scale=1.0), static=False)
    np.testing.assert_allclose(ours, dense(q, k, v, seen, scale=1.0), rtol=2e-5, atol=2e-6)


def test_only_blocks_in_the_key_range_are_read(small_blocks):
    """Values that are no numbers spoil every block that is touched, whatever its mask says."""
    q, k, v, seen = inputs(2, 1, 2, 3, 37, 4)
    seen[:, :, :16], seen[:, :, 24:] = False, False
    v[:, :, :16], v[:, :, 24:] = np.nan, np.nan
    scores = Scores(scale=1.0)
    ours = run(q, k, v, seen, None, (jnp.int32(17), jnp.int32(23)), scores=scores, static=False)
    np.testing.assert_allclose(ours, dense(q, k, np.nan_to_num(v), seen, scale=1.0), rtol=2e-5, atol=2e-6)
    nothing = run(q, k, v, seen, None, (jnp.int32(37), jnp.int32(0)), scores=scores, static=False)
    assert not nothing.any()


def test_huge_logits_neither_overflow_nor_lose_the_sink(small_blocks):
    q, k, v, seen = inputs(1, 1, 1, 4, 20, 4)
    seen[:] = True
    sink_logits = np.asarray([[3.0e4]], np.float32)
    limits = (jnp.int32(0), jnp.int32(20))
    ours = run(1e3 * q, k, v, seen, sink_logits, limits, scores=Scores(scale=10.0), static=False)
    expected = dense(1e3 * q, k, v, seen, scale=10.0, sink_logits=sink_logits)
    np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=1e-3)


def test_bfloat16_accumulates_in_float32():
    q, k, v, seen = (jnp.asarray(a) for a in inputs(1, 2, 2, 3, 64, 8))
    low = [a.astype(jnp.bfloat16) for a in (q, k, v)]
    limits = (jnp.int32(0), jnp.int32(64))
    ours = run(*low, seen, None, limits, scores=Scores(scale=0.3), static=False)
    assert ours.dtype == jnp.bfloat16
    expected = dense(*(a.astype(jnp.float32) for a in low), np.asarray(seen), scale=0.3)
    np.testing.assert_allclose(np.asarray(ours, np.float32), expected, atol=2e-2)


def test_gradients_equal_those_of_the_dense_form(small_blocks):
    q, k, v, seen = inputs(2, 2, 2, 5, 17, 3)
    sink_logits = draw(2, 2, seed=9).astype(np.float32)
    weight = draw(*q.shape, seed=11).astype(np.float32)
    scores = Scores(scale=0.6, softcap=2.0)

    def streaming(q, k, v, sink_logits):
        limits = (jnp.int32(0), jnp.int32(17))
        return (
            run.__wrapped__(q, k, v, seen, sink_logits, limits, scores=scores, static=True) * weight
        ).sum()

    def whole(q, k, v, sink_logits):
        logits = 2.0 * jnp.tanh(jnp.einsum("bkmsh,bkth->bkmst", q, k) * 0.6 / 2.0)
        logits = jnp.where(seen[:, None, None], logits, -1e9)
        column = jnp.broadcast_to(sink_logits[None, :, :, None, None], (*logits.shape[:-1], 1))
        weights = jax.nn.softmax(jnp.concatenate([logits, column], axis=-1), axis=-1)[..., :-1]
        return (jnp.einsum("bkmst,bkth->bkmsh", weights, v) * weight).sum()

    ours = quick_jit(jax.grad(streaming, argnums=(0, 1, 2, 3)))(q, k, v, sink_logits)
    expected = quick_jit(jax.grad(whole, argnums=(0, 1, 2, 3)))(q, k, v, sink_logits)
    for name, a, b in zip(("q", "k", "v", "sink_logits"), ours, expected, strict=True):
        assert np.abs(b).max() > 1e-2
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=name)


def test_gradients_of_queries_that_see_nothing_are_zero(small_blocks):
    q, k, v, seen = inputs(1, 1, 1, 3, 12, 4)
    seen[:] = False
    limits = (jnp.int32(0), jnp.int32(12))

    def loss(q, k, v):
        return run.__wrapped__(q, k, v, seen, None, limits, scores=Scores(scale=1.0), static=True).sum()

    for gradient in quick_jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v):
        assert not gradient.any()
