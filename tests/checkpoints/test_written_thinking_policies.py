"""Policies of thinking come back from a directory as they were written, for the model they are of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.decoding.thinking import AtTokens, EveryTokens, PathDeviation, Probe, TokenBudget

CONFIG = ARCHITECTURES["hybrid"]
RNG = np.random.default_rng(0)


def noise(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


POLICIES = {
    "probe": Probe(
        weights=(noise(32, 4), noise(4, 1)),
        biases=(noise(4), noise(1)),
        threshold=0.75,
        taps=("embeddings", "hidden"),
        moments=AtTokens((5, 9)),
    ),
    "path_deviation": PathDeviation(threshold=2.0, entropy=0.5, window=8, moments=EveryTokens(3)),
    "token_budget": TokenBudget(tokens=30, moments=AtTokens((5,))),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_comes_back_as_it_was(name, tmp_path):
    policy = POLICIES[name]
    jm.save_thinking(policy, tmp_path / "policy", CONFIG)
    back = jm.load_thinking(tmp_path / "policy", CONFIG)
    assert jax.tree.structure(back) == jax.tree.structure(policy) and back.taps == policy.taps
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_no_policy_of_thinking_is_refused_both_ways(tmp_path):
    with pytest.raises(ValueError, match=r"policy must be one of .*probe, .* got Decoder"):
        jm.save_thinking(CONFIG, tmp_path / "policy", CONFIG)
    jm.save_thinking(POLICIES["token_budget"], tmp_path / "policy", CONFIG)
    with pytest.raises(CheckpointError, match=r"trained for a model of .*and this one has"):
        jm.load_thinking(tmp_path / "policy", ARCHITECTURES["ssd"])
    with pytest.raises(CheckpointError, match="describes no policy of depth"):
        jm.load_depth(tmp_path / "policy")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="describes no policy of thinking: it has no thinking_policy"):
        jm.load_thinking(tmp_path)
