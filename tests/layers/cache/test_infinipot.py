import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bounded_by_hand import by_hand, cosines
from cache_helpers import close, draw, run_commit, start
from model_helpers import attention, random_params

from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.kv_cache import EMPTY
from jaxmodels.layers.spec import abstract_params, init_state
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window

VIDEO = InfiniPotV(budget=24, keep=14, recent=1, frame=3, system=2, longest_peek=6)
TEXT = InfiniPotV(budget=20, keep=12, recent=2, redundancy_share=0.6, longest_peek=5)
LAYER = attention(sink_logits=True, cache=VIDEO)
PARAMS = random_params(LAYER.spec())
X = draw(2, 50)


def evictor(policy):
    """Compression by the definition."""

    def evict(head):
        if len(head.k) <= policy.budget - policy.longest_peek:
            return
        newest = head.positions.max()
        recent = head.positions > newest - policy.recent * policy.frame
        system = head.positions < policy.system
        place = (head.positions - policy.system) % policy.frame
        score = np.full(len(head.k), -np.inf)
        for j in np.flatnonzero(~recent & ~system):
            same = recent & (place == place[j])
            score[j] = -cosines(head.k[j : j + 1], head.k[same]).mean()
        by_redundancy = round(policy.redundancy_share * (policy.keep - policy.system))
        chosen = np.argsort(-score, kind="stable")[: by_redundancy - recent.sum()]
        worth = np.linalg.norm(head.v, axis=-1)
        worth[recent | system] = np.inf
        worth[chosen] = np.inf
        head.keep(np.sort(np.argsort(-worth, kind="stable")[: policy.keep]))
        head.compressions = getattr(head, "compressions", 0) + 1

    return evict


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("policy", [VIDEO, TEXT], ids=["video", "text"])
@pytest.mark.parametrize("parts", [[5] * 6 + [1] * 20, [3, 1, 5, 5, 4, 1, 5, 5, 5, 2, 5, 5, 4]])
def test_against_the_definition(policy, parts):
    layer = attention(sink_logits=True, cache=policy)
    ours, stream = start(layer, PARAMS, capacity=1000).feed(X, parts)
    assert stream.state.k.shape[2] == policy.budget
    for row in range(2):
        expected, heads = by_hand(layer, PARAMS, X[row], parts, evictor(policy))
        close(ours[row], expected)
        for i, head in enumerate(heads):
            assert head.compressions > 1
            used = len(head.k)
            np.testing.assert_array_equal(stream.state.positions[row, i, :used], head.positions)
            assert (stream.state.positions[row, i, used:] == EMPTY).all()


def test_until_it_is_full_nothing_changes():
    for capacity in (18, 1000):
        ours, _ = start(LAYER, PARAMS, capacity=capacity).feed(X[:, :18], [6, 6, 6])
        close(ours, start(attention(sink_logits=True), PARAMS).feed(X[:, :18], [6, 6, 6])[0])


def test_rejected_tokens_leave_no_trace():
    """One row may have to compress while the other does not."""
    _, stream = start(LAYER, PARAMS, capacity=1000).feed(X, [6, 6, 4])
    window = draw(2, 5, seed=7)
    _, pending = stream.peek(window)
    for n in np.array([(0, 5), (5, 0), (1, 4), (3, 2)], np.int32):
        ours, settled = run_commit(LAYER, pending, n), run_commit(LAYER, stream.peek(window, valid=n)[1])
        np.testing.assert_array_equal(ours.positions, settled.positions)
        _, after = stream.commit(pending, n, n).feed(X[:, 40:41], [1])
        np.testing.assert_array_equal(after.state.used, np.where(16 + n > 18, 14, 16 + n) + 1)
        tagged = np.asarray(ours.positions) != EMPTY
        close(ours.k[tagged], settled.k[tagged])
        close(ours.v[tagged], settled.v[tagged])
        for row in np.flatnonzero(n == 0):
            np.testing.assert_array_equal(ours.positions[row], stream.state.positions[row])


def test_memory_never_grows():
    stream = start(LAYER, PARAMS, capacity=10**6)
    for i in range(30):
        _, stream = stream.feed(draw(2, 6, seed=i), [6])
        assert (stream.state.used <= VIDEO.budget).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 0}, "budget=0 must be at least 1"),
        ({"keep": 20}, "keep=20 and longest_peek=6 must fit budget=24"),
        ({"system": 14}, r"system=14 must lie in \[0, keep=14\)"),
        ({"recent": 3}, "recent=3 frames of frame=3 tokens exceed their share, redundancy_share=0.5 of 12"),
        ({"redundancy_share": 1.5}, r"redundancy_share=1.5 must lie in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    sizes = {"budget": 24, "keep": 14, "recent": 1, "frame": 3, "system": 2, "longest_peek": 6}
    with pytest.raises(ValueError, match=message):
        InfiniPotV(**(sizes | values))


def test_a_decode_loop_copies_the_slots_only_to_compress_them():
    policy = InfiniPotV(budget=1000, keep=700, recent=8, longest_peek=100)
    layer = attention(head_dim=32, rope=None, cache=policy)

    def decode(params, x, state, start):
        def step(i, carry):
            x, state = carry
            one = jnp.ones_like(start)
            window = Window(start=start + i, positions=(start + i)[:, None], valid=one)
            y, pending = peek_window(layer, params, x, state, window)
            return y, layer.commit(pending)

        return jax.lax.fori_loop(0, 16, step, (x, state))

    state = jax.eval_shape(lambda: init_state(layer, 1, 10**6, jnp.float32))
    x, begin = jax.ShapeDtypeStruct((1, 1, 16), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(decode, donate_argnums=2).lower(abstract_params(layer.spec()), x, state, begin)
    text = lowered.compile().as_text()
    # One gather into new buffers, and back: outside of it neither keys nor values are copied.
    assert len(re.findall(r"= f32\[1,2,1000,32\]\S* copy\(", text)) <= 2
