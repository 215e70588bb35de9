"""Transformers with mixtures of experts; the experts are few and small, so that some go unused and others
take many tokens."""

from configurations.case import dense_case as _dense
from configurations.case import rope_keys as _rope
from configurations.dense import LLAMA3_ROPE

MIXTRAL = (
    _dense("mixtral", "top_2", num_local_experts=5),
    _dense("mixtral", "window_top_1", sliding_window=7, num_local_experts=3, num_experts_per_tok=1),
    _dense(
        "mixtral",
        "wide_heads_all_experts_tied",
        head_dim=10,
        num_local_experts=4,
        num_experts_per_tok=4,
        tie_word_embeddings=True,
    ),
)

_QWEN_MOE = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 10}

QWEN2_MOE = (
    _dense("qwen2_moe", "plain_weights", shared_expert_intermediate_size=14, **_QWEN_MOE),
    _dense(
        "qwen2_moe",
        "every_other_layer_renormalised",
        num_hidden_layers=3,
        decoder_sparse_step=2,
        norm_topk_prob=True,
        qkv_bias=False,
        tie_word_embeddings=True,
        shared_expert_intermediate_size=6,
        **_QWEN_MOE,
    ),
    _dense(
        "qwen2_moe",
        "windows",
        num_hidden_layers=4,
        mlp_only_layers=[2],
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=3,
        shared_expert_intermediate_size=6,
        **_QWEN_MOE,
    ),
)

QWEN3_MOE = (
    _dense("qwen3_moe", "plain_weights", head_dim=10, **_QWEN_MOE),
    _dense(
        "qwen3_moe",
        "dense_first_biases_tied",
        head_dim=6,
        mlp_only_layers=[0],
        norm_topk_prob=True,
        attention_bias=True,
        tie_word_embeddings=True,
        **_QWEN_MOE,
    ),
    _dense(
        "qwen3_moe",
        "window_llama3",
        head_dim=8,
        use_sliding_window=True,
        sliding_window=6,
        **_QWEN_MOE,
        **LLAMA3_ROPE,
    ),
)

OLMOE = (
    _dense("olmoe", "plain_weights", num_experts=6, num_experts_per_tok=2),
    _dense(
        "olmoe",
        "renormalised_biases_clipped",
        num_experts=5,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        attention_bias=True,
        clip_qkv=0.8,
    ),
    _dense(
        "olmoe",
        "one_kv_head_tied",
        num_experts=4,
        num_experts_per_tok=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    ),
)

_YARN = _rope("yarn", factor=4.0, truncate=False, original_max_position_embeddings=32)

GPT_OSS = (
    _dense(
        "gpt_oss",
        "alternating_yarn",
        head_dim=8,
        sliding_window=7,
        num_local_experts=5,
        num_experts_per_tok=2,
        **_YARN,
    ),
    _dense(
        "gpt_oss",
        "full_tight_clamp",
        head_dim=6,
        num_local_experts=3,
        num_experts_per_tok=1,
        swiglu_limit=0.6,
        layer_types=["full_attention"] * 2,
        **_YARN,
    ),
    _dense(
        "gpt_oss",
        "no_attention_bias_all_experts",
        head_dim=10,
        sliding_window=3,
        num_local_experts=4,
        num_experts_per_tok=4,
        attention_bias=False,
        swiglu_alpha=1.2,
        **_YARN,
    ),
)

LLAMA4 = (
    _dense(
        "llama4_text",
        "chunks_norms",
        head_dim=8,
        num_hidden_layers=4,
        attention_chunk_size=7,
        floor_scale=5,
        num_local_experts=5,
        num_experts_per_tok=2,
    ),
    _dense(
        "llama4_text",
        "interleaved_plain_heads",
        head_dim=6,
        intermediate_size_mlp=28,
        interleave_moe_layer_step=2,
        use_qk_norm=False,
        attention_chunk_size=16,
        attn_temperature_tuning=False,
        no_rope_layer_interval=2,
        num_local_experts=4,
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    _dense(
        "llama4_text",
        "full_first_llama3",
        head_dim=8,
        num_hidden_layers=3,
        no_rope_layers=[0, 1, 1],
        moe_layers=[1],
        intermediate_size_mlp=28,
        attention_chunk_size=40,
        attn_scale=0.7,
        floor_scale=3,
        num_local_experts=3,
        num_experts_per_tok=3,
        **LLAMA3_ROPE,
    ),
)

GRANITEMOE = (
    _dense(
        "granitemoe",
        "multipliers",
        num_local_experts=5,
        num_experts_per_tok=2,
        embedding_multiplier=3.5,
        residual_multiplier=0.22,
        attention_multiplier=0.3,
        logits_scaling=0.7,
    ),
    _dense(
        "granitemoe",
        "biases_tied",
        num_local_experts=3,
        num_experts_per_tok=1,
        attention_bias=True,
        tie_word_embeddings=True,
        logits_scaling=3.0,
    ),
    _dense(
        "granitemoe",
        "all_experts_llama3",
        num_local_experts=4,
        num_experts_per_tok=4,
        num_key_value_heads=4,
        **LLAMA3_ROPE,
    ),
)

_EXPERTS = {
    "moe_intermediate_size": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}

_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 14,
    "q_lora_rank": 10,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
}

_DEEPSEEK_YARN = _rope(
    "yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=0.9
)

DEEPSEEK_V3 = (
    _dense(
        "deepseek_v3", "groups", num_hidden_layers=3, **_LATENT, **_EXPERTS | {"n_group": 4, "topk_group": 2}
    ),
    _dense(
        "deepseek_v3",
        "plain_queries_yarn_biases",
        rope_interleave=False,
        attention_bias=True,
        norm_topk_prob=False,
        routed_scaling_factor=1.0,
        rms_norm_eps=1e-3,
        **_DEEPSEEK_YARN,
        **_LATENT | {"q_lora_rank": None},
        **_EXPERTS | {"first_k_dense_replace": 0, "n_shared_experts": 2},
    ),
    _dense(
        "deepseek_v3",
        "one_expert_tied",
        tie_word_embeddings=True,
        num_attention_heads=2,
        **_LATENT | {"num_key_value_heads": 2, "kv_lora_rank": 5, "v_head_dim": 9},
        **_EXPERTS | {"num_experts_per_tok": 1, "n_routed_experts": 5},
    ),
)

DEEPSEEK_V2 = (
    _dense("deepseek_v2", "plain_queries", **_LATENT | {"q_lora_rank": None}, **_EXPERTS),
    _dense(
        "deepseek_v2",
        "groups_yarn_biases",
        topk_method="group_limited_greedy",
        routed_scaling_factor=3.0,
        attention_bias=True,
        mlp_bias=True,
        **_DEEPSEEK_YARN,
        **_LATENT,
        **_EXPERTS | {"n_group": 4, "topk_group": 2, "n_shared_experts": 2},
    ),
    _dense(
        "deepseek_v2",
        "all_mixtures_tied",
        tie_word_embeddings=True,
        hidden_act="gelu",
        **_LATENT | {"kv_lora_rank": 4, "v_head_dim": 8},
        **_EXPERTS | {"first_k_dense_replace": 0, "num_experts_per_tok": 1},
    ),
)

GLM4_MOE = (
    _dense("glm4_moe", "head_norms", use_qk_norm=True, head_dim=8, **_EXPERTS),
    _dense(
        "glm4_moe",
        "biases_groups",
        attention_bias=True,
        head_dim=12,
        num_key_value_heads=1,
        routed_scaling_factor=2.5,
        **_EXPERTS | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 0},
    ),
    _dense(
        "glm4_moe",
        "more_dense_tied",
        num_hidden_layers=3,
        tie_word_embeddings=True,
        head_dim=8,
        norm_topk_prob=False,
        **_EXPERTS | {"first_k_dense_replace": 2, "n_shared_experts": 3},
    ),
)

_LITE = {key: value for key, value in _EXPERTS.items() if key != "first_k_dense_replace"}

GLM4_MOE_LITE = (
    _dense(
        "glm4_moe_lite", "groups", num_hidden_layers=3, **_LATENT, **_LITE | {"n_group": 4, "topk_group": 2}
    ),
    _dense(
        "glm4_moe_lite",
        "dense_last_biases",
        attention_bias=True,
        mlp_layer_types=["sparse", "dense"],
        **_LATENT | {"q_lora_rank": None},
        **_LITE | {"n_shared_experts": 2},
    ),
    _dense(
        "glm4_moe_lite",
        "half_split_tied",
        rope_interleave=False,
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
        mlp_layer_types=["sparse", "sparse"],
        **_LATENT | {"kv_lora_rank": 5, "v_head_dim": 9},
        **_LITE | {"num_experts_per_tok": 1, "norm_topk_prob": False},
    ),
)

MIXTURES = (
    *MIXTRAL,
    *QWEN2_MOE,
    *QWEN3_MOE,
    *OLMOE,
    *GPT_OSS,
    *LLAMA4,
    *GRANITEMOE,
    *DEEPSEEK_V2,
    *DEEPSEEK_V3,
    *GLM4_MOE,
    *GLM4_MOE_LITE,
)
