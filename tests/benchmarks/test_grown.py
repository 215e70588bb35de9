"""A grown model has the logits of the small one, by whole sequences and step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels as jm
from benchmarks.grown import SHAPES_100M, grown, places
from jaxmodels.layers.spec import count_params
from jaxmodels.models.families import config_to_hf

TINY = {
    "tiny-qwen3": {
        "hidden_size": 320,
        "intermediate_size": 400,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
    },
    "tiny-mamba2": {"hidden_size": 320, "num_hidden_layers": 7, "num_heads": 10, "state_size": 80},
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-mamba2"])
def test_the_function_is_that_of_the_small_model(name):
    model = jm.load(name)
    large = grown(model, TINY[name])
    assert large.config.d_model == 320 and len(large.config.blocks) == TINY[name]["num_hidden_layers"]
    tokens = np.asarray([model.tokenizer.encode("def add(a, b):\n    return a + b\n")], np.int32)
    expected = model(tokens)
    np.testing.assert_allclose(large(tokens), expected, atol=1e-4)
    cache = large.config.init_cache(1, tokens.shape[1], jnp.float32)
    peek = jax.jit(large.config.peek)
    scored, pending = peek(large.params, tokens[:, :4], cache)
    scored, _ = peek(large.params, tokens[:, 4:], large.config.commit(pending))
    np.testing.assert_allclose(scored.logits, expected[:, 4:], atol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("tiny-qwen3", marks=pytest.mark.sweep), "tiny-mamba2"])
def test_the_large_shape_has_about_100_million_parameters(name):
    small = jm.load(name).config
    large = jm.config_from_hf({**config_to_hf(small), "layer_types": None, **SHAPES_100M[small.family]})
    assert 95e6 < count_params(large.spec()) < 110e6


def test_layers_stand_evenly_among_the_added_ones():
    assert places(5, 15) == (0, 3, 6, 9, 12)
    assert places(5, 7) == (0, 1, 2, 4, 5)
