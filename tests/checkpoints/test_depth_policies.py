"""Policies of depth come back from a directory as they were written, for the model they are of."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, random_params

import jaxmodels as jm
from jaxmodels.checkpoints.depth_policies import is_depth, load_depth, save_depth
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.decoding.depth import (
    AmongTokens,
    Budget,
    Decaying,
    LinearConfidence,
    LoRADrop,
    MaxProbability,
    MLPConfidence,
    Patience,
    PerBlock,
    Plan,
    RecurrentConfidence,
    RowPlans,
    UntilConfident,
)
from jaxmodels.decoding.depth.confidence.recurrent import exit_spec

CONFIG = ARCHITECTURES["hybrid"]
RNG = np.random.default_rng(0)


def noise(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


POLICIES = {
    "lora_drop": LoRADrop(down=noise(2, 3, 16), up=noise(2, 16, 3), dropped=(1, 2), period=3, scale=5.0),
    "linear": UntilConfident(
        confidence=LinearConfidence(weight=noise(3, 16), bias=noise(3)), threshold=0.9, min_layers=1
    ),
    "thresholds": UntilConfident(confidence=MaxProbability(), threshold=jnp.asarray(0.5), min_layers=2),
    "mlp": UntilConfident(
        confidence=MLPConfidence(w_in=noise(3, 16, 4), b_in=noise(3, 4), w_out=noise(3, 4), b_out=noise(3)),
        threshold=PerBlock(np.asarray([0.5, np.inf, 0.7], np.float32)),
        asked=(0, 1),
    ),
    "recurrent": UntilConfident(
        confidence=RecurrentConfidence(
            params=random_params({"1": exit_spec(16, 6, 4)}), width=6, state_dim=4
        ),
        threshold=0.7,
        asked=(1,),
    ),
    "few tokens": UntilConfident(
        confidence=AmongTokens(tokens=np.asarray([3, 5, 7]), confidence=Patience(blocks=2)),
        threshold=Decaying(threshold=0.9, length=32),
        unread="hold",
    ),
    "budget": Budget(blocks=np.asarray([3, 2, 1]), warm_up=1, unread="propagate"),
    "plan": Plan((1, 0, 2)),
    "row_plans": RowPlans(np.asarray([[1, 0, 2]]), most=2),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_comes_back_as_it_was(name, tmp_path):
    policy = POLICIES[name]
    save_depth(policy, tmp_path / "policy", CONFIG)
    assert is_depth(tmp_path / "policy")
    back = load_depth(tmp_path / "policy", CONFIG)
    assert jax.tree.structure(back) == jax.tree.structure(policy)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_policy_of_another_model_is_refused_with_the_sizes_of_both(tmp_path):
    save_depth(POLICIES["lora_drop"], tmp_path / "policy", CONFIG)
    other = dataclasses.replace(CONFIG, blocks=CONFIG.blocks[:2])
    with pytest.raises(
        CheckpointError, match=r"trained for a model of \{'blocks': 3.*this one has \{'blocks': 2"
    ):
        load_depth(tmp_path / "policy", other)


@dataclasses.dataclass(frozen=True)
class OwnConfidence:
    """One that a user made."""

    def __call__(self, passed):
        return passed.after.hidden[..., 0]


def test_what_is_no_policy_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"policy must be one of .*budget, .* got Decoder"):
        save_depth(CONFIG, tmp_path / "policy", CONFIG)
    strange = dataclasses.replace(POLICIES["linear"], confidence=OwnConfidence())
    with pytest.raises(ValueError, match=r"policy\.confidence must be one of"):
        save_depth(strange, tmp_path / "policy", CONFIG)
    with pytest.raises(ValueError, match="model must be one that is made of blocks"):
        save_depth(POLICIES["plan"], tmp_path / "policy", "tiny")
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_policy": {"kind": "lora"}}, "depth_policy: kind must be one of .*budget, .* got 'lora'"),
        ({"depth_policy": {"kind": "plan", "pass": [1]}}, "plan has no field 'pass'; its fields are passes"),
        ({"depth_policy": {"kind": "plan"}}, "plan lacks 'passes'"),
        ({"depth_policy": {"kind": "plan", "passes": [-1]}}, r"passes\[0\] must be a whole number >= 0"),
        ({"depth_policy": {"kind": "budget", "blocks": {"tensor": "gone"}}}, "no tensor 'gone'"),
    ],
)
def test_broken_files_are_refused_with_their_names(change, message, tmp_path):
    save_depth(POLICIES["budget"], tmp_path / "policy", CONFIG)
    file = tmp_path / "policy" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_depth(tmp_path / "policy", CONFIG)


def test_a_strategy_names_the_directory_of_its_policy(tmp_path):
    model = jm.init(CONFIG, seed=0)
    plan = Plan((1, 0, 1))
    save_depth(plan, tmp_path / "policy", model)
    named = model.generate([[3, 1, 4]], 6, AdaptiveDepth(depth=str(tmp_path / "policy")))
    given = model.generate([[3, 1, 4]], 6, AdaptiveDepth(depth=plan))
    np.testing.assert_array_equal(named.tokens, given.tokens)
    assert named.stats.counters["layers"] == given.stats.counters["layers"]
    with pytest.raises(CheckpointError, match="nowhere"):
        model.generate([[3]], 6, AdaptiveDepth(depth="./nowhere"))


def test_a_model_is_no_policy(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert not is_depth(tmp_path)
    with pytest.raises(CheckpointError, match="describes no policy of depth"):
        load_depth(tmp_path)
