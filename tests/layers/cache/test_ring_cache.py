import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_helpers import close, draw, start
from model_helpers import attention, random_params

from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.slot_writes import Ring
from jaxmodels.layers.spec import abstract_params, init_state
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window

REACH, PEEK = 5, 4
FULL = attention(sliding_window=REACH, sink_logits=True)
LAYER = attention(sliding_window=REACH, sink_logits=True, cache=RingCache(longest_peek=PEEK))
PARAMS = random_params(LAYER.spec())
X = draw(2, 40)


def test_the_slots_of_a_ring():
    ring = Ring(size=3, pinned=2)
    np.testing.assert_array_equal(ring.slots(jnp.arange(10)), [0, 1, 2, 3, 4, 2, 3, 4, 2, 3])
    for begin in range(9):
        offsets = ring.offsets(jnp.arange(5), jnp.asarray([begin]))[0]
        for i in range(3):
            assert offsets[int(ring.slots(jnp.asarray(begin + i)))] == i


@pytest.mark.parametrize("parts", [[4] * 10, [1] * 40, [3, 1, 4, 2, 4, 4, 3, 1, 1, 4, 4, 4, 4, 1]])
def test_it_equals_the_full_cache_many_times_round(parts):
    ours, stream = start(LAYER, PARAMS, capacity=1000).feed(X, parts)
    expected, _ = start(FULL, PARAMS).feed(X, parts)
    close(ours, expected)
    assert stream.state.k.shape[2] == REACH - 1 + PEEK


def test_chunks_in_a_ring_equal_those_in_a_full_cache():
    parts = [3, 1, 4, 2, 4, 4, 3, 1, 1, 4, 4, 4, 4, 1]
    ring = attention(chunk=REACH, cache=RingCache(longest_peek=PEEK))
    params = random_params(ring.spec())
    close(start(ring, params).feed(X, parts)[0], start(attention(chunk=REACH), params).feed(X, parts)[0])


def test_rejected_tokens_take_nothing_with_them():
    """At every place of the ring, rows commit different parts of a longest peek, n by n and by `valid`."""
    stream, full = start(LAYER, PARAMS, capacity=1000), start(FULL, PARAMS)
    rng = np.random.default_rng(0)
    for i in range(12):
        taken = rng.integers(PEEK + 1, size=2).astype(np.int32)
        noise = draw(2, PEEK, seed=i)
        for a, b in ((stream, full),):
            y, pending = a.peek(noise)
            expected, full_pending = b.peek(noise)
        close(y, expected)
        if i % 2:
            pending, full_pending = (s.peek(noise, valid=taken)[1] for s in (stream, full))
            stream, full = stream.commit(pending, taken), full.commit(full_pending, taken)
        else:
            stream, full = stream.commit(pending, taken, taken), full.commit(full_pending, taken, taken)


def test_a_tree_around_the_end_of_the_ring():
    tree = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)
    depth, path, n = np.array([0, 1, 1, 2]), np.array([[0, 1, 3], [0, 2, 2]]), np.array([3, 2], np.int32)
    for length in (6, 7, 8, 13):
        streams = [start(layer, PARAMS).feed(X, [1] * length)[1] for layer in (LAYER, FULL)]
        after = []
        for stream in streams:
            y, pending = stream.peek(draw(2, 4, 5), positions=stream.length[:, None] + depth, mask=tree)
            after.append((y, stream.commit(pending, n, n, path).peek(draw(2, 1, 6))[0]))
        for ours, expected in zip(*after, strict=True):
            close(ours, expected)


def test_memory_follows_the_window_and_not_the_capacity():
    def step(params, x, state, start):
        window = Window(start=start, positions=start[:, None], valid=jnp.ones_like(start))
        y, pending = peek_window(layer, params, x, state, window)
        return y, layer.commit(pending)

    sizes = []
    layer = attention(sliding_window=700, cache=RingCache(longest_peek=4))
    for capacity in (10_000, 100_000):
        state = jax.eval_shape(lambda capacity=capacity: init_state(layer, 1, capacity, jnp.float32))
        x = jax.ShapeDtypeStruct((1, 1, 16), jnp.float32)
        start = jax.ShapeDtypeStruct((1,), jnp.int32)
        lowered = jax.jit(step, donate_argnums=2).lower(abstract_params(layer.spec()), x, state, start)
        memory = lowered.compile().memory_analysis()
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        assert memory.alias_size_in_bytes >= held
        assert memory.temp_size_in_bytes < state.k.size * 4 / 2  # neither keys nor values are copied
        sizes.append(held)
    assert sizes[0] == sizes[1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="longest_peek=0 must be at least 1"):
        RingCache(longest_peek=0)
    with pytest.raises(ValueError, match=r"RingCache\(longest_peek=4\).*sliding_window=None"):
        attention(cache=RingCache(longest_peek=4))
    with pytest.raises(ValueError, match="window of 5 tokens is longer than RingCache's longest_peek=4"):
        start(LAYER, PARAMS).peek(draw(2, 5))
