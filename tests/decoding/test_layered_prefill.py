"""Prefill by groups of layers."""

import jax
import numpy as np
import pytest
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.decoding.layered_prefill import settle_by_layers
from jaxmodels.decoding.prompts import encode_prompts

PROMPTS = [[5, 4, 3, 9, 8, 1, 2], [7, 7, 3]]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("layers", [1, 2])
def test_groups_of_layers_settle_what_all_at_once_do(layers):
    model = jm.init(jm.config_from_hf(CONFIGS["bamba"]), seed=1)
    rows = encode_prompts(PROMPTS, None, model.config.vocab_size)
    *between, history = settle_by_layers(model.config, model.params, rows, capacity=128, layers=layers)
    assert between == [None] * (2 // layers - 1)
    whole = model.prefill(PROMPTS, capacity=128)
    assert history.tokens == whole.tokens
    assert jax.tree.structure(history.cache) == jax.tree.structure(whole.cache)
    found = model.generate(PROMPTS, 8, stop_tokens=(), history=history).tokens
    np.testing.assert_array_equal(found, model.generate(PROMPTS, 8, stop_tokens=()).tokens)


@pytest.mark.sweep
def test_a_model_tells_of_each_group_of_layers():
    model, told = jm.init(jm.config_from_hf(CONFIGS["llama"] | {"num_hidden_layers": 3}), seed=1), []
    history = model.prefill(PROMPTS, 8, layers=2, progress=lambda *done: told.append(done))
    assert told == [(2, 3), (3, 3)]
    found = model.generate(PROMPTS, 8, stop_tokens=(), history=history).tokens
    np.testing.assert_array_equal(found, model.generate(PROMPTS, 8, stop_tokens=()).tokens)
    with pytest.raises(ValueError, match="progress is told of groups of layers; give layers"):
        model.prefill(PROMPTS, progress=print)
    with pytest.raises(ValueError, match=r"layers must be a whole number >= 1 .*, got 0"):
        model.prefill(PROMPTS, layers=0)


def test_prompts_beyond_the_capacity_are_refused():
    model = jm.init(jm.config_from_hf(CONFIGS["llama"]), seed=1)
    rows = encode_prompts(PROMPTS, None, model.config.vocab_size)
    with pytest.raises(ValueError, match="capacity=6 cannot hold a prompt of 7 tokens"):
        next(settle_by_layers(model.config, model.params, rows, capacity=6, layers=1))
