"""Linear attention beside attention, and mixtures among them."""

from typing import Any

from configurations.case import Case, dense_case

LINEAR, FULL = "linear_attention", "full_attention"


def _long(family: str, name: str, **changes: Any) -> Case:
    """Prompts and a sequence that do not fit a chunk of the recurrence."""
    return dense_case(family, name, prompt_lengths=(1, 33, 70), forward_length=70, **changes)


_QWEN3_NEXT = {
    "head_dim": 10,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_value_head_dim": 6,
    "linear_key_head_dim": 5,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 12,
}

QWEN3_NEXT = (
    # A fifth of 10 features is a pair.
    dense_case(
        "qwen3_next",
        "linear_first",
        layer_types=[LINEAR, FULL],
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.2},
        **_QWEN3_NEXT,
    ),
    dense_case(
        "qwen3_next",
        "one_key_head_dense_layer_biases",
        num_hidden_layers=3,
        layer_types=[FULL, LINEAR, LINEAR],
        mlp_only_layers=[1],
        norm_topk_prob=False,
        attention_bias=True,
        tie_word_embeddings=True,
        linear_conv_kernel_dim=2,
        **_QWEN3_NEXT | {"linear_num_key_heads": 1, "num_experts_per_tok": 1, "head_dim": 8},
    ),
    _long(
        "qwen3_next",
        "ratio_1_long",
        num_key_value_heads=4,
        layer_types=[LINEAR, FULL],
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
        **_QWEN3_NEXT | {"linear_num_key_heads": 4, "num_experts_per_tok": 5},
    ),
)

_KIMI = {
    "bos_token_id": None,
    "eos_token_id": None,
    "num_key_value_heads": 4,
    "linear_num_heads": 3,
    "linear_head_dim": 6,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
}

KIMI_LINEAR = (
    dense_case("kimi_linear", "dense_first", layer_types=[LINEAR, FULL], **_KIMI),
    dense_case(
        "kimi_linear",
        "query_rank_groups_biases",
        num_hidden_layers=3,
        layer_types=[FULL, LINEAR, LINEAR],
        mlp_layer_types=["sparse", "dense", "sparse"],
        q_lora_rank=7,
        attention_bias=True,
        n_group=3,
        topk_group=2,
        norm_topk_prob=False,
        routed_scaling_factor=1.0,
        **_KIMI,
    ),
    _long(
        "kimi_linear",
        "experts_alone_long",
        layer_types=[LINEAR, FULL],
        mlp_layer_types=["sparse", "sparse"],
        n_shared_experts=2,
        linear_conv_kernel_dim=3,
        rms_norm_eps=1e-3,
        **_KIMI | {"linear_num_heads": 5, "linear_head_dim": 4},
    ),
)

_MINIMAX = {"num_local_experts": 5, "num_experts_per_tok": 2, "bos_token_id": None, "eos_token_id": None}

MINIMAX = (
    dense_case("minimax", "full_first", **_MINIMAX),
    dense_case(
        "minimax",
        "factors_small_blocks",
        num_hidden_layers=3,
        layer_types=[LINEAR, FULL, LINEAR],
        block_size=7,
        full_attn_alpha_factor=1.4,
        full_attn_beta_factor=0.8,
        linear_attn_alpha_factor=0.7,
        linear_attn_beta_factor=1.2,
        mlp_alpha_factor=1.3,
        mlp_beta_factor=0.6,
        tie_word_embeddings=True,
        **_MINIMAX,
    ),
    # transformers' cached decoding attends beyond the window, its full forward does not.
    dense_case(
        "minimax",
        "three_heads_window",
        cached_reference=False,
        hidden_size=18,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=9,
        hidden_act="gelu",
        layer_types=[LINEAR, FULL],
        **_MINIMAX | {"num_experts_per_tok": 5},
    ),
)

_QWEN3_5 = {key: value for key, value in _QWEN3_NEXT.items() if key.startswith("linear")}
_FIFTH = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.2}}

QWEN3_5 = (
    dense_case("qwen3_5_text", "linear_first", head_dim=10, layer_types=[LINEAR, FULL], **_FIFTH, **_QWEN3_5),
    dense_case(
        "qwen3_5_text",
        "one_key_head_biases_tied",
        num_hidden_layers=3,
        layer_types=[FULL, LINEAR, LINEAR],
        attention_bias=True,
        tie_word_embeddings=True,
        linear_conv_kernel_dim=2,
        **_QWEN3_5 | {"linear_num_key_heads": 1, "head_dim": 8},
    ),
    _long(
        "qwen3_5_text",
        "equal_heads_long",
        num_key_value_heads=4,
        layer_types=[LINEAR, FULL],
        rms_norm_eps=1e-3,
        head_dim=8,
        **_QWEN3_5 | {"linear_num_key_heads": 4},
    ),
)

_QWEN3_5_MOE = {key: value for key, value in _QWEN3_NEXT.items() if key != "head_dim"}

QWEN3_5_MOE = (
    dense_case(
        "qwen3_5_moe_text", "linear_first", head_dim=10, layer_types=[LINEAR, FULL], **_FIFTH, **_QWEN3_5_MOE
    ),
    dense_case(
        "qwen3_5_moe_text",
        "tied_biases",
        num_hidden_layers=3,
        layer_types=[FULL, LINEAR, LINEAR],
        attention_bias=True,
        tie_word_embeddings=True,
        head_dim=8,
        **_QWEN3_5_MOE | {"linear_num_key_heads": 1, "num_experts_per_tok": 1},
    ),
    dense_case(
        "qwen3_5_moe_text",
        "all_experts_equal_heads",
        num_key_value_heads=4,
        layer_types=[LINEAR, FULL],
        rms_norm_eps=1e-3,
        **_QWEN3_5_MOE | {"linear_num_key_heads": 4, "num_experts_per_tok": 5, "head_dim": 8},
    ),
)

LINEAR_HYBRIDS = (*QWEN3_NEXT, *QWEN3_5, *QWEN3_5_MOE, *KIMI_LINEAR, *MINIMAX)
