"""One small ``config.json`` per family, in sizes that fill TPU tiles."""

from collections.abc import Iterable
from typing import Any

import pytest

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")

_DENSE = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "rope_theta": 1e4,
}

_SLIDING = {**_DENSE, "sliding_window": 64}
_MAMBA = {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 1, "state_size": 16}

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LINEAR_HYBRID = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 4,
}
_SSD = {"mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
}
_LATENT = {
    **{key: value for key, value in _DENSE.items() if key != "head_dim"},
    **_ROUTED,
    "num_key_value_heads": 4,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}

CONFIGS = {
    "bamba": {
        "model_type": "bamba",
        **_DENSE,
        **_SSD,
        "num_hidden_layers": 2,
        "attn_layer_indices": [1],
    },
    "bert": {
        "model_type": "bert",
        "vocab_size": 256,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    },
    "maskgit": {
        "model_type": "maskgit",
        "vocab_size": 256,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    },
    "deepseek_v2": {"model_type": "deepseek_v2", **_LATENT},
    "deepseek_v3": {"model_type": "deepseek_v3", **_LATENT, "n_group": 1, "topk_group": 1},
    "kimi_k2": {"model_type": "kimi_k2", **_LATENT, "n_group": 1, "topk_group": 1},
    "llama4_text": {
        "model_type": "llama4_text",
        **_DENSE,
        **_LOCAL_EXPERTS,
        "num_hidden_layers": 2,
        "no_rope_layer_interval": 2,
        "attention_chunk_size": 64,
    },
    "olmo": {"model_type": "olmo", **_DENSE},
    "ministral3": {
        "model_type": "ministral3",
        **_DENSE,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "falcon_h1": {"model_type": "falcon_h1", **_DENSE, **_SSD, "mamba_d_ssm": 256},
    "glm4_moe": {"model_type": "glm4_moe", **_DENSE, **_ROUTED},
    "granitemoehybrid": {
        "model_type": "granitemoehybrid",
        **_DENSE,
        **_SSD,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "num_local_experts": 4,
        "shared_intermediate_size": 128,
    },
    "jamba": {
        "model_type": "jamba",
        **{key: value for key, value in _DENSE.items() if key != "rope_theta"},
        "num_hidden_layers": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 4,
    },
    "nemotron_h": {
        "model_type": "nemotron_h",
        **{key: value for key, value in _DENSE.items() if key not in ("num_hidden_layers", "rope_theta")},
        "layers_block_type": ["linear_attention", "full_attention", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 1,
    },
    "cohere2": {"model_type": "cohere2", **_SLIDING},
    "gemma": {"model_type": "gemma", **_DENSE},
    "gemma2": {"model_type": "gemma2", **_SLIDING, "query_pre_attn_scalar": 128},
    "gemma3_text": {
        "model_type": "gemma3_text",
        **_DENSE,
        "sliding_window": 64,
        "query_pre_attn_scalar": 128,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 256,
        "n_embd": 256,
        "n_head": 2,
        "n_layer": 1,
        "n_positions": 1024,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "vocab_size": 256,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "gpt_oss": {"model_type": "gpt_oss", **_SLIDING, **_LOCAL_EXPERTS},
    "granitemoe": {"model_type": "granitemoe", **_DENSE, **_LOCAL_EXPERTS},
    "MoE++": {"model_type": "MoE++", **_DENSE, "num_experts": [8], "head_dim": 32},
    "minicpm": {
        "model_type": "minicpm",
        **_DENSE,
        "head_dim": 32,
        "ffn_type": "block_linear",
        "num_experts": 4,
        "expert_size": 128,
        "norm_after_router": "rms",
    },
    "mixtral": {"model_type": "mixtral", **_DENSE, **_LOCAL_EXPERTS},
    "olmoe": {"model_type": "olmoe", **_DENSE, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 32},
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        **_DENSE,
        **_EXPERTS,
        "shared_expert_intermediate_size": 128,
    },
    "qwen3_moe": {"model_type": "qwen3_moe", **_DENSE, **_EXPERTS},
    "granite": {"model_type": "granite", **_DENSE, "attention_multiplier": 0.1, "logits_scaling": 8.0},
    "falcon_mamba": {"model_type": "falcon_mamba", **_MAMBA},
    "kimi_linear": {
        "model_type": "kimi_linear",
        **_LINEAR_HYBRID,
        "kv_lora_rank": 128,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
        "linear_attn_config": {
            "full_attn_layers": [2],
            "kda_layers": [1],
            "num_heads": 2,
            "head_dim": 64,
            "short_conv_kernel_size": 4,
        },
        "num_experts_per_token": 2,
        "moe_intermediate_size": 128,
    },
    "lfm2": {
        "model_type": "lfm2",
        **_DENSE,
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "llama": {"model_type": "llama", **_DENSE},
    "mamba": {"model_type": "mamba", **_MAMBA},
    "mamba2": {
        "model_type": "mamba2",
        "vocab_size": 256,
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "num_heads": 4,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 1,
        "chunk_size": 128,
    },
    "mamba2-original": {
        "vocab_size": 256,
        "d_model": 128,
        "n_layer": 1,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 128, "ngroups": 2, "chunk_size": 128},
    },
    "modernbert": {
        "model_type": "modernbert",
        "vocab_size": 256,
        "mask_token_id": 5,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "local_attention": 64,
    },
    "minimax": {"model_type": "minimax", **_LINEAR_HYBRID, "num_experts_per_tok": 2, "head_dim": 64},
    "mistral": {"model_type": "mistral", **_SLIDING},
    "olmo2": {"model_type": "olmo2", **_DENSE},
    "olmo3": {"model_type": "olmo3", **_SLIDING},
    "phi3": {"model_type": "phi3", **_DENSE},
    "qwen2": {"model_type": "qwen2", **_DENSE},
    "qwen3": {"model_type": "qwen3", **_DENSE},
    "qwen3_next": {
        "model_type": "qwen3_next",
        **_LINEAR_HYBRID,
        "head_dim": 128,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_value_head_dim": 64,
        "linear_key_head_dim": 64,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
    },
    "recurrent_gemma": {
        "model_type": "recurrent_gemma",
        **_DENSE,
        "num_hidden_layers": 2,
        "block_types": ["recurrent", "attention"],
        "lru_width": 256,
        "attention_window_size": 64,
    },
    "smollm3": {"model_type": "smollm3", **_DENSE, "no_rope_layers": [0]},
    "zamba2": {
        "model_type": "zamba2",
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "layers_block_type": ["linear_attention", "hybrid"],
        "num_attention_heads": 2,
        "n_mamba_heads": 4,
        "mamba_d_state": 128,
        "mamba_ngroups": 1,
        "adapter_rank": 16,
    },
}

# Their programs are compiled in every run of the tests, those of the other families in the sweep.
ESSENTIAL = ("qwen3", "mamba2", "qwen3_moe")


def by_tier(families: Iterable[str]) -> list[Any]:
    """Families as parameters of a test, in their tiers."""
    return [pytest.param(f, marks=() if f in ESSENTIAL else pytest.mark.sweep) for f in families]
