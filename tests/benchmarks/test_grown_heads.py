"""A head on a grown model drafts what it drafts for the small one."""

import numpy as np
import pytest
from model_helpers import peek_scored

import jaxmodels as jm
from benchmarks.grown import grown
from benchmarks.grown_heads import head_on_grown

SHAPE = {"hidden_size": 320, "intermediate_size": 400, "num_hidden_layers": 7}


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["tiny-qwen3-eagle3", "tiny-qwen3-mtp"])
def test_features_are_those_of_the_small_model(name):
    small = jm.load("tiny-qwen3")
    large = grown(small, SHAPE)
    drafter = head_on_grown(name, small, large, 3)
    drafter.head.check_target(large.config)
    tokens = np.asarray([small.tokenizer.encode("def add(a, b):\n    return a")])
    features = []
    for model, head, params in (
        (small, drafter.head.head, drafter.params["head"]),
        (large, drafter.head, drafter.params),
    ):
        cache = model.config.init_cache(1, 32)
        scored, _ = peek_scored(model.config, model.params, tokens, cache, taps=head.taps)
        features.append(head.features(params, scored.taps))
    np.testing.assert_allclose(features[1], features[0], atol=2e-4)
