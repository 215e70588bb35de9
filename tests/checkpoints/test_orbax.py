"""Parameters in Orbax's form: from any device to any other, and every error by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from model_helpers import D_MODEL, attention, decoder, mamba, random_params, short_conv, ssd

import jaxmodels as jm
from jaxmodels.checkpoints import orbax
from jaxmodels.checkpoints.errors import CheckpointError

# Two devices that are not here: one holds some of the parameters, the others are cut over both.
SAVE_ELSEWHERE = """
import sys, dataclasses, jax, jaxmodels as jm
from jax.sharding import Mesh, NamedSharding, PartitionSpec
model = jm.load("tiny-mamba2")
mesh = Mesh(jax.devices(), ("all",))

def put(leaf):
    if leaf.ndim == 2 and leaf.shape[0] % 2 == 0:
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("all")))
    return jax.device_put(leaf, jax.devices()[1])

jm.save(dataclasses.replace(model, params=jax.tree.map(put, model.params)), sys.argv[1], "orbax")
"""


def test_what_other_devices_saved_loads_on_the_default_one(tmp_path: Path) -> None:
    flags = "--xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", SAVE_ELSEWHERE, tmp_path / "model"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        check=True,
    )
    loaded, wanted = jm.load(tmp_path / "model"), jm.load("tiny-mamba2")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted.params)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(loaded.params))


def test_norms_without_weights_load_with_and_without_their_empty_dicts(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    model = jm.init(jm.config_from_hf({"model_type": "olmo", "vocab_size": 7, **sizes}))
    assert model.params["final_norm"] == {}
    jm.save(model, tmp_path / "model", "orbax")
    orbax.save_params(unflatten_dict(flatten_dict(model.params)), tmp_path / "without")
    for directory in (tmp_path / "model", tmp_path / "without"):
        loaded = orbax.load_params(model.config, directory, "float32")
        jax.tree.map(np.testing.assert_array_equal, loaded, model.params)


def test_a_directory_of_the_users_own_is_not_taken_for_one(tmp_path: Path) -> None:
    jm.save(jm.load("tiny-mamba2"), tmp_path / "model")
    (tmp_path / "model" / "params").mkdir()
    (tmp_path / "model" / "params" / "notes").write_text("mine")
    assert not orbax.is_orbax(tmp_path / "model")
    jm.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 80}, r"holds 5 layers, .* describes 80 \(num_hidden_layers\)"),
        ({"num_hidden_layers": 1}, r"holds 5 layers, .* describes 1 \(num_hidden_layers\)"),
        ({"tie_word_embeddings": False}, r"model/params lacks the parameter 'head/weight'"),
        ({"use_bias": True}, r"model/params lacks the parameter 'blocks/0/mixer/b_z'"),
        ({"use_conv_bias": False}, r"has a parameter that the model lacks, 'blocks/0/mixer/conv_bias_bc'"),
        (
            {"vocab_size": 5000},
            r"'embed/weight' has shape \[4096, 256\], the configuration asks for \[5000, 256",
        ),
    ],
    ids=str,
)
def test_parameters_of_another_model_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    jm.save(jm.load("tiny-mamba2"), tmp_path / "model", "orbax")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        jm.load(tmp_path / "model", verify=False)


def test_projections_stored_inputs_first_are_refused_with_advice(tmp_path):
    config = decoder(attention())
    params = random_params(config.spec())
    params["blocks"] = jax.tree.map(lambda leaf: leaf.T, params["blocks"])
    orbax.save_params(params, tmp_path)
    with pytest.raises(CheckpointError, match=r"stored \[out, in\].*convert the model again"):
        orbax.load_params(config, tmp_path, "float32")


@pytest.mark.parametrize(
    ("mixer", "parts"), [(ssd(), ("z", "x", "bc", "dt")), (mamba(), "xz"), (short_conv(), "bcx")]
)
def test_projections_stored_in_one_are_refused_with_advice(mixer, parts, tmp_path):
    config = decoder(mixer)
    params = random_params(config.spec())
    weights = params["blocks"]["0"]["mixer"]
    joined = [weights.pop(f"w_{name}").reshape(-1, D_MODEL) for name in parts]
    weights["w_in"] = np.concatenate(joined)
    orbax.save_params(params, tmp_path)
    message = r"'blocks/0/mixer/w_in', which .* stores in parts.*convert the model again"
    with pytest.raises(CheckpointError, match=message):
        orbax.load_params(config, tmp_path, "float32")
