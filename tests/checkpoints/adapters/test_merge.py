"""Adapters that peft wrote, merged on load, against what peft computes with them."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from adapters_of_peft import TOKENS, adapt, assert_logits, base_model, logits_of
from configurations import ONE_OF_EACH_FAMILY
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError

SWEEP = pytest.mark.sweep
QKV = ["q_proj", "k_proj", "v_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LINEAR = "all-linear"


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"r": 4, "lora_alpha": 12, "target_modules": LINEAR}),
        pytest.param("qwen2", {"r": 4, "target_modules": QKV, "bias": "all"}, marks=SWEEP),
        ("qwen2", {"r": 4, "target_modules": QKV, "bias": "lora_only", "lora_bias": True}),
        ("phi3", {"r": 4, "target_modules": LINEAR}),
        ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"]}),
        ("mamba2", {"r": 4, "target_modules": ["in_proj"]}),
        ("mixtral", {"r": 4, "target_modules": LINEAR}),
        ("qwen3_moe", {"r": 4, "target_modules": ["q_proj"], "target_parameters": EXPERTS}),
        pytest.param(
            "qwen3_moe",
            {
                "r": 4,
                "target_parameters": EXPERTS[1:],
                "target_modules": [],
                "rank_pattern": {"down_proj": 2},
            },
            marks=SWEEP,
        ),
        ("gpt_oss", {"r": 4, "target_modules": ["o_proj"], "target_parameters": EXPERTS}),
        pytest.param(
            "llama", {"r": 4, "target_modules": ["q_proj", "down_proj"], "use_rslora": True}, marks=SWEEP
        ),
        (
            "llama",
            {
                "r": 4,
                "target_modules": ["q_proj", "o_proj", "up_proj"],
                "rank_pattern": {"o_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
                "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 32},
            },
        ),
        ("llama", {"r": 4, "target_modules": ["q_proj", "down_proj"], "use_dora": True}),
        pytest.param("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "use_dora": True}, marks=SWEEP),
        ("llama", {"r": 4, "target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
        ("llama", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
        pytest.param(
            "llama",
            {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]},
            marks=SWEEP,
        ),
        pytest.param(
            "llama", {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [3, 8]}, marks=SWEEP
        ),
        pytest.param(
            "llama", {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1]}, marks=SWEEP
        ),
    ],
    ids=str,
)
def test_logits_are_those_of_peft(tmp_path, family, settings):
    adapted = adapt(tmp_path, family, **settings)
    assert np.abs(logits_of(base_model(family)) - adapted.logits).max() > 1e-2
    assert_logits(jm.load(adapted.base, adapter=adapted.adapter)(TOKENS), adapted.logits)


# peft refuses some layers of Mamba, and transformers goes past an adapter of `dt_proj`.
MAMBA = {"mamba": ["in_proj", "x_proj"], "falcon_mamba": ["in_proj", "x_proj"], "mamba2": ["in_proj"]}
MAMBA |= {"jamba": ["in_proj", "x_proj", "q_proj", "down_proj"], "nemotron_h": ["in_proj", "q_proj"]}
MAMBA |= {"bamba": ["in_proj", "q_proj", "up_proj"], "falcon_h1": ["in_proj", "q_proj", "up_proj"]}
MAMBA |= {"granitemoehybrid": ["in_proj", "q_proj"]}
# Layers of Zamba2 share weights, to each of whose uses peft gives an adapter of its own: those are refused.
MAMBA |= {"zamba2": ["in_proj"]}


# Those that transformers has: peft wraps its models. It cannot run the router of Llama 4.
WRAPPED = [case for case in ONE_OF_EACH_FAMILY if case.stand_in is None and case.family != "llama4_text"]


@pytest.mark.sweep
@pytest.mark.parametrize("case", WRAPPED, ids=lambda case: case.name)
def test_logits_are_those_of_peft_for_every_family(tmp_path, case):
    targets = MAMBA.get(case.family, LINEAR)
    adapted = adapt(tmp_path, case.family, config=case.config, r=2, target_modules=targets)
    assert_logits(jm.load(adapted.base, "float32", adapter=adapted.adapter)(TOKENS), adapted.logits)


@pytest.mark.sweep
def test_adapters_of_single_uses_of_a_shared_weight_are_refused(tmp_path):
    case = next(case for case in ONE_OF_EACH_FAMILY if case.family == "zamba2")
    adapted = adapt(tmp_path, "zamba2", config=case.config, r=2, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match=r"layers\.4\.shared_transformer\.self_attn\.q_proj\.weight'"):
        jm.load(adapted.base, "float32", adapter=adapted.adapter)


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({"target_modules": ["embed_tokens"]}, False),
        pytest.param({"target_modules": ["lm_head"]}, False, marks=SWEEP),
        pytest.param({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False, marks=SWEEP),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 8]}, True),
        pytest.param({"target_modules": ["q_proj"]}, True, marks=SWEEP),
    ],
    ids=str,
)
def test_a_tied_pair_is_parted_where_it_was_in_training(tmp_path, settings, tied):
    adapted = adapt(tmp_path, "qwen2", r=4, **settings)
    model = jm.load(adapted.base, adapter=adapted.adapter)
    assert model.config.tie_embeddings is tied
    assert_logits(model(TOKENS), adapted.logits)
    jm.save(model, tmp_path / "saved")
    assert_logits(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), adapted.logits)


def test_several_adapters_are_merged_in_turn(tmp_path):
    from peft import PeftModel

    first = adapt(tmp_path, "llama", r=4, target_modules=["q_proj", "up_proj"])
    second = adapt(tmp_path, "llama", seed=2, r=2, target_modules=["q_proj", "lm_head"])
    model = AutoModelForCausalLM.from_pretrained(first.base)
    for one in (first, second):
        model = PeftModel.from_pretrained(model, one.adapter).merge_and_unload()
    assert_logits(jm.load(first.base, adapter=[first.adapter, second.adapter])(TOKENS), logits_of(model))


def test_orbax_checkpoints_take_adapters(sound, tmp_path):
    jm.save(jm.load(sound.base), tmp_path / "orbax", "orbax")
    assert_logits(jm.load(tmp_path / "orbax", adapter=str(sound.adapter))(TOKENS), sound.logits)


def test_weights_keep_their_dtype(sound):
    model = jm.load(sound.base, "bfloat16", adapter=sound.adapter)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params)} == {"bfloat16"}


def test_pickles_are_read_on_request(sound, tmp_path):
    shutil.copy(sound.adapter / "adapter_config.json", tmp_path)
    torch.save(load_file(sound.adapter / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle.*allow_pickle=True"):
        jm.load(sound.base, adapter=tmp_path)
    assert_logits(jm.load(sound.base, adapter=tmp_path, allow_pickle=True)(TOKENS), sound.logits)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return adapt(tmp_path_factory.mktemp("sound"), "llama", r=4, target_modules=["q_proj"])


def edited(adapted, directory, change):
    """The adapter in another directory, with its tensors changed."""
    shutil.copytree(adapted.adapter, directory, dirs_exist_ok=True)
    tensors = load_file(directory / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (f"{LAYER}.lora_A.weight", (4, 31), r"q_proj: .* pair has shape \[32, 31\].*ask for \[32, 32\]"),
        (f"{LAYER}.lora_A.weight", (3, 32), r"lora_A has shape \[3, 32\].*ask for \[4, 32\]"),
        (f"{LAYER}.lora_A.weight", (4, 32, 1), "those of convolutions are not read"),
        (LAYER.replace("q_proj", "x_proj") + ".lora_A.weight", (4, 32), r"x_proj\.weight'.*does not have"),
        ("base_model.model.lm_head.weight", (31, 32), r"lm_head.* has shape \[31, 32\].*tokens were added"),
        ("base_model.model.score.weight", (2, 32), r"changes 'score\.weight', which the model does not have"),
        (f"{LAYER}.lora_magnitude_vector", (31,), r"magnitude_vector has shape \[31\].*ask for \[32\]"),
        (f"{LAYER}.lora_A.bias", (4,), r"changes '.*lora_A\.bias', which the model does not have"),
        (f"{LAYER}.lora_E", (4, 1), r"lora_E' of shape \[4, 1\] is no part of a LoRA adapter"),
        (f"{LAYER}.lora_B.bias", (32,), r"q_proj\.bias', which the model does not have"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(sound, tmp_path, name, shape, message):
    adapter = edited(sound, tmp_path, lambda tensors: tensors.update({name: torch.ones(shape)}))
    with pytest.raises(CheckpointError, match=rf"adapter_model\.safetensors.*{message}"):
        jm.load(sound.base, adapter=adapter)


def test_norms_that_the_settings_promise_must_be_there(sound, tmp_path):
    adapter = edited(sound, tmp_path, lambda tensors: None)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    with pytest.raises(CheckpointError, match=r"q_proj: lora_magnitude_vector has shape \[\].*for \[32\]"):
        jm.load(sound.base, adapter=adapter)


def test_an_adapter_of_nothing_is_refused(sound, tmp_path):
    adapter = edited(sound, tmp_path, lambda tensors: tensors.clear())
    with pytest.raises(CheckpointError, match="holds an adapter without a single tensor"):
        jm.load(sound.base, adapter=adapter)


def test_half_a_pair_is_refused(sound, tmp_path):
    adapter = edited(sound, tmp_path, lambda tensors: tensors.pop(f"{LAYER}.lora_B.weight"))
    with pytest.raises(CheckpointError, match=r"q_proj' has one half of a low-rank pair"):
        jm.load(sound.base, adapter=adapter)


@pytest.mark.parametrize("adapter", [3, [3], {"a": 1}, ""])
def test_what_is_no_name_is_refused(adapter):
    with pytest.raises(ValueError, match="adapter must be a path or a name"):
        jm.load("tiny-mamba2", adapter=adapter)
