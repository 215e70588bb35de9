"""The model shapes that the benchmarks run, as Hugging Face configurations. All weights are random."""

from collections.abc import Mapping
from typing import Any

# The shape of state-spaces/mamba2-130m.
MAMBA2_130M = {
    "model_type": "mamba2",
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "num_heads": 24,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 1,
    "expand": 2,
    "conv_kernel": 4,
    "chunk_size": 256,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}

QWEN3_100M = {
    "model_type": "qwen3",
    "hidden_size": 640,
    "intermediate_size": 1792,
    "num_hidden_layers": 14,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}

QWEN3_MOE_200M = {
    "model_type": "qwen3_moe",
    "hidden_size": 512,
    "intermediate_size": 320,
    "moe_intermediate_size": 320,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}

# State space layers with one of attention in six, a feed-forward in each.
BAMBA_130M = {
    "model_type": "bamba",
    "hidden_size": 640,
    "intermediate_size": 1280,
    "num_hidden_layers": 12,
    "attn_layer_indices": [5, 11],
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "mamba_n_heads": 20,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "max_position_embeddings": 32768,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}

# Gated delta layers with one of attention in four, a dense feed-forward in each.
QWEN3_NEXT_130M = {
    "model_type": "qwen3_next",
    "hidden_size": 640,
    "intermediate_size": 1280,
    "num_hidden_layers": 12,
    "full_attention_interval": 4,
    "mlp_only_layers": list(range(12)),
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "linear_num_key_heads": 5,
    "linear_num_value_heads": 10,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "moe_intermediate_size": 1280,  # no layer has experts; the family wants their sizes all the same
    "shared_expert_intermediate_size": 1280,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 32768,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}

# Heads and latent of DeepSeek-V2-Lite, without its experts.
DEEPSEEK_V2_120M = {
    "model_type": "deepseek_v2",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 10,
    "first_k_dense_replace": 10,  # no layer has experts; the family wants their sizes all the same
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "moe_intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 32768,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}

LLAMA_500M = {
    "model_type": "llama",
    "hidden_size": 1280,
    "intermediate_size": 3584,
    "num_hidden_layers": 21,
    "num_attention_heads": 20,
    "num_key_value_heads": 10,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}

SHAPES: Mapping[str, dict[str, Any]] = {
    "mamba2-130m": MAMBA2_130M,
    "qwen3-100m": QWEN3_100M,
    "qwen3-moe-200m": QWEN3_MOE_200M,
    "bamba-130m": BAMBA_130M,
    "qwen3-next-130m": QWEN3_NEXT_130M,
    "deepseek-v2-120m": DEEPSEEK_V2_120M,
    "llama-500m": LLAMA_500M,
}

# What benchmarks of accelerators run: published sizes.
ACCELERATOR: Mapping[str, dict[str, Any]] = {
    "mamba2-130m": MAMBA2_130M,
    "qwen3-0.6b": QWEN3_100M
    | {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    },
    "mamba2-2.7b": MAMBA2_130M | {"hidden_size": 2560, "num_hidden_layers": 64, "num_heads": 80},
    "qwen3-8b": QWEN3_100M
    | {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False,
    },
}  # fmt: skip

_TINY = {
    "mamba2": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "state_size": 32,
        "vocab_size": 999,
    },
    "qwen3": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 999,
    },
    "qwen3_moe": {
        "hidden_size": 64, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "vocab_size": 999,
    },
    "bamba": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "attn_layer_indices": [1],
        "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 8, "mamba_d_head": 16,
        "mamba_d_state": 32, "vocab_size": 999,
    },
    "qwen3_next": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "mlp_only_layers": [0, 1, 2, 3],
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "vocab_size": 999,
    },
    "deepseek_v2": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
        "v_head_dim": 16, "vocab_size": 999,
    },
    "llama": {
        "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 4000,
    },
}  # fmt: skip


def shape(name: str, *, tiny: bool, layers: int | None = None) -> dict[str, Any]:
    """A shape by name, with fewer layers if asked; `tiny` gives the family's toy for trying a script."""
    values = dict({**ACCELERATOR, **SHAPES}[name])
    if tiny:
        return values | _TINY[values["model_type"]]
    return values if layers is None else values | {"num_hidden_layers": layers}
