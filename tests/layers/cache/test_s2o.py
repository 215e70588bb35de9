import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_helpers import close, draw, softmax_by_hand, start
from model_helpers import attention, quick_jit, random_params

from jaxmodels.layers.attend import Scores
from jaxmodels.layers.cache.s2o import S2O, density, s2o_attend
from jaxmodels.layers.masks import BIDIRECTIONAL

QUERIES, KEYS = 4, 3
EXACT = S2O(threshold=0.0, query_block=QUERIES, key_block=KEYS)
SHAPE = {"sink_logits": True, "softcap": 5.0}


def layer_with(policy):
    return attention(**SHAPE, cache=policy)


PARAMS = random_params(attention(**SHAPE).spec())
X = draw(2, 30)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("parts", [[30], [9, 13, 8], [11, 1, 1, 17]])
def test_without_a_threshold_it_is_exact(parts):
    ours, _ = start(layer_with(EXACT), PARAMS, capacity=32).feed(X, parts)
    close(ours, start(attention(**SHAPE), PARAMS).feed(X, parts)[0])


def peaked(seed=0, slots=40):
    """Keys of which each head's queries find six far more alike than the rest: q, k, v of one row."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((1, 2, 2, 8, 6)).astype(np.float32) * 0.1
    k, v = (rng.standard_normal((1, 2, slots, 6)).astype(np.float32) for _ in "kv")
    k *= 0.3
    q[..., 0] += 3.0
    for head in range(2):
        important = rng.permutation(slots - 8)[: 6 * (1 + head)]
        k[0, head, important, 0] = 4.0
    return q, k, v, np.arange(slots)[None], np.arange(slots - 8, slots)[None]


def run(policy, q, k, v, tags, positions):
    scores = Scores(scale=1.0)
    return quick_jit(lambda *a: s2o_attend(policy, scores, *a))(q, k, v, tags, positions)


def by_hand(policy, q, k, v, tags, positions):
    """Outputs and blocks read of one row, by the definition."""
    _, heads, _, size, _ = q.shape
    outs, read = np.zeros(q.shape), np.zeros((1, heads), int)
    for head in range(heads):
        for begin in range(0, size, policy.query_block):
            at = slice(begin, begin + policy.query_block)
            before = np.flatnonzero(tags[0] < positions[0, begin])
            estimate = np.einsum("mh,th->mt", q[0, head, :, at].astype(float).mean(1), k[0, head, before])
            weight = softmax_by_hand(estimate).max(0)
            order = np.argsort(-weight, kind="stable")
            keep = []
            for block in range(0, len(order), policy.key_block):
                part = order[block : block + policy.key_block]
                if weight[part].sum() < policy.threshold:
                    break
                keep.extend(before[part])
                read[0, head] += 1
            own = np.flatnonzero(tags[0] >= positions[0, begin])
            slots = np.array([*keep, *own])
            logits = np.einsum("msh,th->mst", q[0, head, :, at].astype(float), k[0, head, slots])
            logits = np.where(tags[0, slots] <= positions[0, at, None], logits, -np.inf)
            outs[0, head, :, at] = softmax_by_hand(logits) @ v[0, head, slots].astype(float)
    return outs, read


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.4])
def test_against_the_definition(threshold):
    policy = S2O(threshold=threshold, query_block=QUERIES, key_block=KEYS)
    arguments = peaked()
    found = run(policy, *arguments)
    expected, read = by_hand(policy, *arguments)
    close(found.out, expected)
    np.testing.assert_array_equal(found.read, read)
    np.testing.assert_array_equal(found.visible, [[11 + 12] * 2])
    np.testing.assert_allclose(density(found), read / 23, rtol=1e-6)


def test_heads_stop_where_they_may_and_the_error_follows_the_threshold():
    arguments = peaked()
    exact = run(EXACT, *arguments)
    assert (density(exact) == 1).all()
    densities, errors = [], []
    for threshold in (1e-3, 0.02, 0.1):
        found = run(S2O(threshold=threshold, query_block=QUERIES, key_block=KEYS), *arguments)
        densities.append(np.asarray(density(found))[0])
        errors.append(np.abs(found.out - exact.out).max())
    # Six important keys are two blocks, twelve are four; of 11 and 12 blocks before the two query blocks.
    np.testing.assert_allclose(densities[-1], [4 / 23, 8 / 23], rtol=1e-6)
    assert np.all(densities[0] >= densities[1]) and np.all(densities[1] >= densities[2])
    assert errors[0] <= errors[1] <= errors[2] < 0.05


def test_keys_of_no_importance_are_not_read():
    q, k, v, tags, positions = peaked()
    policy = S2O(threshold=0.1, query_block=QUERIES, key_block=KEYS)
    clean = run(policy, q, k, v, tags, positions)
    unimportant = (k[..., 0] < 3) & (np.arange(40) < 32)
    assert unimportant.sum() == 64 - 18
    spoiled = np.where(unimportant[..., None], np.nan, v)
    np.testing.assert_array_equal(run(policy, q, k, spoiled, tags, positions).out, clean.out)


@pytest.mark.sweep
def test_padding_does_not_change_what_is_read():
    policy = S2O(threshold=0.05, query_block=QUERIES, key_block=KEYS)
    stream = start(layer_with(policy), PARAMS, capacity=64).feed(X[:, :9], [9])[1]
    valid = np.array([11, 6])
    outputs = []
    for seed in (1, 2):
        window = np.where(np.arange(12)[None, :, None] < valid[:, None, None], X[:, 9:21], draw(2, 12, seed))
        y, pending = stream.peek(window, valid=valid)
        outputs.append((y, stream.commit(pending, valid).peek(X[:, 21:22])[0]))
    for row, n in enumerate(valid):
        np.testing.assert_array_equal(outputs[0][0][row, :n], outputs[1][0][row, :n])
    np.testing.assert_array_equal(outputs[0][1], outputs[1][1])


@pytest.mark.sweep
def test_short_windows_and_other_masks_read_everything():
    policy, full = S2O(threshold=0.5, query_block=QUERIES, key_block=KEYS), attention(**SHAPE)
    streams = [
        start(layer, PARAMS, capacity=64).feed(X[:, :7], [7])[1] for layer in (layer_with(policy), full)
    ]
    for size, kind in ((1, None), (7, None), (8, BIDIRECTIONAL)):
        options = {} if kind is None else {"kind": kind}
        ours, expected = (stream.peek(X[:, 7 : 7 + size], **options)[0] for stream in streams)
        close(ours, expected)
    long, expected = (stream.peek(X[:, 7:20])[0] for stream in streams)
    assert np.abs(long - expected).max() > 1e-3


@pytest.mark.sweep
def test_a_prompt_does_not_hold_its_scores():
    """Nothing of the size of queries times keys is made: 8 heads of 4096 x 8192 float32 would be 1 GiB."""
    policy = S2O(query_block=256, key_block=256)
    shapes = [(1, 4, 2, 4096, 16), (1, 4, 8192, 16), (1, 4, 8192, 16)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    ints = [jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (8192, 4096)]
    lowered = jax.jit(lambda *a: s2o_attend(policy, Scores(scale=0.25), *a)).lower(*arrays, *ints)
    memory = lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).memory_analysis()
    assert memory.temp_size_in_bytes < 48 * 2**20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.0}, r"threshold=1.0 must lie in \[0, 1\)"),
        ({"key_block": 0}, "key_block=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        S2O(**values)
    with pytest.raises(ValueError, match=r"S2O\(threshold=0.001\).*sliding_window=8"):
        attention(sliding_window=8, cache=S2O())
