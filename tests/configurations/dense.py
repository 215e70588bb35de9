"""Dense Transformers."""

from dataclasses import replace
from typing import Any

from configurations.case import VOCAB, Case, StandIn, dense_case, rope_keys

FULL, SLIDING = "full_attention", "sliding_attention"

LLAMA3_ROPE = rope_keys(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)


def _equal_heads(family: str, name: str, **changes: Any) -> Case:
    """A family whose queries, keys and values have as many heads."""
    case = dense_case(family, name, **changes)
    return replace(case, config={k: v for k, v in case.config.items() if k != "num_key_value_heads"})


def _gpt2(name: str, **changes: Any) -> Case:
    sizes = {"n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 100}
    config = {"vocab_size": VOCAB, "pad_token_id": 0, **sizes, **changes}
    return Case(name=f"gpt2-{name}", family="gpt2", config=config)


def _ropes(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {FULL: full, SLIDING: sliding}}


LLAMA = (
    dense_case("llama", "ratio_1_biases", num_key_value_heads=4, attention_bias=True, mlp_bias=True),
    dense_case("llama", "ratio_3_tied", num_attention_heads=6, head_dim=8, tie_word_embeddings=True),
    dense_case(
        "llama",
        "ratio_8_gelu",
        hidden_size=32,
        num_attention_heads=8,
        num_key_value_heads=1,
        hidden_act="gelu",
    ),
    dense_case("llama", "linear", num_hidden_layers=1, **rope_keys("linear", factor=2.5)),
    # 40 tokens are the trained length: prompts fit it, their continuations and the longer forward do not.
    dense_case(
        "llama",
        "dynamic",
        forward_length=48,
        max_position_embeddings=40,
        num_hidden_layers=1,
        **rope_keys("dynamic", factor=3.0),
    ),
    dense_case("llama", "llama3", num_hidden_layers=1, **LLAMA3_ROPE),
    dense_case(
        "llama",
        "yarn",
        num_hidden_layers=1,
        **rope_keys("yarn", factor=4.0, original_max_position_embeddings=32),
    ),
    dense_case(
        "llama",
        "longrope",
        forward_length=48,
        num_hidden_layers=1,
        **rope_keys(
            "longrope",
            short_factor=[1.0, 1.25, 1.5],
            long_factor=[2.0, 5.5, 31.0],
            original_max_position_embeddings=40,
        ),
    ),
)

MISTRAL = (
    dense_case("mistral", "no_window", sliding_window=None, num_key_value_heads=1),
    dense_case("mistral", "short_window", sliding_window=7, head_dim=10, rms_norm_eps=1e-3),
    dense_case("mistral", "window_between", sliding_window=20, head_dim=4, tie_word_embeddings=True),
    dense_case("mistral", "long_window", sliding_window=1000, num_hidden_layers=1),
)

_SCALED = {"original_max_position_embeddings": 9, "llama_4_scaling_beta": 0.4}

MINISTRAL3 = (
    dense_case("ministral3", "yarn", head_dim=8, **rope_keys("yarn", factor=4.0, mscale=1.0, **_SCALED)),
    dense_case(
        "ministral3",
        "window_tied",
        head_dim=10,
        sliding_window=7,
        tie_word_embeddings=True,
        **rope_keys("yarn", factor=2.0, mscale=1.0, mscale_all_dim=1.0, beta_fast=4.0, **_SCALED),
    ),
    dense_case("ministral3", "unscaled_positions", head_dim=6, **rope_keys("default", **_SCALED)),
)

QWEN2 = (
    dense_case("qwen2", "biases", num_key_value_heads=1),
    dense_case(
        "qwen2",
        "upper_windows",
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=2,
    ),
    dense_case(
        "qwen2",
        "layer_types_tied",
        use_sliding_window=True,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    ),
)

QWEN3 = (
    dense_case("qwen3", "norms", head_dim=10),
    dense_case("qwen3", "tied_biases", head_dim=4, attention_bias=True, tie_word_embeddings=True),
    dense_case(
        "qwen3",
        "windows_yarn",
        head_dim=8,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        **rope_keys("yarn", factor=2.0, original_max_position_embeddings=64, beta_fast=4.0),
    ),
)

GEMMA = (
    dense_case("gemma", "wide_heads", head_dim=10, num_key_value_heads=1),
    dense_case("gemma", "untied_biases", head_dim=6, tie_word_embeddings=False, attention_bias=True),
    dense_case("gemma", "equal_heads_silu", head_dim=6, num_key_value_heads=4, hidden_act="silu"),
)

GEMMA2 = (
    dense_case("gemma2", "short_window", head_dim=10, sliding_window=7, query_pre_attn_scalar=24),
    dense_case(
        "gemma2",
        "no_caps_untied_biases",
        head_dim=6,
        num_key_value_heads=1,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
        attention_bias=True,
    ),
    dense_case(
        "gemma2",
        "full_first_small_caps",
        head_dim=8,
        num_key_value_heads=4,
        sliding_window=20,
        layer_types=[FULL, SLIDING],
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        hidden_activation="silu",
        **rope_keys("linear", factor=2.5),
    ),
)

GEMMA3_TEXT = (
    dense_case("gemma3_text", "sliding_only", head_dim=10, sliding_window=7, query_pre_attn_scalar=24),
    dense_case(
        "gemma3_text",
        "two_bases_untied_capped",
        head_dim=6,
        num_key_value_heads=1,
        sliding_window=20,
        layer_types=[SLIDING, FULL],
        final_logit_softcapping=3.0,
        tie_word_embeddings=False,
        rms_norm_eps=1e-3,
        attention_bias=True,
    ),
    dense_case(
        "gemma3_text",
        "full_scaled",
        head_dim=8,
        num_key_value_heads=4,
        sliding_window=5,
        layer_types=[FULL, SLIDING],
        **_ropes(
            {"rope_type": "linear", "factor": 8.0, "rope_theta": 300.0},
            {"rope_type": "default", "rope_theta": 20.0},
        ),
    ),
)

OLMO = (
    dense_case("olmo", "plain"),
    dense_case("olmo", "clipped_biases_tied", clip_qkv=0.6, attention_bias=True, tie_word_embeddings=True),
    dense_case("olmo", "one_kv_head_llama3", num_key_value_heads=1, clip_qkv=0.9, **LLAMA3_ROPE),
)

OLMO2 = (
    dense_case("olmo2", "ratio_2", rms_norm_eps=1e-3),
    dense_case("olmo2", "tied_biases", num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True),
    dense_case("olmo2", "wide_heads_llama3", head_dim=10, num_key_value_heads=4, **LLAMA3_ROPE),
)

OLMO3 = (
    dense_case("olmo3", "windows", num_hidden_layers=4, sliding_window=7),
    dense_case("olmo3", "tied_biases", num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True),
    dense_case(
        "olmo3",
        "full_scaled",
        num_key_value_heads=4,
        sliding_window=20,
        layer_types=[FULL, SLIDING],
        **_ropes(
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 500.0},
            {"rope_type": "default", "rope_theta": 500.0},
        ),
    ),
)

SMOLLM3 = (
    dense_case("smollm3", "interval_2_biases", no_rope_layer_interval=2, attention_bias=True, mlp_bias=True),
    dense_case(
        "smollm3",
        "windows_without_positions_untied",
        num_key_value_heads=1,
        no_rope_layers=[0, 1],
        use_sliding_window=True,
        sliding_window=6,
        tie_word_embeddings=False,
    ),
    dense_case(
        "smollm3",
        "windows_with_positions_yarn",
        num_key_value_heads=4,
        no_rope_layers=[1, 0],
        use_sliding_window=True,
        sliding_window=20,
        layer_types=[SLIDING, FULL],
        **rope_keys("yarn", factor=4.0, original_max_position_embeddings=32),
    ),
)

COHERE2 = (
    dense_case("cohere2", "full_last", layer_types=[SLIDING, FULL], sliding_window=7, logit_scale=0.25),
    dense_case("cohere2", "sliding_only_untied", num_key_value_heads=4, tie_word_embeddings=False),
    dense_case(
        "cohere2",
        "full_first_biases_linear",
        hidden_size=32,
        num_key_value_heads=1,
        layer_types=[FULL, SLIDING],
        sliding_window=20,
        layer_norm_eps=1e-3,
        attention_bias=True,
        hidden_act="gelu",
        **rope_keys("linear", factor=2.5),
    ),
)

GRANITE = (
    dense_case(
        "granite",
        "multipliers",
        embedding_multiplier=3.5,
        residual_multiplier=0.22,
        attention_multiplier=0.3,
        logits_scaling=0.7,
    ),
    dense_case(
        "granite",
        "biases_tied",
        num_key_value_heads=1,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        logits_scaling=3.0,
    ),
    dense_case("granite", "llama3", num_key_value_heads=4, residual_multiplier=0.5, **LLAMA3_ROPE),
)

# 40 tokens are the original length: continuations cross it at different steps, at once, or start beyond it.
_PHI3_LONGROPE = {
    "max_position_embeddings": 160,
    "original_max_position_embeddings": 40,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0, 1.25, 1.5],
        "long_factor": [2.0, 5.5, 31.0],
        "partial_rotary_factor": 0.75,
    },
}

PHI3 = (
    dense_case("phi3", "ratio_2_window", sliding_window=7, rms_norm_eps=1e-3),
    dense_case("phi3", "ratio_4_tied", num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu"),
    dense_case(
        "phi3",
        "longrope_partial",
        prompt_lengths=(8, 33, 39, 40, 41, 70),
        forward_length=48,
        hidden_size=32,
        **_PHI3_LONGROPE,
    ),
)

_HALF, _WHOLE = (rope_keys("default", partial_rotary_factor=factor) for factor in (0.5, 1.0))

GPT_NEOX = (
    _equal_heads("gpt_neox", "parallel_quarter", hidden_size=32),
    _equal_heads(
        "gpt_neox", "sequential_tied_whole", use_parallel_residual=False, tie_word_embeddings=True, **_WHOLE
    ),
    _equal_heads("gpt_neox", "no_attention_biases_half", hidden_size=48, attention_bias=False, **_HALF),
)

GPT2 = (
    _gpt2("odd_heads", n_embd=21, n_head=3),
    _gpt2("untied_scaled", tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, n_inner=40),
    _gpt2("unscaled_relu", scale_attn_weights=False, activation_function="relu", layer_norm_epsilon=1e-3),
)


def _mimo(name: str, **changes: Any) -> Case:
    """Qwen2's layers, not in transformers under this name; it finds the size of heads out itself."""
    theirs = dense_case("qwen2", name, **changes)
    heads = {"head_dim": theirs.config["hidden_size"] // theirs.config["num_attention_heads"]}
    return replace(
        theirs,
        name=f"mimo-{name}",
        family="mimo",
        config={**theirs.config, "model_type": "mimo", "attention_bias": True, **heads},
        stand_in=StandIn(family="qwen2", config=theirs.config, rename=dict),
    )


MIMO = (
    _mimo("grouped_heads", num_attention_heads=6, rms_norm_eps=1e-5),
    _mimo("equal_heads_tied", num_key_value_heads=4, tie_word_embeddings=True),
    _mimo("one_head_deep", num_key_value_heads=1, num_hidden_layers=3, hidden_act="gelu"),
)

DENSE = (
    *LLAMA,
    *MISTRAL,
    *MINISTRAL3,
    *QWEN2,
    *QWEN3,
    *GEMMA,
    *GEMMA2,
    *GEMMA3_TEXT,
    *OLMO,
    *OLMO2,
    *OLMO3,
    *SMOLLM3,
    *COHERE2,
    *GRANITE,
    *PHI3,
    *GPT_NEOX,
    *GPT2,
    *MIMO,
)
