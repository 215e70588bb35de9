"""A plan for each prompt, made block by block of what the prompt has become there: against plain NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, quick_jit, random_params
from strategy_helpers import NEW, PROMPTS, architecture, decode

from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.decoding.depth import PromptRouter, RowPlans
from jaxmodels.layers.spec import abstract_params

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
RNG = np.random.default_rng(2)
BLOCKS, WIDTH, HIDDEN, WINDOWS = 3, CONFIG.d_model, 5, 4


def noise(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


ROUTER = PromptRouter(
    w_in=noise(BLOCKS, HIDDEN, WIDTH),
    b_in=noise(BLOCKS, HIDDEN) / 4,
    w_out=4 * noise(BLOCKS, 3, HIDDEN),
    b_out=noise(BLOCKS, 3) / 4,
    windows=WINDOWS,
)


def by_hand(router, block, hidden):
    """The verdict on one row's tokens [T, D]."""
    count = min(WINDOWS, len(hidden))
    size = len(hidden) // count
    logits = np.zeros(3)
    for part in hidden[: count * size].reshape(count, size, -1):
        inner = np.asarray(router.w_in[block]) @ part.mean(0) + router.b_in[block]
        inner = [0.5 * h * (1 + math.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) for h in inner]
        logits += (np.asarray(router.w_out[block]) @ np.asarray(inner) + router.b_out[block]) / count
    return int(np.argmax(logits))


def plan_by_hand(config, params, router, tokens):
    """Block by block: the prompt through the plan so far, which the next verdict looks at."""
    plan = []
    for block in range(len(config.blocks)):
        order = [i for i, times in enumerate(plan) for _ in range(times)]
        blocks = {str(new): params["blocks"][str(old)] for new, old in enumerate(order)}
        so_far = dataclasses.replace(config, blocks=tuple(config.blocks[i] for i in order))
        tap = f"blocks/{len(order) - 1}" if order else "embeddings"
        forward = quick_jit(
            lambda p, t, so_far=so_far, tap=tap: so_far.forward_scored(p, t, taps=(tap,)).taps
        )
        hidden = forward({**params, "blocks": blocks}, tokens[None])[tap][0]
        plan.append(by_hand(router, block, np.asarray(hidden)))
    return plan


@pytest.mark.sweep
def test_each_row_follows_the_plan_that_its_prompt_was_given():
    rows = [draw_tokens(1, length, seed=length)[0] for length in (9, 3, 6, 1)]
    plans = [plan_by_hand(CONFIG, PARAMS, ROUTER, row) for row in rows]
    assert len({tuple(plan) for plan in plans}) > 2
    padded = np.zeros((4, 9), np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    valid = jnp.asarray([len(row) for row in rows])
    caches = [CONFIG.init_cache(4, 12, depth=policy) for policy in (ROUTER, RowPlans(np.asarray(plans)))]
    ours, theirs = caches
    found, pending = peek(CONFIG, PARAMS, padded, ours, depth=ROUTER, valid=valid)
    wanted, planned = peek(CONFIG, PARAMS, padded, theirs, depth=RowPlans(np.asarray(plans)), valid=valid)
    ours, theirs = commit(CONFIG, pending), commit(CONFIG, planned)
    np.testing.assert_array_equal(ours.memory, plans)
    for i, row in enumerate(rows):
        np.testing.assert_allclose(found[i, : len(row)], wanted[i, : len(row)], atol=2e-5)
    following = draw_tokens(4, 2, seed=5)
    found, pending = peek(CONFIG, PARAMS, following, ours, depth=ROUTER)
    wanted, _ = peek(CONFIG, PARAMS, following, theirs, depth=RowPlans(np.asarray(plans)))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_array_equal(commit(CONFIG, pending).memory, plans)


@pytest.mark.sweep
def test_decoding_reads_the_prompt_by_the_router_and_goes_on_by_its_plan():
    config, params = architecture("hybrid")
    ours = decode(config, params, AdaptiveDepth(depth=ROUTER))
    plans = np.asarray([plan_by_hand(config, params, ROUTER, np.asarray(row)) for row in PROMPTS])
    rows = RowPlans(plans)
    theirs = decode(config, params, AdaptiveDepth(depth=rows, prompt=rows))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_array_equal(ours.counters["layers"], plans.sum(1) * (NEW - 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": 0}, "windows must be a whole number >= 1"),
        ({"b_in": noise(2, HIDDEN)}, r"b_in \[L, H\], .* got \[3, 5, 16\], \[2, 5\], \[3, 3, 5\], \[3, 3\]"),
        ({"w_in": noise(HIDDEN, WIDTH)}, r"w_in must be \[L, H, D\]"),
        ({"unread": "drop"}, "unread must be one of"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ROUTER, **changes)


def test_a_router_of_another_model_is_refused_before_compilation():
    narrow = dataclasses.replace(ROUTER, w_in=ROUTER.w_in[:, :, 1:])
    with pytest.raises(ValueError, match=r"for a stream of width 15, the model's has 16"):
        CONFIG.init_cache(2, 9, depth=narrow)
    shallow = PromptRouter(**{name: getattr(ROUTER, name)[:2] for name in ("w_in", "b_in", "w_out", "b_out")})
    with pytest.raises(ValueError, match="w_in is for 2 blocks, but the model has 3"):
        CONFIG.init_cache(2, 9, depth=shallow)
    cache = CONFIG.init_cache(2, 9)
    with pytest.raises(ValueError, match="PromptRouter passes block 0 up to 2 times, but the cache"):
        jax.eval_shape(
            lambda p: CONFIG.peek(p, draw_tokens(2, 3), cache, depth=ROUTER), abstract_params(CONFIG.spec())
        )
