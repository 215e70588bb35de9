"""What a greedy round holds of the vocabulary: the logits of its window, once, and no distribution beside."""

from dataclasses import replace

import jax
import pytest
from model_helpers import random_params
from strategy_helpers import MODELS, PROMPTS, ready

from jaxmodels.decoding import Draft, Greedy, ModelDrafter, PathsDrafter, Sample, Speculative, TreeDrafter
from jaxmodels.decoding.strategy import empty_output

# Large enough that nothing else of a round counts.
VOCAB = 20_011
DRAFTERS = {
    "chain": lambda draft: ModelDrafter(draft=draft, size=5),
    "tree": lambda draft: TreeDrafter(draft=draft, siblings=(3, 2, 1)),
    "paths": lambda draft: PathsDrafter(draft=draft, paths=3, length=2),
}


def windows_held(drafter, sampler):
    """Temporary memory of a round, in windows of float32 logits."""
    config = replace(MODELS["attention"], vocab_size=VOCAB)
    params = random_params(config.spec())
    strategy = Speculative(draft=DRAFTERS[drafter](Draft(config, params)), sampler=sampler)
    made = ready(config, params, strategy)
    request, output = made.request, empty_output(len(PROMPTS), 16, made.request.pad_token)
    carry = jax.eval_shape(lambda: strategy.prefill(config, params, request, made.cache, output))
    step = jax.jit(lambda carry: strategy.step(config, params, request, carry), donate_argnums=0)
    held = step.lower(carry).compile().memory_analysis().temp_size_in_bytes
    return held / (4 * len(PROMPTS) * (strategy.drafter.size + 1) * VOCAB)


@pytest.mark.sweep
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_greedy_round_holds_its_logits_alone(drafter):
    assert windows_held(drafter, Greedy()) < 1.2


@pytest.mark.sweep
def test_a_sampled_round_holds_distributions():
    assert windows_held("chain", Sample()) > 2
