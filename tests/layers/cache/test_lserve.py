import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_helpers import close, draw, project_by_hand, rotate, run_commit, softmax_by_hand, start
from model_helpers import D_MODEL, attention, random_params

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.lserve import LServe, streaming_by_gates
from jaxmodels.layers.cache.pages import NO_PAGE
from jaxmodels.layers.kv_cache import EMPTY
from jaxmodels.layers.spec import abstract_params, init_state
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window

POLICY = LServe(
    streaming_heads=(1,), budget=12, page=4, subpages=2, refresh=3, sinks=2, local=5, longest_peek=8
)
SHAPE = {"num_heads": 6, "num_kv_heads": 3, "sink_logits": True}
LAYER = attention(**SHAPE, cache=POLICY)
PARAMS = random_params(LAYER.spec())
X = draw(2, 45)


def best_pages(q, k, t, policy):
    """The pages before token t's that bound the logits of its query heads [M, H] best, by the definition."""
    worth = []
    for page in range(t // policy.page):
        keys = k[page * policy.page : (page + 1) * policy.page].reshape(policy.subpages, -1, k.shape[-1])
        bounds = np.maximum(q[:, None] * keys.min(1), q[:, None] * keys.max(1)).sum(-1)
        worth.append(bounds.max())
    return sorted(np.argsort(worth)[::-1][: policy.budget // policy.page - 1])


def by_hand(layer, params, x, parts):
    """One sequence in windows of these sizes: outputs, and the share of visible keys that was read."""
    policy, group = layer.cache, layer.num_heads // layer.num_kv_heads
    at = np.arange(len(x))
    q, k, v = project_by_hand(layer, params, x)
    q, k = rotate(q, at, layer.rope), rotate(k, at, layer.rope)
    seen = np.broadcast_to(np.tril(np.ones((len(x), len(x)), bool)), (layer.num_heads, len(x), len(x))).copy()
    for head in range(layer.num_heads):
        if head // group in policy.streaming_heads:
            seen[head] &= (at[None, :] < policy.sinks) | (at[:, None] - at[None, :] < policy.local)
            continue
        heads = slice(head // group * group, (head // group + 1) * group)
        t, age, chosen = 0, policy.refresh, []
        for part in parts:
            if part > 1:
                t, age = t + part, policy.refresh
                continue
            if age >= policy.refresh or t % policy.page == 0:
                chosen, age = best_pages(q[t, heads], k[:t, head], t, policy), 0
            read = np.isin(at // policy.page, [*chosen, t // policy.page])
            seen[head, t] &= read
            t, age = t + 1, age + 1
    logits = np.einsum("snh,tnh->nst", q, k) * layer.head_dim**-0.5
    weights = softmax_by_hand(np.where(seen, logits, -np.inf).swapaxes(0, 1), params["sink_logits"])
    out = np.einsum("snt,tnh->snh", weights, v)
    return np.einsum("snh,dnh->sd", out, np.asarray(params["w_o"], np.float64))


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "parts", [[8] * 3 + [1] * 21, [1] * 45, [5, 1, 1, 8, 1, 1, 1, 7, *[1] * 5, 2, *[1] * 13]]
)
def test_against_the_definition(parts):
    ours, _ = start(LAYER, PARAMS, capacity=46).feed(X, parts)
    for row in range(2):
        close(ours[row], by_hand(LAYER, PARAMS, X[row], parts))


def test_while_everything_fits_the_budget_nothing_is_lost():
    layer = attention(**SHAPE, cache=LServe(budget=48, page=4, subpages=1, longest_peek=8))
    ours, _ = start(layer, PARAMS, capacity=45).feed(X, [8, 8] + [1] * 29)
    close(ours, start(attention(**SHAPE), PARAMS).feed(X, [8, 8] + [1] * 29)[0])


def test_pages_that_were_not_chosen_are_not_read():
    _, stream = start(LAYER, PARAMS, capacity=48).feed(X, [8] * 4)
    clean, pending = stream.peek(X[:, 32:33])
    chosen = np.asarray(pending.chosen.pages)
    assert chosen.shape == (2, 2, POLICY.budget // POLICY.page - 1) and (chosen != NO_PAGE).all()
    unread = np.ones((2, 2, 12), bool)
    for row in range(2):
        for head in range(2):
            unread[row, head, [*chosen[row, head], 32 // POLICY.page]] = False
    spoiled = jnp.where(unread.repeat(POLICY.page, -1)[..., None], jnp.nan, stream.state.dense.v)
    dense = stream.state.dense.replace(v=spoiled)
    state = stream.state.replace(dense=dense)
    y, _ = type(stream)(LAYER, PARAMS, state, stream.length).peek(X[:, 32:33])
    np.testing.assert_array_equal(y, clean)


def test_pages_are_kept_between_refreshes():
    _, stream = start(LAYER, PARAMS, capacity=48).feed(X, [8] * 4)
    choices = []
    for i in range(32, 44):
        _, stream = stream.feed(X[:, i : i + 1], [1])
        choices.append(np.asarray(stream.state.choice.pages))
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(choices)]
    # Token 32 chooses, and 36 and 40, which begin pages; 35, 39 and 43 after three tokens.
    may_change = [i in (35, 36, 39, 40, 43) for i in range(33, 44)]
    assert any(changed) and all(may for may, did in zip(may_change, changed, strict=True) if did)


def tags_in_reach(state, row, length):
    """The tags of the slots that a later token may read: a rejected window may have taken others."""
    local = np.asarray(state.stream.positions[row])
    pinned = np.arange(local.size) < POLICY.sinks
    return np.asarray(state.dense.positions[row]), np.where(
        pinned | (local > length - POLICY.local), local, EMPTY
    )


@pytest.mark.parametrize("size", [1, 4])
def test_rejected_tokens_leave_no_trace(size):
    """The state after committing n equals the one after n valid tokens, in all that a later token reads."""
    _, stream = start(LAYER, PARAMS, capacity=48).feed(X, [8, 8, 8, 1])
    window = draw(2, size, seed=7)
    _, pending = stream.peek(window)
    for n in np.array([(0, size), (size, 0), (size // 2, size // 2)], np.int32):
        kept = stream.commit(pending, n, n)
        settled = stream.commit(stream.peek(window, valid=n)[1], n)
        for name in ("bounds", "choice"):
            for a, b in zip(*(jax.tree.leaves(getattr(s.state, name)) for s in (kept, settled)), strict=True):
                np.testing.assert_array_equal(a, b)
        _, untouched = stream.peek(window, valid=np.zeros(2))
        nothing = run_commit(LAYER, untouched)
        for row in np.flatnonzero(n == 0):
            a, b = (tags_in_reach(state, row, stream.length[row]) for state in (kept.state, nothing))
            for ours, expected in zip(a, b, strict=True):
                np.testing.assert_array_equal(ours, expected)
        y, _ = kept.feed(X[:, 25:32], [1] * 7)
        close(y, settled.feed(X[:, 25:32], [1] * 7)[0], atol=1e-6)


def test_a_path_through_a_tree():
    tree = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)
    _, stream = start(LAYER, PARAMS, capacity=48).feed(X, [8, 8, 7])
    window, path = draw(2, 4, seed=7), np.array([[0, 1, 3], [0, 2, 0]])
    _, pending = stream.peek(window, positions=stream.length[:, None] + [0, 1, 1, 2], mask=tree)
    taken = np.array([3, 2], np.int32)
    ours, _ = stream.commit(pending, taken, taken, path).feed(X[:, 30:36], [1] * 6)
    branches = np.stack([window[row][path[row]] for row in range(2)])
    _, pending = stream.peek(branches)
    expected, _ = stream.commit(pending, taken, taken).feed(X[:, 30:36], [1] * 6)
    close(ours, expected)


# --- work ------------------------------------------------------------------------------------------


def step_analysis(policy, capacity):
    """The compiled decode step over a cache of this capacity, and the bytes of that cache."""
    layer = Attention(d_model=D_MODEL, num_heads=8, num_kv_heads=4, head_dim=32, cache=policy)

    def step(params, x, state, start):
        window = Window(start=start, positions=start[:, None], valid=jnp.ones_like(start))
        y, pending = peek_window(layer, params, x, state, window)
        return y, layer.commit(pending)

    state = jax.eval_shape(lambda: init_state(layer, 1, capacity, jnp.float32))
    x, begin = jax.ShapeDtypeStruct((1, 1, D_MODEL), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(step, donate_argnums=2).lower(abstract_params(layer.spec()), x, state, begin)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0}), held


def test_work_follows_the_budget_and_not_the_context():
    policy = LServe(streaming_heads=(0, 2), budget=512, sinks=32, local=64, longest_peek=32)
    temporary = []
    for capacity in (8192, 16384):
        compiled, held = step_analysis(policy, capacity)
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes >= held
        temporary.append(memory.temp_size_in_bytes)
        # Reading every key and value once takes 4 operations per query head, channel and slot.
        assert compiled.cost_analysis()["flops"] < 4 * 8 * 32 * capacity / 4
    # Of what grows with the context, neither keys and values nor bounds are copied.
    assert temporary[1] - temporary[0] < 8192


def test_the_stated_cost():
    heads = attention(**SHAPE).heads
    policy = LServe(streaming_heads=(1,), budget=1024, sinks=4, local=60)
    assert policy.keys_read(heads, 64) == 64
    assert policy.keys_read(heads, 16384) == (2 * (1024 + 2 * 1024 / 4) + 64) / 3


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"page": 48}, "page=48 must divide budget=4096"),
        ({"subpages": 3}, "subpages=3 must divide page=64"),
        ({"budget": 0}, "budget=0 must be at least 1"),
        ({"sinks": 0}, "sinks=0 must be at least 1"),
        ({"refresh": 0}, "refresh=0 must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LServe(**values)


@pytest.mark.parametrize("streaming", [(3,), (-1,), (0, 0), (0, 1, 2)])
def test_heads_that_do_not_exist_are_refused(streaming):
    with pytest.raises(ValueError, match="num_kv_heads=3"):
        attention(**SHAPE, cache=LServe(streaming_heads=streaming))
    with pytest.raises(ValueError, match=r"LServe\(budget=4096\).*sliding_window=8"):
        attention(sliding_window=8, cache=LServe())


def test_streaming_heads_are_those_with_small_gates():
    assert streaming_by_gates(np.array([0.9, 0.1, 0.7, 0.3])) == (1, 3)
    assert streaming_by_gates(np.array([0.9, 0.1, 0.7]), 0.4) == (1,)
    with pytest.raises(ValueError, match=r"fraction=1.0 must lie in \[0, 1\)"):
        streaming_by_gates(np.array([0.5]), 1.0)
