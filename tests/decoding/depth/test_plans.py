"""Plans of skip, run and repeat are models with their blocks left out and put in twice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, peek_scored, quick_jit, random_params
from strategy_helpers import (
    PROMPTS,
    architecture,
    decode,
    in_tiers,
)

from jaxmodels.decoding import AdaptiveDepth, Autoregressive
from jaxmodels.decoding.depth import Plan, RowPlans
from jaxmodels.layers.spec import abstract_params
from jaxmodels.layers.window import next_window
from jaxmodels.models.decoder import Decoder

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 9)


def unrolled(config, params, passes):
    """The model with each block so many times, as one that no policy has to pass."""
    order = [i for i, times in enumerate(passes) for _ in range(times)]
    blocks = {str(new): params["blocks"][str(old)] for new, old in enumerate(order)}
    whole = dataclasses.replace(config, blocks=tuple(config.blocks[i] for i in order))
    return whole, {**params, "blocks": blocks}


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", in_tiers(["hybrid", "latent"], ["mamba", "hybrid_moe", "delta"]))
def test_a_plan_is_the_model_with_its_blocks_so_often(name):
    config = ARCHITECTURES[name]
    passes = (2, 1, 0)[: len(config.blocks)]
    params = random_params(config.spec())
    plan = Plan(passes)
    cache, parts = config.init_cache(2, 12, depth=plan), []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        _, dropped = peek(config, params, TOKENS[:, start:stop] * 0, cache, depth=plan)
        cache = commit(config, dropped, jnp.zeros(2, jnp.int32))
        logits, pending = peek(config, params, TOKENS[:, start:stop], cache, depth=plan)
        cache = commit(config, pending, jnp.full((2,), stop - start))
        parts.append(logits)
    whole, weights = unrolled(config, params, passes)
    expected_logits = quick_jit(whole.forward)(weights, TOKENS)
    np.testing.assert_allclose(np.concatenate(parts, 1), expected_logits, atol=2e-5)
    assert (pending.depth == sum(passes)).all()


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_decoding_with_a_plan_is_decoding_with_the_unrolled_model(name):
    config, params = architecture(name)
    passes = (2, 1, 0)[: len(config.blocks)]
    plan = Plan(passes)
    ours = decode(config, params, AdaptiveDepth(depth=plan, prompt=plan))
    plain = decode(*unrolled(config, params, passes), Autoregressive())
    np.testing.assert_array_equal(ours.tokens, plain.tokens)


def test_each_row_has_a_plan_of_its_own():
    """As data, in one program: each row is as under its own plan alone, skipped and repeated blocks alike."""
    plans = np.asarray([[2, 0, 1], [0, 2, 2]])
    rows = RowPlans(jnp.asarray(plans))
    cache, parts = CONFIG.init_cache(2, 12, depth=rows), []
    for start, stop in ((0, 4), (4, 8)):
        logits, pending = peek(CONFIG, PARAMS, TOKENS[:, start:stop], cache, depth=rows)
        cache = commit(CONFIG, pending)
        parts.append(logits)
    assert (pending.depth == plans.sum(1)[:, None]).all()
    for row, passes in enumerate(plans):
        whole, weights = unrolled(CONFIG, PARAMS, passes)
        alone = quick_jit(whole.forward)(weights, TOKENS[row : row + 1, :8])
        np.testing.assert_allclose(np.concatenate(parts, 1)[row], alone[0], atol=2e-5)


@pytest.mark.sweep
def test_rows_decode_by_their_own_plans():
    config, params = architecture("hybrid")
    rows = RowPlans(jnp.asarray([[1, 1, 1], [2, 0, 1], [0, 2, 2], [1, 1, 0]]))
    ours = decode(config, params, AdaptiveDepth(depth=rows, prompt=rows))
    plan = Plan((2, 0, 1))
    alone = decode(config, params, AdaptiveDepth(depth=plan, prompt=plan), PROMPTS[1:2])
    np.testing.assert_array_equal(ours.tokens[1], alone.tokens[0])
    assert ours.counters["layers"].tolist() == (np.asarray([3, 3, 4, 2]) * ours.counters["calls"]).tolist()


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("plan", [Plan((1, 1, 0)), RowPlans(np.asarray([1, 1, 0]))], ids=["plan", "rows"])
@pytest.mark.parametrize("name", ["mamba2", "attention"])
def test_what_is_held_has_no_history(plan, name):
    """A last block, attention or Mamba-2, that three tokens were not shown: it then sees the fourth alone."""
    ssd, attention, other = CONFIG.blocks
    blocks = (ssd, attention, other) if name == "mamba2" else (ssd, other, attention)
    config = dataclasses.replace(CONFIG, blocks=blocks)
    params = random_params(config.spec())
    cache = config.init_cache(2, 9, depth=plan)
    fresh = cache.layers[2]
    _, pending = peek_scored(config, params, TOKENS[:, :3], cache, depth=plan)
    held = commit(config, pending)
    for committed in (held, commit(config, pending, np.asarray([2, 3]))):
        state = committed.layers[2]
        if name == "mamba2":
            jax.tree.map(np.testing.assert_array_equal, state, fresh)
        else:
            np.testing.assert_array_equal(state.positions, fresh.positions)
    scored, _ = peek_scored(config, params, TOKENS[:, 3:4], held, taps=("blocks/1", "blocks/2"))
    block, weights = config.blocks[2], params["blocks"]["2"]

    @quick_jit
    def alone(hidden, tokens, fresh):
        window = next_window(tokens, jnp.full((2,), 3))
        stream = dataclasses.replace(config.embed(params, tokens, window), hidden=hidden)
        read, layer = block.write(weights, stream, fresh, window)
        return block.read(weights, stream, read, layer, window).hidden

    found = alone(scored.taps["blocks/1"], TOKENS[:, 3:4], fresh)
    np.testing.assert_allclose(scored.taps["blocks/2"], found, atol=1e-5)


@pytest.mark.sweep
def test_a_block_left_out_costs_nothing():
    """FLOPs of the compiled step: those of the model without the block."""

    def flops(config, **options):
        cache = jax.eval_shape(functools.partial(config.init_cache, 2, 16))
        step = jax.jit(functools.partial(Decoder.peek, config, **options))
        lowered = step.lower(abstract_params(config.spec()), TOKENS[:, :1], cache)
        return lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()["flops"]

    without = dataclasses.replace(CONFIG, blocks=CONFIG.blocks[:2])
    assert flops(CONFIG, depth=Plan((1, 1, 0))) == flops(without, depth=Plan((1, 1))) < flops(CONFIG)
    propagated = flops(CONFIG, depth=Plan((1, 1, 0), unread="propagate"))
    assert flops(without, depth=Plan((1, 1))) < propagated < flops(CONFIG)


def test_all_plans_are_one_program():
    plans = [AdaptiveDepth(depth=RowPlans(np.asarray(p))) for p in ([1, 0, 1], [2, 1, 0])]
    assert jax.tree.structure(plans[0]) == jax.tree.structure(plans[1])
    fixed = [AdaptiveDepth(depth=Plan(p)) for p in ((1, 0, 1), (2, 1, 0))]
    assert jax.tree.structure(fixed[0]) != jax.tree.structure(fixed[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan((1, -1)), r"passes\[1\] must be a whole number >= 0 .*, got -1"),
        (lambda: Plan(3), "passes must be whole numbers, one per block, got 3"),
        (lambda: Plan((1,), unread="drop"), "unread must be one of 'propagate', 'hold', got 'drop'"),
        (lambda: RowPlans(np.asarray([1, 3])), "passes must lie from 0 to most=2, got 1 to 3"),
        (lambda: RowPlans(np.ones((2, 2))), r"passes must be whole numbers \[B, L\] or \[L\]"),
        (lambda: RowPlans(np.asarray([1]), most=0), "most must be a whole number >= 1"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan((1, 1)), "the plan is for 2 blocks, but the model has 3"),
        (RowPlans(np.ones((1, 4), int)), "the plan is for 4 blocks, but the model has 3"),
        (RowPlans(np.ones((5, 3), int)), r"passes \[5, 3\] are plans for other rows: there are 2"),
        (Plan((1, 2, 1)), "Plan passes block 1 up to 2 times, but the cache has a history for 1"),
    ],
)
def test_plans_for_another_model_are_refused_before_compilation(plan, message):
    cache = CONFIG.init_cache(2, 9, depth=plan) if "rows" in message else CONFIG.init_cache(2, 9)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: CONFIG.peek(p, TOKENS, cache, depth=plan), abstract_params(CONFIG.spec()))


def test_repeats_are_not_encoded_anew():
    config = dataclasses.replace(CONFIG, recode_beyond=10)
    config.init_cache(2, 10, depth=Plan((1, 2, 1)))
    with pytest.raises(ValueError, match=r"Plan keeps histories of its own, .*recode_beyond=10.* got 11"):
        config.init_cache(2, 11, depth=Plan((1, 2, 1)))
