"""Blocks left out for a speed-up: which ones, and what a step by them costs."""

import dataclasses
import functools

import jax
import pytest
from model_helpers import ARCHITECTURES, draw_tokens

from jaxmodels.decoding.depth import Plan, layers_for_speed_up, speed_up_of
from jaxmodels.decoding.depth.layer_skipping import spaced_blocks
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.decoder import Decoder

CONFIG = ARCHITECTURES["attention"]


def deep(blocks, vocab_size=1):
    return dataclasses.replace(CONFIG, blocks=(CONFIG.blocks[0],) * blocks, vocab_size=vocab_size)


def released(total, target):
    """The blocks that the authors' code reserves."""
    reserved = [0, total - 1]
    count = int(total / target)
    interval = int(total / (count - len(reserved) + 1))
    for idx in range(1, total - 1):
        if idx % interval == 0 and len(reserved) < count:
            reserved.append(idx)
    return sorted(reserved)


@pytest.mark.parametrize("total", [12, 30, 31, 48])
@pytest.mark.parametrize("target", [1, 1.9, 2.9, 4.7])
def test_where_the_head_costs_little_the_blocks_are_the_authors(total, target):
    passes = layers_for_speed_up(deep(total), target).passes
    kept = [i for i, times in enumerate(passes) if times]
    assert len(kept) == max(2, int(total / target))
    assert kept == (released(total, target) if target > 1 else list(range(total)))


def test_the_first_and_the_last_of_any_number_of_blocks_stay():
    for total in range(2, 20):
        for kept in range(2, total + 1):
            blocks = spaced_blocks(total, kept)
            assert len(blocks) == kept == len(set(blocks)) and (blocks[0], blocks[-1]) == (0, total - 1)


def test_the_head_counts():
    small, large = deep(12), deep(12, vocab_size=200)
    assert sum(layers_for_speed_up(large, 1.9).passes) < sum(layers_for_speed_up(small, 1.9).passes) == 6
    for target in (1.0, 1.3, 1.7, 2.0, 2.4):
        plan = layers_for_speed_up(large, target)
        assert speed_up_of(large, plan) >= target
        one_more = Plan(tuple(int(i in spaced_blocks(12, sum(plan.passes) + 1)) for i in range(12)))
        assert sum(plan.passes) == 12 or speed_up_of(large, one_more) < target


def test_the_promise_is_that_of_the_compiled_step():
    """FLOPs of one token's step in full, over those by the plan; norms and rotations are left out."""
    config = deep(8, vocab_size=64)
    plan = layers_for_speed_up(config, 1.9)

    def flops(**options):
        cache = jax.eval_shape(functools.partial(config.init_cache, 1, 4))
        step = jax.jit(functools.partial(Decoder.peek, config, **options))
        lowered = step.lower(abstract_params(config.spec()), draw_tokens(1, 1), cache)
        return lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()["flops"]

    assert flops() / flops(depth=plan) == pytest.approx(speed_up_of(config, plan, context=4), rel=0.05)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (0.5, "speed_up must be a finite number >= 1, got 0.5"),
        (7, r"speed_up=7 is more than this model of 12 blocks can give: .* alone it is 5.9"),
        (float("inf"), "speed_up must be a finite number >= 1, got inf"),
    ],
)
def test_speed_ups_that_no_plan_gives_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        layers_for_speed_up(deep(12, vocab_size=2), target)


def test_a_plan_for_another_model_is_refused():
    with pytest.raises(ValueError, match="the plan is for 2 blocks, but the model has 12"):
        speed_up_of(deep(12), Plan((1, 1)))
