"""Published configurations with faults: each reads or is refused by a message that names the key, at once."""

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
from config_faults import Fault, faults
from configurations import CASES
from configurations.case import full_hf_dict
from published_configs import NAMES, model_type, published

import jaxmodels as jm
from jaxmodels.checkpoints import CheckpointError
from jaxmodels.checkpoints.huggingface import read_config
from jaxmodels.layers.spec import count_params
from jaxmodels.models.config_size import MOST_PARAMETERS
from jaxmodels.models.hf_config import MOST_LAYERS, ConfigError, ConfigWarning
from jaxmodels.models.text_part import WRAPPERS

READ = {name: published(name) for name in NAMES if model_type(name) in (*jm.list_families(), *WRAPPERS)}


def complaint(fault: Fault) -> str | None:
    """What is wrong with how a configuration with a fault is read, None where nothing is."""
    try:
        config = jm.config_from_hf(fault.values, text_only=True)
    except ConfigError as error:
        # Without rotary settings a partial factor has its default, which the message may name instead.
        named = (*fault.path, "partial_rotary_factor") if "rope_parameters" in fault.path else fault.path
        if any(key in str(error) for key in named):
            return None
        return f"{fault}: the message names another key: {error}"
    except Exception as error:
        return f"{fault}: {type(error).__name__}: {error}"
    if len(config.blocks) > MOST_LAYERS or count_params(config.spec()) > MOST_PARAMETERS:
        return f"{fault}: a model of absurd size was accepted"
    return None


def check(configurations: Mapping[str, Any], count: int, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        found = [complaint(fault) for fault in faults(configurations, count, seed)]
    assert [text for text in found if text is not None] == []


def test_faults_are_refused_by_the_name_of_the_key():
    check(READ, 200, seed=1)


@pytest.mark.sweep
def test_thousands_of_faults_are_refused_by_the_name_of_the_key():
    check(READ, 2000, seed=0)


@pytest.mark.sweep
def test_faults_in_what_transformers_writes_are_refused_by_the_name_of_the_key():
    """Of every family, small models with every option."""
    check({case.name: full_hf_dict(case) for case in CASES}, 5000, seed=0)


def test_a_checkpoint_s_configuration_is_refused_with_its_file_and_key(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(published("llama--Llama-3.2-1B") | {"head_dim": 10**400}))
    with pytest.raises(CheckpointError, match=f"{re.escape(str(file))}: .*'head_dim'"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_hidden_layers", value) for value in (0, -1, 10**6, 10**12, 2**63, 10**400, "2", [2], True)),
        *(("num_attention_heads", value) for value in (0, 3, 10**9, 1.5)),
        *(("head_dim", value) for value in (0, -4, 7, {})),
        *(("vocab_size", value) for value in (0, 10**15, None)),
        *(("hidden_size", value) for value in (float("inf"), float("nan"), 2**31)),
        *(("rms_norm_eps", value) for value in (float("nan"), float("inf"), -1e-5, 10**400, "1e-5")),
        *(("rope_theta", value) for value in (10**400, float("nan"), 0, 1, -5.0, [1e4])),
        *(
            ("rope_scaling", value)
            for value in ({"rope_type": ["x"]}, [], {"rope_type": "linear", "factor": 0})
        ),
        ("rope_scaling", {"rope_type": "linear", "factor": 10**400}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 2.0, "beta_fast": float("nan")}),
        *(("hidden_act", value) for value in (["silu"], {}, 3, "gleu")),
        *(("model_type", value) for value in (["llama"], {}, None, 3)),
        *(("tie_word_embeddings", value) for value in ("no", 1, [])),
        *(("max_position_embeddings", value) for value in (0, -1, 2**40, float("inf"))),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(key, value):
    values = {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=key):
        jm.config_from_hf(values | {key: value})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("granite--granite-3.3-8b-instruct", "residual_multiplier", float("inf")),
        ("granite--granite-3.3-8b-instruct", "embedding_multiplier", -12),
        ("granite--granite-3.3-8b-instruct", "logits_scaling", 0),
        ("gemma2--gemma-2-2b", "final_logit_softcapping", float("nan")),
        ("deepseek_v3--DeepSeek-V3", "routed_scaling_factor", 10**400),
        ("nemotron_h--Nemotron-H-56B-Base-8K", "num_hidden_layers", 117),
        ("nemotron_h--Nemotron-H-56B-Base-8K", "hybrid_override_pattern", "M-*"),
        ("nemotron_h--Nemotron-H-56B-Base-8K", "hybrid_override_pattern", "M" * 10**6),
        ("nemotron_h--Nemotron-H-56B-Base-8K", "layers_block_type", ["mlp"] * 118),
        ("granitemoehybrid--granite-4-8b-dense-hybrid", "layer_types", ["attention"] * 39),
        ("zamba2--Zamba2-7B", "layers_block_type", ["hybrid"] * 80),
        ("qwen3_next--Qwen3-Next-80B-A3B", "layer_types", ["full_attention"] * 47),
        ("lfm2--LFM2-350M", "full_attn_idxs", [99]),
        ("qwen3_moe--Qwen3-30B-A3B", "mlp_only_layers", [48]),
        ("olmo3--Olmo-3.1-32B-Instruct", "layer_types", ["full_attention"]),
    ],
)
def test_a_multiplier_or_pattern_that_cannot_be_is_refused_by_name(name, key, value):
    with pytest.raises(ConfigError, match=key):
        jm.config_from_hf(published(name) | {key: value})
