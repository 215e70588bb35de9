"""Configurations as published, and as transformers writes them in full: read, or refused by name."""

import json
import warnings

import pytest
from configurations import CASES
from configurations.case import full_hf_dict, hf_dict
from published_configs import NAMES, model_type, published

import jaxmodels as jm
from jaxmodels.checkpoints.huggingface import config_dict, read_config
from jaxmodels.layers.spec import count_params
from jaxmodels.models.config_keys import BASE_KEYS, GENERATION_KEYS, INERT_KEYS, SWITCHES
from jaxmodels.models.hf_config import ConfigError, ConfigWarning
from jaxmodels.models.text_part import WRAPPERS

LISTED = [name for name in NAMES if model_type(name) in jm.list_families()]
WITH_VISION = [name for name in NAMES if model_type(name) in WRAPPERS]
OTHERS = [name for name in NAMES if name not in LISTED and name not in WITH_VISION]

# transformers reads this one as a causal model, which its authors' own code is not.
WARNS = {"qwen2--gte-Qwen2-7B-instruct": "'is_causal' is unknown and ignored; its value is False"}

LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-5,
}  # fmt: skip


LAYERS = ("num_hidden_layers", "n_layers", "n_layer")

# How many parameters the repositories say their models have.
PARAMETERS = {
    "Dream--Dream-v0-Instruct-7B": 7_615_616_512,
    "deepseek_v2--DeepSeek-V2": 235_741_434_880,
    "falcon_mamba--falcon-mamba-7b": 7_272_665_088,
    "gemma3--gemma-3-27b": 27_009_346_304,
    "gpt2--gpt2-large": 774_030_080,
    "gpt_oss--gpt-oss-20b": 20_914_757_184,
    "kimi_k2--Kimi-K2-Instruct": 1_026_408_232_448,
    "lfm2--LFM2-350M": 354_483_968,
    "llada--LLaDA-8B-Instruct": 8_015_581_184,
    "llama--Llama-3.2-1B": 1_235_814_400,
    "llama--Meta-Llama-3-70B": 70_553_706_496,
    "llama--SmolLM2-135M": 134_515_008,
    "llama--TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "mamba2--Mamba-Codestral-7B-v0.1": 7_285_403_648,
    "mistral--Mistral-7B-v0.3": 7_248_023_552,
    "mixtral--Mixtral-8x7B-v0.1": 46_702_792_704,
    "phi3--Phi-4-mini-instruct": 3_836_021_760,
    "phi3--phi-4": 14_659_507_200,
    "qwen2--Qwen2.5-0.5B": 494_032_768,
    "qwen2_moe--Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "qwen3--Qwen3-0.6B": 596_049_920,
    "qwen3_moe--Qwen3-30B-A3B": 30_532_122_624,
    "qwen3_next--Qwen3-Next-80B-A3B": 79_674_391_296,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_published_model_has_as_many_parameters_as_its_repository_says(name):
    assert count_params(jm.config_from_hf(published(name), text_only=True).spec()) == PARAMETERS[name]


def test_there_are_files_of_each_kind():
    assert (len(LISTED), len(WITH_VISION), len(OTHERS)) == (93, 5, 16)


@pytest.mark.parametrize("name", LISTED)
def test_a_published_configuration_of_a_listed_family_reads(name, tmp_path):
    values = published(name)
    (tmp_path / "config.json").write_text(json.dumps(values))
    if name in WARNS:
        with pytest.warns(ConfigWarning, match=WARNS[name]):
            config, carried = read_config(tmp_path)
    else:
        assert jm.config_from_hf(values, strict=True) == jm.config_from_hf(values)
        config, carried = read_config(tmp_path)
    assert len(config.blocks) == next(values[key] for key in LAYERS if key in values)
    # What is written back is read as the same, and holds the marks that describe no model.
    written = json.loads(json.dumps(config_dict(config, carried)))
    for key in ("eos_token_id", "torch_dtype", "id2label", "transformers.js_config"):
        assert written.get(key) == values.get(key)
    (tmp_path / "config.json").write_text(json.dumps(written))
    with warnings.catch_warnings():
        warnings.simplefilter("default" if name in WARNS else "error", ConfigWarning)
        assert read_config(tmp_path) == (config, carried)


@pytest.mark.parametrize("name", OTHERS)
def test_a_published_configuration_of_another_family_is_refused_by_name(name):
    for text_only in (False, True):
        with pytest.raises(ConfigError, match=f"'model_type' is '{model_type(name)}'; the families are"):
            jm.config_from_hf(published(name), text_only=text_only)


@pytest.mark.parametrize("name", WITH_VISION)
def test_a_published_configuration_with_a_vision_part_asks_for_the_text(name):
    values = published(name)
    with pytest.raises(ConfigError, match=f"'{model_type(name)}' holds a vision part.*text_only=True"):
        jm.config_from_hf(values)
    config = jm.config_from_hf(values, strict=True, text_only=True)
    assert len(config.blocks) == values["text_config"]["num_hidden_layers"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_keys_that_transformers_writes_read(case):
    assert jm.config_from_hf(full_hf_dict(case), strict=True) == jm.config_from_hf(hf_dict(case))


def test_all_keys_of_any_model_and_of_generation_are_known():
    from transformers import GenerationConfig, PretrainedConfig

    base = set(json.loads(PretrainedConfig().to_json_string(use_diff=False)))
    assert base <= BASE_KEYS | set(SWITCHES)
    old = published("mistral--Mistral-7B-Instruct-v0.3")  # transformers 4 wrote all keys of both kinds
    settings = set(old) & set(vars(GenerationConfig()))
    assert settings <= GENERATION_KEYS | BASE_KEYS and len(settings) > 20


@pytest.mark.parametrize(
    "marks",
    [
        {"use_mrope": False, "rope_interleaved": False, "is_llama_config": True},
        {"unsloth_fixed": True, "max_sequence_length": 2048, "pad_token_id": -1},
        {"id2label": {"0": "a"}, "label2id": {"a": 0}, "num_labels": 1, "problem_type": None},
        {"max_length": 4096, "do_sample": True, "temperature": 0.6, "quantization_config": None},
        {"sliding_window": None, "partial_rotary_factor": 1.0, "clip_qkv": None, "is_causal": True},
    ],
)
def test_known_marks_and_switches_that_are_off_are_accepted(marks):
    assert jm.config_from_hf(LLAMA | marks, strict=True) == jm.config_from_hf(LLAMA)


@pytest.mark.parametrize("extra", [{"use_foo": False}, {"foo_layers": []}, {"foo_dropout": 0.1}, {"_foo": 3}])
def test_an_unknown_key_that_cannot_matter_warns_and_is_carried(extra, tmp_path):
    (key, value), values = *extra.items(), LLAMA | extra
    with pytest.warns(ConfigWarning, match=f"key '{key}' is unknown and ignored; its value is"):
        assert jm.config_from_hf(values) == jm.config_from_hf(LLAMA)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.warns(ConfigWarning, match="unknown"):
        assert read_config(tmp_path)[1] == {key: value}
    with pytest.raises(ConfigError, match=f"unknown config keys {{'{key}'"):
        jm.config_from_hf(values, strict=True)


@pytest.mark.parametrize(
    "extra", [{"use_foo": True}, {"use_mrope": True}, {"is_encoder_decoder": True}, {"foo": "bar"}]
)
def test_an_unknown_key_that_may_matter_is_refused(extra):
    with pytest.raises(ConfigError, match=f"unknown config keys {{'{next(iter(extra))}'"):
        jm.config_from_hf(LLAMA | extra)


def test_unknown_rotary_keys_are_decided_alike():
    linear = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(ConfigError, match=r"unknown config keys {'rope_scaling/alpha': 3}"):
        jm.config_from_hf(LLAMA | {"rope_scaling": linear | {"alpha": 3}})
    with pytest.warns(ConfigWarning, match="'rope_scaling/alpha' is unknown"):
        config = jm.config_from_hf(LLAMA | {"rope_scaling": linear | {"alpha": 0}})
    assert config == jm.config_from_hf(LLAMA | {"rope_scaling": linear})


def test_no_key_is_both_inert_and_a_switch():
    assert not INERT_KEYS & set(SWITCHES)
