"""Configurations of the dense families: published ones, those of older releases, and what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from configurations.case import hf_dict
from configurations.dense import (
    COHERE2,
    FULL,
    GEMMA2,
    GEMMA3_TEXT,
    GPT2,
    GPT_NEOX,
    GRANITE,
    OLMO2,
    OLMO3,
    PHI3,
    SLIDING,
    SMOLLM3,
)
from published_configs import published
from safetensors.numpy import load_file, save_file

import jaxmodels as jm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.rope_scaling import LinearScaling, YarnScaling
from jaxmodels.layers.spec import count_params, walk
from jaxmodels.models.readers.dense import reciprocal

# Published models: how many parameters they have, and their configurations without inert keys.
PUBLISHED = {
    "google/gemma-2-2b": (2_614_341_888, published("gemma2--gemma-2-2b")),
    "google/gemma-3-1b-pt": (999_885_952, published("gemma3_text--gemma-3-1b")),
    "HuggingFaceTB/SmolLM3-3B": (
        3_075_098_624,
        {
            "model_type": "smollm3",
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "mlp_bias": False,
            "no_rope_layer_interval": 4,
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 4,
            "pretraining_tp": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
            "vocab_size": 128256,
        },
    ),
    "CohereForAI/c4ai-command-r7b-12-2024": (
        8_028_033_024,
        {
            "model_type": "cohere2",
            "attention_bias": False,
            "cache_implementation": "hybrid",
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "layer_norm_eps": 1e-05,
            "layer_switch": 4,
            "logit_scale": 0.25,
            "max_position_embeddings": 8192,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "order_of_interleaved_layers": "local_attn_first",
            "position_embedding_type": "rope_gptj",
            "rope_scaling": None,
            "rope_theta": 50000,
            "rotary_pct": 1.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "use_embedding_sharing": True,
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_parallel_embedding": True,
            "vocab_size": 256000,
        },
    ),
    "microsoft/Phi-3-mini-4k-instruct": (
        3_821_079_552,
        {
            "model_type": "phi3",
            "attention_bias": False,
            "embd_pdrop": 0.0,
            "hidden_act": "silu",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096,
            "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
            "vocab_size": 32064,
        },
    ),
    "EleutherAI/pythia-160m": (
        162_322_944,
        {
            "model_type": "gpt_neox",
            "classifier_dropout": 0.1,
            "hidden_act": "gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
    ),
    "openai-community/gpt2": (124_439_808, published("gpt2--gpt2")),
    "allenai/OLMo-2-1124-7B": (7_298_617_344, published("olmo2--OLMo-2-1124-7B")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_read(name):
    parameters, values = PUBLISHED[name]
    config = jm.config_from_hf(values)
    assert count_params(config.spec()) == parameters
    assert jm.config_from_hf(jm.config_to_hf(config)) == config


def kinds(name):
    mixers = [block.mixer for block in jm.config_from_hf(PUBLISHED[name][1]).blocks]
    return [(mixer.sliding_window, mixer.rope.theta if mixer.rope else None) for mixer in mixers]


def test_layer_types_follow_each_family_where_no_key_lists_them():
    assert kinds("google/gemma-2-2b") == [(4096, 1e4), (None, 1e4)] * 13
    assert kinds("google/gemma-3-1b-pt") == ([(512, 1e4)] * 5 + [(None, 1e6)]) * 4 + [(512, 1e4)] * 2
    assert kinds("CohereForAI/c4ai-command-r7b-12-2024") == ([(4096, 5e4)] * 3 + [(None, None)]) * 8
    assert kinds("HuggingFaceTB/SmolLM3-3B") == ([(None, 5e6)] * 3 + [(None, None)]) * 9


def without(values, *keys):
    return {key: value for key, value in values.items() if key not in keys}


def test_positions_of_gemma3_by_older_keys():
    old = without(hf_dict(GEMMA3_TEXT[1]), "rope_parameters")
    old |= {
        "rope_theta": 300.0,
        "rope_local_base_freq": 20.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    sliding, full = (block.mixer.rope for block in jm.config_from_hf(old).blocks)
    assert sliding == Rope(rotary_dim=6, theta=20.0)
    assert full == Rope(rotary_dim=6, theta=300.0, scaling=LinearScaling(factor=8.0))


def test_positions_of_olmo3_by_older_keys():
    """One base for all layers; what stretches it holds for the full ones."""
    old = without(hf_dict(OLMO3[2]), "rope_parameters")
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    old |= {"rope_theta": 500.0, "rope_scaling": scaling}
    assert jm.config_from_hf(old) == jm.config_from_hf(hf_dict(OLMO3[2]))
    full, sliding = (block.mixer.rope for block in jm.config_from_hf(old).blocks)
    assert full.scaling == YarnScaling(factor=4.0, original_max_position_embeddings=32)
    assert sliding == Rope(rotary_dim=6, theta=500.0)


@pytest.mark.parametrize("value", [0.7, 3.0, 8.0, 49.0, 0.1, 13.0, 1 / 3, 6.0])
def test_divisors_survive_the_way_back(value):
    assert 1 / value == pytest.approx(reciprocal(value), rel=1e-15)
    assert reciprocal(reciprocal(value)) == value


def test_positions_of_gpt_neox_by_older_keys():
    """EleutherAI/pythia-70m: the keys of the base and of the part that turns are the family's own."""
    old = without(hf_dict(GPT_NEOX[0]), "rope_parameters") | {"rotary_pct": 0.5, "rotary_emb_base": 300}
    ropes = {block.mixer.rope for block in jm.config_from_hf(old).blocks}
    assert ropes == {Rope(rotary_dim=4, theta=300.0)}


# --- names of older checkpoints ----------------------------------------------------------------------


def rename_stored(source, directory, rename):
    """A copy of a checkpoint under other names."""
    directory.mkdir()
    shutil.copy(source / "config.json", directory)
    tensors = {rename(name): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    return directory, tensors


def assert_same_params(model, other):
    for (path, leaf), (other_path, other_leaf) in zip(walk(model.params), walk(other.params), strict=True):
        assert path == other_path
        np.testing.assert_array_equal(leaf, other_leaf)


def test_gpt2_without_the_prefix_and_with_its_masks(build_reference, tmp_path):
    """openai-community/gpt2 as it is on the hub."""
    source = build_reference(GPT2[0]).directory
    directory, tensors = rename_stored(
        source, tmp_path / "old", lambda name: name.removeprefix("transformer.")
    )
    assert "wte.weight" in tensors
    masks = {f"h.{i}.attn.bias": np.tri(100, dtype=np.float32)[None, None] for i in range(2)}
    save_file(tensors | masks, directory / "model.safetensors")
    assert_same_params(jm.load(directory), jm.load(source))


def test_gpt_neox_with_a_head_that_is_tied_or_called_otherwise(build_reference, tmp_path):
    source = build_reference(GPT_NEOX[0]).directory
    directory, tensors = rename_stored(
        source, tmp_path / "new", lambda name: name.replace("embed_out", "lm_head")
    )
    assert "lm_head.weight" in tensors
    save_file(tensors, directory / "model.safetensors")
    assert_same_params(jm.load(directory), jm.load(source))

    source = build_reference(GPT_NEOX[1]).directory
    directory, tensors = rename_stored(source, tmp_path / "tied", str)
    head = {"embed_out.weight": tensors["gpt_neox.embed_in.weight"]}
    save_file(tensors | head, directory / "model.safetensors")
    assert_same_params(jm.load(directory), jm.load(source))


def test_more_tokens_than_learned_positions_are_refused(build_reference):
    model = jm.load(build_reference(GPT2[0]).directory)
    tokens = np.ones((1, 101), np.int32)
    with pytest.raises(ValueError, match="101 tokens, but the model has learned 100 positions"):
        model(tokens)
    with pytest.raises(ValueError, match="need 101 positions, the model has learned 100"):
        model.generate(tokens[:, :98], max_new_tokens=4, stop_tokens=[])
    assert model.generate(tokens[:, :98], max_new_tokens=3, stop_tokens=[]).tokens.shape == (1, 3)


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (
            GEMMA2[0],
            {"use_bidirectional_attention": True},
            r"'use_bidirectional_attention'.*True",
        ),
        (GEMMA2[0], {"hidden_activation": "gleu"}, r"'hidden_activation' has the value 'gleu'"),
        (
            GEMMA2[0],
            {"query_pre_attn_scalar": 0},
            r"'query_pre_attn_scalar' must be .* >= 1.*got 0",
        ),
        (
            GEMMA2[0],
            {"attn_logit_softcapping": -1.0},
            r"'attn_logit_softcapping' must be .* > 0, got -1",
        ),
        (GEMMA2[0], {"sliding_window": None}, r"'layer_types' asks for sliding_attention but no sliding"),
        (GEMMA3_TEXT[0], {"attn_logit_softcapping": 50.0}, r"'attn_logit_softcapping' has the value 50.0"),
        (
            GEMMA3_TEXT[0],
            {"rope_parameters": {"linear_attention": {}}},
            r"'rope_parameters' must hold \['full_attention', 'sliding_attention'\].*'linear_attention'",
        ),
        (
            GEMMA3_TEXT[0],
            {"rope_scaling": {"factor": 2.0}},
            r"'rope_parameters'.*exclude 'rope_scaling'",
        ),
        (
            GEMMA3_TEXT[0],
            {"layer_types": None, "sliding_window_pattern": 0},
            r"'sliding_window_pattern' must be a whole number >= 1.*got 0",
        ),
        (OLMO2[0], {"clip_qkv": 8.0}, r"unknown config keys \{'clip_qkv': 8.0\}"),
        (OLMO2[0], {"partial_rotary_factor": 0.5}, r"'partial_rotary_factor' must be 1.0 or absent, got 0.5"),
        (OLMO3[0], {"layer_types": [FULL, SLIDING]}, r"'layer_types' must hold 4 of .*, got .*\["),
        (
            OLMO3[0],
            {"rope_parameters": {FULL: {"rope_type": "default", "partial_rotary_factor": 0.5}}},
            r"'partial_rotary_factor' must be 1.0 or absent, got 0.5",
        ),
        (SMOLLM3[0], {"no_rope_layers": [1]}, r"'no_rope_layers' must hold 2 of \[0, 1\].*got 1: \[1\]"),
        (
            SMOLLM3[0],
            {"no_rope_layers": [1, 2]},
            r"'no_rope_layers' must hold 2 of .*got 2: \[1, 2\]",
        ),
        (SMOLLM3[0], {"no_rope_layers": None, "no_rope_layer_interval": 0}, r">= 1.*got 0"),
        (SMOLLM3[0], {"layer_types": [FULL, SLIDING]}, r"asks for sliding_attention but no sliding window"),
        (COHERE2[0], {"use_qk_norm": True}, r"'use_qk_norm' has the value True.*supported: False"),
        (
            COHERE2[0],
            {"position_embedding_type": "alibi"},
            r"'position_embedding_type'.*'alibi'",
        ),
        (COHERE2[0], {"rotary_pct": 0.5}, r"'rotary_pct' has the value 0.5.*supported: 1.0"),
        (PHI3[0], {"attention_bias": True}, r"'attention_bias' has the value True.*supported: False"),
        (
            PHI3[2],
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
            r"rope_type 'longrope' needs \['long_factor'\]",
        ),
        (
            GPT_NEOX[0],
            {"num_attention_heads": 5},
            r"must divide 'hidden_size' = 32, got 5",
        ),
        (GPT_NEOX[0], {"num_key_value_heads": 2}, r"unknown config keys \{'num_key_value_heads': 2\}"),
        (GPT_NEOX[0], {"rotary_pct": "all"}, r"'rotary_pct' must be a number, got 'all'"),
        (GPT2[0], {"n_head": 2}, r"'n_head' must divide 'n_embd' = 21, got 2"),
        (GPT2[0], {"n_positions": None}, r"key 'n_positions' is missing; expected a whole number"),
        (
            GPT2[0],
            {"add_cross_attention": True},
            r"'add_cross_attention' has the value True",
        ),
        (GRANITE[0], {"logits_scaling": 0}, r"'logits_scaling' must be a finite number > 0, got 0"),
        (GRANITE[0], {"residual_multiplier": "1"}, r"'residual_multiplier' must be a number, got '1'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(case, changes, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf(hf_dict(case) | changes)


def first_mixer(config, **changes):
    first, *rest = config.blocks
    mixer = dataclasses.replace(first.mixer, **changes)
    return dataclasses.replace(config, blocks=(dataclasses.replace(first, mixer=mixer), *rest))


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (GEMMA2[0], {"scale": 0.3}),
        (GEMMA2[0], {"sliding_window": 8, "softcap": None}),
        (GEMMA3_TEXT[0], {"softcap": 50.0}),
        (OLMO2[0], {"sliding_window": 8}),
        (OLMO3[0], {"rope": None}),
        (SMOLLM3[1], {"scale": 0.3}),
        (COHERE2[0], {"rope": None}),
        (GRANITE[0], {"softcap": 3.0}),
        (PHI3[0], {"qkv_bias": True}),
        (GPT_NEOX[0], {"num_kv_heads": 2}),
        (GPT2[0], {"rope": Rope(rotary_dim=6)}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "_".join(value),
)
def test_a_model_that_its_family_cannot_express_is_not_written(case, changes):
    config = jm.config_from_hf(hf_dict(case))
    with pytest.raises(jm.ConfigError):
        jm.config_to_hf(first_mixer(config, **changes))
    with pytest.raises(jm.ConfigError, match=r"cannot express.*'residual_dtype'"):
        jm.config_to_hf(dataclasses.replace(config, residual_dtype="float32"))


def test_a_scale_of_the_embeddings_that_gemma_does_not_have_is_not_written():
    config = jm.config_from_hf(hf_dict(GEMMA2[0]))
    with pytest.raises(jm.ConfigError, match=r"'gemma2' layout cannot express.*'embed_scale'"):
        jm.config_to_hf(dataclasses.replace(config, embed_scale=1.0))
