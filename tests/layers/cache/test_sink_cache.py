import numpy as np
import pytest
from cache_helpers import close, draw, project_by_hand, rotate, softmax_by_hand, start
from model_helpers import attention, random_params

from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.rope import Rope

SINKS, RECENT, PEEK = 3, 6, 4
LAYER = attention(
    sink_logits=True,
    rope=Rope(rotary_dim=4, theta=50.0),
    cache=SinkCache(sinks=SINKS, recent=RECENT, longest_peek=PEEK),
)
PARAMS = random_params(LAYER.spec())
X = draw(2, 30)


def by_hand(layer, params, x):
    """Every token over what a literal StreamingLLM cache holds then, keys turned to their places in it."""
    q, k, v = project_by_hand(layer, params, x)
    sinks, recent = layer.cache.sinks, layer.cache.recent
    outputs = []
    for p in range(len(x)):
        kept = [j for j in range(p + 1) if j < sinks or p - j < recent]
        places = np.arange(len(kept))
        turned = q[p : p + 1], k[kept]
        if layer.rope is not None:
            turned = rotate(q[p : p + 1], places[-1:], layer.rope), rotate(k[kept], places, layer.rope)
        logits = np.einsum("nh,tnh->nt", turned[0][0], turned[1]) * layer.head_dim**-0.5
        weights = softmax_by_hand(logits, params["sink_logits"] if layer.sink_logits else None)
        outputs.append(np.einsum("nt,tnh->nh", weights, v[kept]))
    return np.einsum("snh,dnh->sd", np.array(outputs), np.asarray(params["w_o"], np.float64))


EXPECTED = np.stack([by_hand(LAYER, PARAMS, row) for row in X])


@pytest.mark.parametrize("parts", [[4] * 7 + [2], [1] * 30, [2, 4, 1, 3, 4, 4, 4, 1, 4, 3]])
def test_any_split_is_the_definition(parts):
    ours, stream = start(LAYER, PARAMS, capacity=10**6).feed(X, parts)
    close(ours, EXPECTED)
    assert stream.state.k.shape[2] == SINKS + RECENT - 1 + PEEK


def test_without_positions_and_in_a_small_capacity():
    layer = attention(rope=None, cache=SinkCache(sinks=1, recent=3, longest_peek=5))
    params = random_params(layer.spec())
    ours, stream = start(layer, params, capacity=6).feed(X[:, :6], [5, 1])
    close(ours[0], by_hand(layer, params, X[0, :6]))
    assert stream.state.k.shape[2] == 7


def test_what_is_seen_is_what_a_full_cache_sees_while_it_all_fits():
    full = attention(sink_logits=True, rope=LAYER.rope)
    ours, _ = start(LAYER, PARAMS).feed(X[:, :9], [4, 4, 1])
    close(ours, start(full, PARAMS).feed(X[:, :9], [4, 4, 1])[0])


def test_rejected_tokens_leave_no_trace():
    stream, kept = start(LAYER, PARAMS, capacity=10**6), [X[0, :0], X[1, :0]]
    rng = np.random.default_rng(0)
    for i in range(9):
        taken = rng.integers(PEEK + 1, size=2).astype(np.int32)
        window = draw(2, PEEK, seed=i)
        y, pending = stream.peek(window, valid=None if i % 2 else taken)
        stream = stream.commit(pending, taken, *([taken] if i % 2 else []))
        for row, n in enumerate(taken):
            whole = np.concatenate([kept[row], window[row]])
            close(y[row, :n], by_hand(LAYER, PARAMS, whole)[len(kept[row]) :][:n])
            kept[row] = whole[: len(kept[row]) + n]


def test_far_along_a_stream_distances_stay_small():
    """After 12 tokens and after 172 the same recent tokens, and the same first ones, give the same."""
    stream = start(LAYER, PARAMS, batch=1, capacity=10**6)
    _, early = stream.feed(X[:1], [4, 4, 4])
    late = early
    for i in range(40):
        late = late.feed(draw(1, 4, seed=i), [4])[1]
    same = X[:1, 10:20]
    ours, expected = (s.feed(same, [4, 4, 2])[0] for s in (late, early))
    close(ours[:, RECENT - 1 :], expected[:, RECENT - 1 :])


@pytest.mark.parametrize("sizes", [{"sinks": 0}, {"recent": 0}, {"longest_peek": 0}])
def test_sizes_below_one_are_refused(sizes):
    name = next(iter(sizes))
    with pytest.raises(ValueError, match=f"SinkCache: {name}=0 must be at least 1"):
        SinkCache(**sizes)


def test_a_layer_with_its_own_window_is_refused():
    with pytest.raises(ValueError, match=r"SinkCache\(recent=1020\).*sliding_window=8"):
        attention(sliding_window=8, cache=SinkCache())
