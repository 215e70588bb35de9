"""Configurations of hybrids and of DeepSeek's heirs: published ones, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
from configurations.case import hf_dict
from configurations.hybrids import BAMBA, FALCON_H1, GRANITEMOEHYBRID, JAMBA, NEMOTRON_H, ZAMBA2
from configurations.mixtures import DEEPSEEK_V2, DEEPSEEK_V3
from published_configs import published

import jaxmodels as jm
from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.moe import SigmoidTopK, SoftmaxTopK
from jaxmodels.layers.spec import count_params
from jaxmodels.models.readers.hybrid import other_factor

_YARN = {
    "type": "yarn",
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}

# Published models: how many parameters they have, and their configurations.
PUBLISHED = {
    # The selection biases, 256 in each of 58 layers, are among them.
    "deepseek-ai/DeepSeek-V3": (671_026_419_200, published("deepseek_v3--DeepSeek-V3")),
    "deepseek-ai/DeepSeek-V2-Lite": (15_706_484_224, published("deepseek_v2--DeepSeek-V2-Lite")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model(name):
    parameters, values = PUBLISHED[name]
    config = jm.config_from_hf(values)
    assert count_params(config.spec()) == parameters
    assert jm.config_from_hf(json.loads(json.dumps(jm.config_to_hf(config)))) == config


def test_the_layers_of_deepseek_v3():
    config = jm.config_from_hf(PUBLISHED["deepseek-ai/DeepSeek-V3"][1])
    attention, dense, mixture = config.blocks[0].mixer, config.blocks[2].ffn, config.blocks[3].ffn
    assert isinstance(attention, LatentAttention)
    assert (attention.query_rank, attention.kv_rank, attention.rope.style) == (1536, 512, "interleaved")
    assert attention.rope.scaling.logit_factor == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    assert dense.d_ff == 18432
    assert mixture.router == SigmoidTopK(
        d_model=7168, num_experts=256, top_k=8, scale=2.5, num_groups=8, top_groups=4
    )
    assert mixture.shared.d_ff == 2048


def test_kimi_k2_is_deepseek_v3_by_another_name(tmp_path):
    values = hf_dict(DEEPSEEK_V3[0])
    model = jm.init(jm.config_from_hf({**values, "model_type": "kimi_k2"}))
    assert dataclasses.replace(model.config, family="deepseek_v3") == jm.config_from_hf(values)
    jm.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "kimi_k2"
    tokens = np.arange(1, 9)[None]
    np.testing.assert_array_equal(jm.load(tmp_path)(tokens), model(tokens))


def test_deepseek_v2_chooses_within_groups_only_where_it_says_so():
    routers = [jm.config_from_hf(hf_dict(case)).blocks[-1].ffn.router for case in DEEPSEEK_V2[:2]]
    assert all(isinstance(router, SoftmaxTopK) for router in routers)
    assert [(router.num_groups, router.top_groups) for router in routers] == [(1, 1), (4, 2)]
    greedy = jm.config_from_hf(hf_dict(DEEPSEEK_V2[1]) | {"topk_method": "greedy"})
    assert greedy.blocks[-1].ffn.router.num_groups == 1


def test_older_names_of_layers():
    pattern = {"hybrid_override_pattern": "M-*-", "layers_block_type": None}
    named = hf_dict(NEMOTRON_H[0])
    assert jm.config_from_hf(named | pattern) == jm.config_from_hf(named)
    old = {"layers_block_type": ["mamba", "mlp", "attention", "mlp"]}
    assert jm.config_from_hf(named | old) == jm.config_from_hf(named)


@pytest.mark.parametrize("factor", [0.39, 1.1, 1 / 3, 0.7071067811865476, 12.0])
def test_multipliers_survive_being_multiplied(factor):
    for head_dim in (6, 64, 80, 128):
        assert (
            other_factor(head_dim**-0.5 * factor, head_dim**-0.5) * head_dim**-0.5 == head_dim**-0.5 * factor
        )


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (DEEPSEEK_V3[0], {"moe_layer_freq": 2}, r"'moe_layer_freq' has the value 2.*supported: 1"),
        (DEEPSEEK_V3[0], {"scoring_func": "softmax"}, r"'scoring_func' has the value 'softmax'"),
        (
            DEEPSEEK_V3[0],
            {"num_key_value_heads": 2},
            r"'num_key_value_heads' must equal 'num_attention_heads' = 4.*got 2",
        ),
        (DEEPSEEK_V3[0], {"n_group": 3}, r"'n_group' must divide 'n_routed_experts' = 8, got 3"),
        (
            DEEPSEEK_V3[0],
            {"quantization_config": {"bits": 4}},
            "{'quantization_config': {'bits': 4}}",
        ),
        (DEEPSEEK_V2[0], {"norm_topk_prob": True}, r"'norm_topk_prob' has the value True"),
        (DEEPSEEK_V2[0], {"topk_method": "noaux_tc"}, r"'topk_method' has the value 'noaux_tc'"),
        (
            BAMBA[0],
            {"attn_layer_indices": [3]},
            r"'attn_layer_indices': each .* <= 2, got 3",
        ),
        (BAMBA[0], {"attn_layer_indices": None}, r"'attn_layer_indices' must name some"),
        (BAMBA[0], {"mamba_d_head": 7}, r"mamba_n_heads \* mamba_d_head = 8 \* 7 must equal .* 64"),
        (FALCON_H1[0], {"mlp_multipliers": [1.0]}, r"'mlp_multipliers' must hold 2 numbers, got \[1.0\]"),
        (FALCON_H1[0], {"projectors_bias": True}, r"'projectors_bias' must equal 'mamba_proj_bias' = False"),
        (NEMOTRON_H[0], {"layers_block_type": ["conv"]}, r"'layers_block_type' must hold 1 of .*'conv'"),
        (NEMOTRON_H[0], {"tie_word_embeddings": True}, r"'tie_word_embeddings' has the value True"),
        (NEMOTRON_H[3], {"moe_latent_size": 0}, r"'moe_latent_size' must be a whole number >= 1"),
        (JAMBA[0], {"attn_layer_offset": 2}, r"attn_layer_offset=2 must be below attn_layer_period=2"),
        (
            JAMBA[0],
            {"num_experts_per_tok": 6},
            r"num_experts_per_tok must be between 1 and .*=5, got 6",
        ),
        (GRANITEMOEHYBRID[0], {"position_embedding_type": "alibi"}, r"'position_embedding_type'.*'alibi'"),
        (GRANITEMOEHYBRID[0], {"hidden_act": "gelu"}, r"'hidden_act' has the value 'gelu'.*'silu'"),
        (ZAMBA2[0], {"tie_word_embeddings": False}, r"'tie_word_embeddings' has the value False"),
        (ZAMBA2[0], {"num_mem_blocks": 0}, r"'num_mem_blocks' must be a whole number >= 1"),
        (ZAMBA2[0], {"n_mamba_heads": 7}, r"'n_mamba_heads' must divide the inner width 48, got 7"),
        (ZAMBA2[0], {"use_long_context": True}, r"'use_long_context' has the value True"),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_what_is_not_understood_is_refused_by_name(case, changes, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf(hf_dict(case) | changes)
