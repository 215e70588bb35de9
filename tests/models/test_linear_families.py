"""What the tables of the families with linear attention cannot show: published sizes, defaults, refusals."""

import pytest
from configurations.case import hf_dict
from configurations.linear import FULL, KIMI_LINEAR, LINEAR, MINIMAX, QWEN3_NEXT
from published_configs import published

import jaxmodels as jm
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.spec import count_params
from jaxmodels.models.costs import flops_per_token

# The keys of Qwen/Qwen3-Next-80B-A3B-Instruct.
QWEN3_NEXT_80B = published("qwen3_next--Qwen3-Next-80B-A3B")

# The keys of moonshotai/Kimi-Linear-48B-A3B-Instruct.
KIMI_LINEAR_48B = {
    "model_type": "kimi_linear",
    "first_k_dense_replace": 1,
    "head_dim": 72,
    "hidden_act": "silu",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "kv_lora_rank": 512,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "head_dim": 128,
        "kda_layers": [i for i in range(1, 27) if i % 4],
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
    "mla_use_nope": True,
    "model_max_length": 1048576,
    "moe_intermediate_size": 1024,
    "moe_layer_freq": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_attention_heads": 32,
    "num_expert_group": 1,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_hidden_layers": 27,
    "num_key_value_heads": 32,
    "num_nextn_predict_layers": 0,
    "num_shared_experts": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.446,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_grouped_topk": True,
    "v_head_dim": 128,
    "vocab_size": 163840,
}


@pytest.mark.parametrize(("values", "total", "active"), [(QWEN3_NEXT_80B, 80, 3), (KIMI_LINEAR_48B, 49, 3)])
def test_published_shapes_have_their_published_sizes(values, total, active):
    """In billions: all parameters, and those of the layers that a token is multiplied with."""
    config = jm.config_from_hf(values)
    assert round(count_params(config.spec()) / 1e9) == total
    multiplied = flops_per_token(config, 1).weights / 2 - config.vocab_size * config.d_model
    assert round(multiplied / 1e9) == active
    again = jm.config_from_hf(jm.config_to_hf(config))
    assert again == config
    assert again.max_positions == values.get("max_position_embeddings", values.get("model_max_length"))


def test_the_layers_of_published_shapes():
    qwen, kimi = jm.config_from_hf(QWEN3_NEXT_80B), jm.config_from_hf(KIMI_LINEAR_48B)
    attending = [i for i, block in enumerate(qwen.blocks) if isinstance(block.mixer, Attention)]
    assert attending == list(range(3, 48, 4))
    assert qwen.blocks[3].mixer.rope.rotary_dim == 64
    attending = [i + 1 for i, block in enumerate(kimi.blocks) if isinstance(block.mixer, LatentAttention)]
    assert attending == KIMI_LINEAR_48B["linear_attn_config"]["full_attn_layers"]
    dense = [i for i, block in enumerate(kimi.blocks) if isinstance(block.ffn, GatedMLP)]
    assert dense == [0]


def without(case, *keys):
    return {key: value for key, value in hf_dict(case).items() if key not in keys}


def test_layer_types_have_defaults():
    values = without(QWEN3_NEXT[0], "layer_types") | {"num_hidden_layers": 5, "decoder_sparse_step": 2}
    config = jm.config_from_hf(values)
    assert jm.config_to_hf(config)["layer_types"] == [LINEAR, LINEAR, LINEAR, FULL, LINEAR]
    assert [isinstance(block.ffn, MoE) for block in config.blocks] == [False, True, False, True, False]
    config = jm.config_from_hf(
        without(KIMI_LINEAR[0], "layer_types") | {"num_hidden_layers": 5} | {"mlp_layer_types": None}
    )
    assert jm.config_to_hf(config)["layer_types"] == [LINEAR, LINEAR, LINEAR, LINEAR, FULL]
    assert jm.config_to_hf(config)["mlp_layer_types"] == ["dense", *["sparse"] * 4]
    config = jm.config_from_hf(without(MINIMAX[0], "layer_types") | {"num_hidden_layers": 3})
    assert jm.config_to_hf(config)["layer_types"] == [FULL, LINEAR, FULL]


def test_slopes_fall_with_the_layer():
    mixers = [block.mixer for block in jm.config_from_hf(hf_dict(MINIMAX[1])).blocks]
    first, last = mixers[0].slope_scale, mixers[2].slope_scale
    assert first == pytest.approx(1.0, abs=2e-5)
    assert 0 < last < 2e-5
    assert isinstance(mixers[1], Attention)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (QWEN3_NEXT[0], {"layer_types": [FULL]}, "'layer_types' must hold 2 of"),
        (QWEN3_NEXT[0], {"layer_types": [FULL, "sliding_attention"]}, "'layer_types' must hold 2 of"),
        (
            QWEN3_NEXT[0],
            {"full_attention_interval": 0},
            "'full_attention_interval' must be a whole",
        ),
        (
            QWEN3_NEXT[0],
            {"linear_num_key_heads": 3},
            "'linear_num_key_heads' must divide 'linear_num_value_heads' = 4, got 3",
        ),
        (QWEN3_NEXT[0], {"hidden_act": "gelu"}, "'hidden_act' has the value 'gelu'"),
        (KIMI_LINEAR[0], {"mla_use_nope": False}, "'mla_use_nope' has the value False"),
        (KIMI_LINEAR[0], {"num_key_value_heads": 2}, "'num_key_value_heads' must equal"),
        (KIMI_LINEAR[0], {"mlp_layer_types": ["sparse"]}, "'mlp_layer_types' must hold 2 of"),
        (
            KIMI_LINEAR[0],
            {"linear_attn_config": {"full_attn_layers": [1], "kda_layers": [1, 2]}},
            "must together hold each of 1 to 2 once",
        ),
        (
            KIMI_LINEAR[0],
            {"linear_attn_config": {"decay": 1}},
            "{'linear_attn_config/decay': 1}",
        ),
        (KIMI_LINEAR[0], {"tie_word_embeddings": True}, "'tie_word_embeddings' has the value True"),
        (KIMI_LINEAR[0], {"moe_router_activation_func": "softmax"}, "'moe_router_activation_func'"),
        (MINIMAX[0], {"block_size": 0}, "'block_size' must be a whole number >= 1"),
    ],
)
def test_what_is_not_supported_is_named(case, changes, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf(hf_dict(case) | changes)


@pytest.mark.parametrize("case", [QWEN3_NEXT[0], KIMI_LINEAR[0], MINIMAX[0]])
def test_a_layout_needs_a_layer_of_each_kind(case):
    config = jm.config_from_hf(hf_dict(case) | {"layer_types": [FULL, FULL]})
    assert not any(isinstance(block.mixer, GatedDeltaMixer) for block in config.blocks)
    with pytest.raises(jm.ConfigError, match=r"layout needs at least one (GatedDelta|Lightning)Mixer layer"):
        jm.config_to_hf(config)
