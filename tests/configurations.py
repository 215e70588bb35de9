"""Awkward Hugging Face configurations, one table for all tests: sizes that divide badly, every option once.

Each case is built by transformers with random weights; see the `reference` fixture.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model: `config` holds the arguments of transformers' configuration class of `family`.

    prompt_lengths: of the prompts that are continued. forward_length: of the sequences whose logits are
    compared. cached_reference: whether transformers' cached decoding computes what its full forward does.
    rewritten: config keys that are written back with other values that mean the same.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    prompt_lengths: tuple[int, ...] = (5, 17, 33)
    forward_length: int = 33
    cached_reference: bool = True
    rewritten: tuple[str, ...] = ()
    seed: int = 0

    def __hash__(self) -> int:
        return hash(self.name)


def hf_dict(case: Case) -> dict[str, Any]:
    """The configuration as it is found in a checkpoint."""
    from transformers import AutoConfig

    return json.loads(AutoConfig.for_model(case.family, **case.config).to_json_string())


VOCAB = 61


def _mamba2(name: str, cached_reference: bool = True, **changes: Any) -> Case:
    sizes = {"hidden_size": 24, "expand": 2, "num_heads": 8, "head_dim": 6, "state_size": 10, "n_groups": 1}
    config = {"vocab_size": VOCAB, "num_hidden_layers": 2, "chunk_size": 16, **sizes, **changes}
    # Prompts around one and two chunks of 16 tokens.
    return Case(
        name=f"mamba2-{name}",
        family="mamba2",
        config=config,
        prompt_lengths=(15, 16, 17, 31, 33),
        cached_reference=cached_reference,
    )


def _mamba(family: str, name: str, seed: int = 0, **changes: Any) -> Case:
    config = {"vocab_size": VOCAB, "hidden_size": 24, "state_size": 5, "num_hidden_layers": 2, **changes}
    # Several chunks of the scan and a part of one.
    lengths: dict[str, Any] = {"prompt_lengths": (1, 5, 17, 67), "forward_length": 67}
    return Case(name=f"{family}-{name}", family=family, config=config, seed=seed, **lengths)


def _griffin(name: str, seed: int = 0, **changes: Any) -> Case:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
    config = {"vocab_size": VOCAB, "num_hidden_layers": 3, **sizes, **changes}
    return Case(name=f"recurrent_gemma-{name}", family="recurrent_gemma", config=config, seed=seed)


def _dense(family: str, name: str, forward_length: int = 33, seed: int = 0, **changes: Any) -> Case:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    limits = {"max_position_embeddings": 128, "num_hidden_layers": 2}
    # The default padding ids of some families are beyond this vocabulary.
    config = {"vocab_size": VOCAB, "pad_token_id": 0, **sizes, **limits, **changes}
    name = f"{family}-{name}"
    return Case(name=name, family=family, config=config, forward_length=forward_length, seed=seed)


def _equal_heads(family: str, name: str, **changes: Any) -> Case:
    """A family whose queries, keys and values have as many heads."""
    case = _dense(family, name, **changes)
    return replace(case, config={k: v for k, v in case.config.items() if k != "num_key_value_heads"})


def _gpt2(name: str, seed: int = 0, **changes: Any) -> Case:
    sizes = {"n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 100}
    config = {"vocab_size": VOCAB, "pad_token_id": 0, **sizes, **changes}
    return Case(name=f"gpt2-{name}", family="gpt2", config=config, seed=seed)


def _rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 500.0, **parameters}}


_LLAMA3 = _rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)

MAMBA2 = (
    _mamba2("groups_1"),
    _mamba2("groups_2_biases_tied", n_groups=2, use_bias=True, tie_word_embeddings=True),
    _mamba2("groups_8_no_conv_bias", n_groups=8, use_conv_bias=False, conv_kernel=3, chunk_size=8),
    # transformers' one-token step leaves out time_step_limit, which its full forward applies.
    _mamba2("limits", cached_reference=False, time_step_limit=(0.2, 0.8), n_groups=2, expand=4, num_heads=16),
    _mamba2("no_fp32_residual", residual_in_fp32=False, layer_norm_epsilon=1e-3, chunk_size=256),
)

LLAMA = (
    _dense("llama", "ratio_1_biases", num_key_value_heads=4, attention_bias=True, mlp_bias=True),
    _dense("llama", "ratio_3_tied", num_attention_heads=6, head_dim=8, tie_word_embeddings=True),
    _dense(
        "llama",
        "ratio_8_gelu",
        hidden_size=32,
        num_attention_heads=8,
        num_key_value_heads=1,
        hidden_act="gelu",
    ),
    _dense("llama", "linear", num_hidden_layers=1, **_rope("linear", factor=2.5)),
    # 40 tokens are the trained length: prompts fit it, their continuations and the longer forward do not.
    _dense(
        "llama",
        "dynamic",
        seed=2,
        forward_length=48,
        max_position_embeddings=40,
        num_hidden_layers=1,
        **_rope("dynamic", factor=3.0),
    ),
    _dense("llama", "llama3", num_hidden_layers=1, **_LLAMA3),
    _dense(
        "llama", "yarn", num_hidden_layers=1, **_rope("yarn", factor=4.0, original_max_position_embeddings=32)
    ),
    _dense(
        "llama",
        "longrope",
        forward_length=48,
        num_hidden_layers=1,
        **_rope(
            "longrope",
            short_factor=[1.0, 1.25, 1.5],
            long_factor=[2.0, 5.5, 31.0],
            original_max_position_embeddings=40,
        ),
    ),
)

MISTRAL = (
    _dense("mistral", "no_window", sliding_window=None, num_key_value_heads=1),
    _dense("mistral", "short_window", sliding_window=7, head_dim=10, rms_norm_eps=1e-3),
    _dense("mistral", "window_between", sliding_window=20, head_dim=4, tie_word_embeddings=True),
    _dense("mistral", "long_window", sliding_window=1000, num_hidden_layers=1),
)

QWEN2 = (
    _dense("qwen2", "biases", num_key_value_heads=1),
    _dense(
        "qwen2",
        "upper_windows",
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=2,
    ),
    _dense(
        "qwen2",
        "layer_types_tied",
        use_sliding_window=True,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    ),
)

QWEN3 = (
    _dense("qwen3", "norms", head_dim=10),
    _dense("qwen3", "tied_biases", head_dim=4, attention_bias=True, tie_word_embeddings=True),
    _dense(
        "qwen3",
        "windows_yarn",
        head_dim=8,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        **_rope("yarn", factor=2.0, original_max_position_embeddings=64, beta_fast=4.0),
    ),
)

FULL, SLIDING = "full_attention", "sliding_attention"


def _ropes(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {FULL: full, SLIDING: sliding}}


GEMMA2 = (
    _dense("gemma2", "short_window", head_dim=10, sliding_window=7, query_pre_attn_scalar=24),
    _dense(
        "gemma2",
        "no_caps_untied_biases",
        head_dim=6,
        num_key_value_heads=1,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
        attention_bias=True,
    ),
    _dense(
        "gemma2",
        "full_first_small_caps",
        head_dim=8,
        num_key_value_heads=4,
        sliding_window=20,
        layer_types=[FULL, SLIDING],
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        hidden_activation="silu",
        **_rope("linear", factor=2.5),
    ),
)

GEMMA3_TEXT = (
    _dense("gemma3_text", "sliding_only", head_dim=10, sliding_window=7, query_pre_attn_scalar=24),
    _dense(
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
    _dense(
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

OLMO2 = (
    _dense("olmo2", "ratio_2", rms_norm_eps=1e-3),
    _dense("olmo2", "tied_biases", num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True),
    _dense("olmo2", "wide_heads_llama3", head_dim=10, num_key_value_heads=4, **_LLAMA3),
)

OLMO3 = (
    _dense("olmo3", "windows", num_hidden_layers=4, sliding_window=7),
    _dense("olmo3", "tied_biases", num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True),
    _dense(
        "olmo3",
        "full_scaled",
        seed=1,
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
    _dense("smollm3", "interval_2_biases", no_rope_layer_interval=2, attention_bias=True, mlp_bias=True),
    _dense(
        "smollm3",
        "windows_without_positions_untied",
        num_key_value_heads=1,
        no_rope_layers=[0, 1],
        use_sliding_window=True,
        sliding_window=6,
        tie_word_embeddings=False,
    ),
    _dense(
        "smollm3",
        "windows_with_positions_yarn",
        num_key_value_heads=4,
        no_rope_layers=[1, 0],
        use_sliding_window=True,
        sliding_window=20,
        layer_types=[SLIDING, FULL],
        **_rope("yarn", factor=4.0, original_max_position_embeddings=32),
    ),
)

COHERE2 = (
    _dense("cohere2", "full_last", layer_types=[SLIDING, FULL], sliding_window=7, logit_scale=0.25),
    _dense("cohere2", "sliding_only_untied", num_key_value_heads=4, tie_word_embeddings=False),
    _dense(
        "cohere2",
        "full_first_biases_linear",
        hidden_size=32,
        num_key_value_heads=1,
        layer_types=[FULL, SLIDING],
        sliding_window=20,
        layer_norm_eps=1e-3,
        attention_bias=True,
        hidden_act="gelu",
        **_rope("linear", factor=2.5),
    ),
)

GRANITE = (
    _dense(
        "granite",
        "multipliers",
        embedding_multiplier=3.5,
        residual_multiplier=0.22,
        attention_multiplier=0.3,
        logits_scaling=0.7,
    ),
    _dense(
        "granite",
        "biases_tied",
        num_key_value_heads=1,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        logits_scaling=3.0,
    ),
    _dense("granite", "llama3", num_key_value_heads=4, residual_multiplier=0.5, **_LLAMA3),
)

MAMBA = (
    # The weights of seed 0 amplify rounding: transformers in float32 and in float64 differ by 1e-4.
    _mamba("mamba", "automatic_rank", seed=1),
    _mamba("mamba", "biases_untied", use_bias=True, tie_word_embeddings=False, conv_kernel=3, expand=3),
    _mamba(
        "mamba",
        "odd_width_no_conv_bias",
        intermediate_size=35,
        time_step_rank=5,
        use_conv_bias=False,
        residual_in_fp32=False,
        layer_norm_epsilon=1e-3,
    ),
)

FALCON_MAMBA = (
    _mamba("falcon_mamba", "untied", tie_word_embeddings=False, time_step_rank=3),
    _mamba("falcon_mamba", "biases", use_bias=True, mixer_rms_eps=1e-2, conv_kernel=2),
    _mamba("falcon_mamba", "width_beside_expand", expand=16, intermediate_size=48, residual_in_fp32=False),
)

RECURRENT_GEMMA = (
    _griffin("default_pattern", num_key_value_heads=1, attention_window_size=7),
    _griffin(
        "wide_whole_heads_untied",
        block_types=["attention", "recurrent"],
        lru_width=30,
        conv1d_width=2,
        attention_bias=True,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    ),
    _griffin(
        "two_heads_silu",
        num_attention_heads=2,
        num_hidden_layers=4,
        attention_window_size=12,
        hidden_activation="silu",
        logits_soft_cap=5.0,
        rms_norm_eps=1e-3,
    ),
)

LFM2 = (
    _dense("lfm2", "one_attention", num_hidden_layers=3, full_attn_idxs=[1], block_auto_adjust_ff_dim=False),
    dataclasses.replace(
        _dense(
            "lfm2",
            "biases_untied_adjusted",
            layer_types=["conv", "full_attention"],
            num_attention_heads=6,
            num_key_value_heads=3,
            conv_bias=True,
            conv_L_cache=4,
            block_ffn_dim_multiplier=1.3,
            block_multiple_of=8,
            norm_eps=1e-3,
            tie_word_embeddings=False,
        ),
        rewritten=("intermediate_size", "block_auto_adjust_ff_dim"),
    ),
    _dense(
        "lfm2",
        "attention_first_linear",
        layer_types=["full_attention", "conv"],
        num_key_value_heads=4,
        conv_L_cache=2,
        block_auto_adjust_ff_dim=False,
        **_rope("linear", factor=2.5),
    ),
)

# 100 tokens are the trained length: no continuation is longer, since transformers would recompute its cache.
_PHI3_LONGROPE = {
    "max_position_embeddings": 160,
    "original_max_position_embeddings": 100,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0, 1.25, 1.5],
        "long_factor": [2.0, 5.5, 31.0],
        "partial_rotary_factor": 0.75,
    },
}

PHI3 = (
    _dense("phi3", "ratio_2_window", sliding_window=7, rms_norm_eps=1e-3),
    _dense("phi3", "ratio_4_tied", num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu"),
    _dense("phi3", "longrope_partial", forward_length=108, hidden_size=32, **_PHI3_LONGROPE),
)

_HALF, _WHOLE = (_rope("default", partial_rotary_factor=factor) for factor in (0.5, 1.0))

GPT_NEOX = (
    _equal_heads("gpt_neox", "parallel_quarter", hidden_size=32),
    _equal_heads(
        "gpt_neox", "sequential_tied_whole", use_parallel_residual=False, tie_word_embeddings=True, **_WHOLE
    ),
    _equal_heads("gpt_neox", "no_attention_biases_half", hidden_size=48, attention_bias=False, **_HALF),
)

GPT2 = (
    _gpt2("odd_heads", n_embd=21, n_head=3),
    _gpt2(
        "untied_scaled", seed=1, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, n_inner=40
    ),
    _gpt2("unscaled_relu", scale_attn_weights=False, activation_function="relu", layer_norm_epsilon=1e-3),
)

# Experts are few and small, so that some go unused and others take many tokens.
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
        **_LLAMA3,
    ),
)

OLMOE = (
    _dense("olmoe", "plain_weights", num_experts=6, num_experts_per_tok=2),
    _dense(
        "olmoe",
        "renormalised_biases",
        num_experts=5,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        attention_bias=True,
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
        seed=1,
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
        **_LLAMA3,
    ),
)

CASES = (
    *MAMBA2,
    *LLAMA,
    *MISTRAL,
    *QWEN2,
    *QWEN3,
    *GEMMA2,
    *GEMMA3_TEXT,
    *OLMO2,
    *OLMO3,
    *SMOLLM3,
    *COHERE2,
    *GRANITE,
    *MAMBA,
    *FALCON_MAMBA,
    *RECURRENT_GEMMA,
    *LFM2,
    *PHI3,
    *GPT_NEOX,
    *GPT2,
    *MIXTRAL,
    *QWEN2_MOE,
    *QWEN3_MOE,
    *OLMOE,
    *GPT_OSS,
    *GRANITEMOE,
)
