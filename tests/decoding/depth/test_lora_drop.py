"""LoRA-Drop token by token against its formula, and the state that it keeps between windows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, peek_scored, random_params

from jaxmodels.decoding.depth import LoRADrop
from jaxmodels.layers.spec import abstract_params

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 9)
RNG = np.random.default_rng(0)
WIDTH = CONFIG.d_model
DOWN = jnp.asarray(RNG.standard_normal((2, 3, WIDTH)) / 4, jnp.float32)
UP = jnp.asarray(RNG.standard_normal((2, WIDTH, 3)) / 4, jnp.float32)
POLICY = LoRADrop(down=DOWN, up=UP, dropped=(1, 2), period=3, scale=5.0)


@pytest.mark.parametrize("reused", ["output", "update"])
def test_tokens_between_anchors_follow_the_formula(reused):
    taps, share = CONFIG.stream_names, (0.5, 1.5)
    policy = dataclasses.replace(POLICY, reused=reused, share=jnp.asarray(share))
    cache = CONFIG.init_cache(2, 9, depth=policy)
    anchors, depths = {}, []
    for i in range(9):
        scored, pending = peek_scored(CONFIG, PARAMS, TOKENS[:, i : i + 1], cache, depth=policy, taps=taps)
        seen, cache = scored.taps, commit(CONFIG, pending)
        depths.append(int(pending.depth[0, 0]))
        for k, block in enumerate(POLICY.dropped):
            before, behind = seen[f"blocks/{block - 1}"], seen[f"blocks/{block}"]
            kept = before if reused == "update" else 0
            if i % 3 == 0:
                anchors[k] = behind - kept
            else:
                correction = before @ DOWN[k].T @ UP[k].T * (5.0 / 3)
                np.testing.assert_allclose(behind, kept + share[k] * anchors[k] + correction, atol=1e-5)
    assert depths == [3, 1, 1] * 3
    kept = cache.layers[1].positions[:, :9]
    np.testing.assert_array_equal(kept, [[0, -1, -1, 3, -1, -1, 6, -1, -1]] * 2)


def test_anchors_are_the_model_over_the_anchors():
    """With nothing but anchors in its history, a dropped block sees those alone: the Mamba-2 block's state is
    that of the anchors in a row."""
    cache = CONFIG.init_cache(2, 9, depth=POLICY)
    states = []
    for i in range(7):
        _, pending = peek(CONFIG, PARAMS, TOKENS[:, i : i + 1], cache, depth=POLICY)
        cache = commit(CONFIG, pending)
        states.append(jax.tree.leaves(cache.layers[2]))
    for i in (1, 2, 4, 5):
        for ours, before in zip(states[i], states[i - 1], strict=True):
            np.testing.assert_array_equal(ours, before)
    assert any((a != b).any() for a, b in zip(states[3], states[2], strict=True))


@pytest.mark.sweep
def test_where_all_tokens_are_shown_windows_may_be_cut_anywhere():
    policy = dataclasses.replace(POLICY, unread="propagate", reused="update")
    whole, pending = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(2, 9, depth=policy), depth=policy)
    assert pending.depth[0].tolist() == [3, 1, 1] * 3
    cache, parts = CONFIG.init_cache(2, 9, depth=policy), []
    for start, stop in ((0, 2), (2, 3), (3, 8), (8, 9)):
        logits, pending = peek(CONFIG, PARAMS, TOKENS[:, start:stop], cache, depth=policy)
        cache = commit(CONFIG, pending)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)
    np.testing.assert_array_equal(cache.layers[1].positions[:, :9], [range(9)] * 2)


@pytest.mark.parametrize("n", [(0, 1), (2, 4), (3, 2)])
def test_the_state_is_that_behind_the_last_token_that_became_history(n):
    cache = CONFIG.init_cache(2, 9, depth=POLICY)
    cache = commit(CONFIG, peek(CONFIG, PARAMS, TOKENS[:, :2], cache, depth=POLICY)[1])
    n = jnp.asarray(n)
    _, pending = peek(CONFIG, PARAMS, TOKENS[:, 2:6], cache, depth=POLICY)
    ours = commit(CONFIG, pending, n).memory
    _, pending = peek(CONFIG, PARAMS, TOKENS[:, 2:6], cache, depth=POLICY, valid=n)
    theirs = commit(CONFIG, pending).memory
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)
    path = jnp.broadcast_to(jnp.arange(4), (2, 4))
    _, pending = peek(CONFIG, PARAMS, TOKENS[:, 2:6], cache, depth=POLICY)
    along = commit(CONFIG, pending, n, path).memory
    jax.tree.map(np.testing.assert_array_equal, along, ours)


def test_a_window_without_the_policy_leaves_the_state():
    cache = CONFIG.init_cache(2, 9, depth=POLICY)
    cache = commit(CONFIG, peek(CONFIG, PARAMS, TOKENS[:, :2], cache, depth=POLICY)[1])
    after = commit(CONFIG, peek(CONFIG, PARAMS, TOKENS[:, 2:4], cache)[1])
    jax.tree.map(np.testing.assert_array_equal, after.memory, cache.memory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropped": (2, 1)}, r"dropped must rise, got \[2, 1\]"),
        ({"dropped": ()}, "dropped must be numbers of blocks"),
        ({"dropped": (1, 2, 3)}, r"down must be \[3, r, D\] .* got \[2, 3, 16\] and \[2, 16, 3\]"),
        ({"up": DOWN}, r"up \[2, D, r\].*got \[2, 3, 16\] and \[2, 3, 16\]"),
        ({"period": 0}, "period must be a whole number >= 1"),
        ({"share": jnp.ones(3)}, r"share must be \[2\] for the dropped blocks \[1, 2\], .* got \[3\]"),
        ({"reused": "stream"}, "reused must be 'output' or 'update', got 'stream'"),
        ({"unread": "drop"}, "unread must be one of 'propagate', 'hold', got 'drop'"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(POLICY, **changes)


def test_adapters_of_another_model_are_refused_before_compilation():
    narrow = dataclasses.replace(POLICY, down=DOWN[:, :, 1:], up=UP[:, 1:])
    with pytest.raises(ValueError, match=r"down \[2, 3, 15\] is for a stream of width 15, the model"):
        CONFIG.init_cache(2, 9, depth=narrow)
    cache, params = CONFIG.init_cache(2, 9, depth=POLICY), abstract_params(CONFIG.spec())
    far = dataclasses.replace(POLICY, dropped=(1, 5))
    for policy, held, message in (
        (narrow, cache, "is for a stream of width 15"),
        (far, cache, "there is no block 5, the model has 3"),
        (POLICY, CONFIG.init_cache(2, 9), "LoRADrop keeps a state, but the cache has none"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                lambda p, held=held, policy=policy: CONFIG.peek(p, TOKENS, held, depth=policy), params
            )
