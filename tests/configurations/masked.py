"""Masked diffusion language models, whose code is not in transformers.

Models of transformers that compute the same stand in for them: each case has the ``config.json`` of a
checkpoint and, beside it, the arguments of transformers' configuration class.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from configurations.case import VOCAB, Case, Sees, StandIn, by_block, everywhere, rope_keys
from configurations.dense import LLAMA3_ROPE

Rename = Callable[[Mapping[str, Any]], dict[str, Any]]

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def renamed(*pairs: tuple[str, str]) -> Rename:
    """Replaces regular expressions in the names, one after the other."""

    def rename(tensors: Mapping[str, Any]) -> dict[str, Any]:
        names = {}
        for name in tensors:
            names[name] = name
            for pattern, instead in pairs:
                names[name] = re.sub(pattern, instead, names[name])
        return {names[name]: tensor for name, tensor in tensors.items()}

    return rename


def masked_case(
    family: str,
    name: str,
    config: Mapping[str, Any],
    stand_in: tuple[str, Mapping[str, Any]],
    rename: Rename = dict,
    sees: Sees = everywhere,
    rewritten: tuple[str, ...] = (),
) -> Case:
    """A case; `stand_in` is a family of transformers and what its configuration has beside `SIZES`."""
    theirs, changes = stand_in
    return Case(
        name=f"{family}-{name}",
        family=family,
        config=config,
        stand_in=StandIn(family=theirs, config={"pad_token_id": 0, **SIZES, **changes}, rename=rename),
        sees=sees,
        rewritten=rewritten,
    )


# --- LLaDA: Llama under OLMo's names -----------------------------------------------------------------

_LLADA = {
    "d_model": 24,
    "n_layers": 2,
    "n_heads": 4,
    "max_sequence_length": 128,
    "vocab_size": 57,
    "embedding_size": VOCAB,
    "mask_token_id": 56,
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "activation_type": "silu",
    "weight_tying": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
}
_LIKE_LLADA = {"rms_norm_eps": 1e-5, **rope_keys("default")}
_OLMO_NAMES = renamed(
    ("model.embed_tokens", "model.transformer.wte"),
    ("model.norm", "model.transformer.ln_f"),
    ("lm_head", "model.transformer.ff_out"),
    ("model.layers", "model.transformer.blocks"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ff_norm"),
    (r"self_attn\.o_proj", "attn_out"),
    (r"self_attn\.", ""),
    (r"mlp\.gate_proj", "ff_proj"),
    (r"mlp\.down_proj", "ff_out"),
    (r"mlp\.", ""),
)

LLADA = (
    masked_case(
        "llada",
        "equal_heads_padded_vocabulary",
        _LLADA | {"n_kv_heads": None, "mlp_hidden_size": 40, "include_qkv_bias": False},
        ("llama", _LIKE_LLADA | {"num_key_value_heads": 4}),
        _OLMO_NAMES,
        rewritten=("n_kv_heads", "vocab_size"),
    ),
    masked_case(
        "llada",
        "grouped_biases_tied",
        _LLADA | {"n_kv_heads": 2, "mlp_ratio": 2, "include_qkv_bias": True, "weight_tying": True},
        ("qwen2", _LIKE_LLADA | {"intermediate_size": 48, "tie_word_embeddings": True}),
        _OLMO_NAMES,
        rewritten=("vocab_size",),
    ),
    masked_case(
        "llada",
        "one_kv_head_gelu",
        _LLADA | {"n_kv_heads": 1, "mlp_hidden_size": 14, "activation_type": "gelu"},
        ("llama", _LIKE_LLADA | {"num_key_value_heads": 1, "intermediate_size": 14, "hidden_act": "gelu"}),
        _OLMO_NAMES,
        rewritten=("vocab_size",),
    ),
)

# --- LLaDA-MoE: Qwen3's mixtures under their own names -----------------------------------------------

_LLADA_MOE = {
    "model_type": "llada",
    **{key: value for key, value in SIZES.items() if key != "intermediate_size"},
    "mask_token_id": 60,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "qk_layernorm": True,
    "expert_intermediate_size": 10,
    "moe_layer_freq": [1, 1],
    "norm_topk_prob": None,
    "partial_rotary_factor": 1,
    "shared_expert_intermediate_size": None,
}
_LIKE_LLADA_MOE = {**_LIKE_LLADA, "head_dim": 6, "moe_intermediate_size": 10, "norm_topk_prob": False}


def _experts(count: int, chosen: int) -> dict[str, int]:
    return {"num_experts": count, "num_experts_per_tok": chosen}


LLADA_MOE = (
    masked_case(
        "lladamoe",
        "all_layers",
        _LLADA_MOE | _experts(7, 3),
        ("qwen3_moe", _LIKE_LLADA_MOE | _experts(7, 3)),
    ),
    masked_case(
        "lladamoe",
        "dense_first_biases_tied",
        _LLADA_MOE
        | _experts(5, 2)
        | {"moe_layer_freq": [0, 1], "dense_intermediate_size": 40}
        | {"attention_bias": True, "tie_word_embeddings": True},
        (
            "qwen3_moe",
            _LIKE_LLADA_MOE
            | _experts(5, 2)
            | {"mlp_only_layers": [0], "attention_bias": True, "tie_word_embeddings": True},
        ),
    ),
    masked_case(
        "lladamoe",
        "every_expert_one_kv_head",
        _LLADA_MOE | _experts(3, 3) | {"num_key_value_heads": 1, "hidden_act": "gelu"},
        ("qwen3_moe", _LIKE_LLADA_MOE | _experts(3, 3) | {"num_key_value_heads": 1, "hidden_act": "gelu"}),
    ),
)

# --- Dream: Qwen2 ------------------------------------------------------------------------------------


def _dream(name: str, **changes: Any) -> Case:
    return masked_case("Dream", name, {**SIZES, "mask_token_id": 60, **changes}, ("qwen2", changes))


DREAM = (
    _dream("grouped"),
    _dream("tied_equal_heads", tie_word_embeddings=True, num_key_value_heads=4, rms_norm_eps=1e-3),
    _dream("one_kv_head_llama3", num_key_value_heads=1, num_hidden_layers=3, **LLAMA3_ROPE),
)

# --- LLaDA2: GLM-4.5 with fused projections ----------------------------------------------------------

_LLADA2 = {
    **SIZES,
    "mask_token_id": 60,
    "head_dim": 8,
    "moe_intermediate_size": 12,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 1,
    "rope_theta": 500.0,
    "rotary_dim": 4,
    "rms_norm_eps": 1e-5,
    "score_function": "sigmoid",
    "use_bias": False,
}
_LIKE_LLADA2 = {
    **rope_keys("default", partial_rotary_factor=0.5),
    "head_dim": 8,
    "moe_intermediate_size": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "rms_norm_eps": 1e-5,
    "use_qk_norm": True,
}


def _fused(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Queries, keys and values in one projection, and LLaDA2's names."""
    import torch

    rename = renamed(
        ("model.embed_tokens", "model.word_embeddings"),
        (r"self_attn\.o_proj", "attention.dense"),
        (r"self_attn\.q_norm", "attention.query_layernorm"),
        (r"self_attn\.k_norm", "attention.key_layernorm"),
        ("e_score_correction_bias", "expert_bias"),
    )
    fused = rename(tensors)
    for name in list(fused):
        if ".self_attn.q_proj." in name:
            parts = [fused.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            fused[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
    return fused


LLADA2 = (
    masked_case(
        "llada2_moe",
        "groups_dense_first",
        _LLADA2
        | {"n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5}
        | {"block_size": 5},
        (
            "glm4_moe",
            _LIKE_LLADA2
            | {"n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5},
        ),
        _fused,
        by_block(5),
    ),
    masked_case(
        "llada2_moe",
        "one_group_one_expert_biases_tied",
        _LLADA2
        | {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "routed_scaling_factor": 0.7}
        | {"num_shared_experts": 2, "use_qkv_bias": True, "tie_word_embeddings": True},
        (
            "glm4_moe",
            _LIKE_LLADA2
            | {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "routed_scaling_factor": 0.7}
            | {"norm_topk_prob": False}
            | {"n_shared_experts": 2, "attention_bias": True, "tie_word_embeddings": True}
            | {"first_k_dense_replace": 0},
        ),
        _fused,
        by_block(32),
    ),
    masked_case(
        "llada2_moe",
        "plain_heads_one_kv_head",
        _LLADA2
        | {"n_group": 2, "topk_group": 1, "num_hidden_layers": 3, "first_k_dense_replace": 2}
        | {"use_qk_norm": False, "num_key_value_heads": 1, "block_size": 8},
        (
            "glm4_moe",
            _LIKE_LLADA2
            | {"n_group": 2, "topk_group": 1, "num_hidden_layers": 3, "first_k_dense_replace": 2}
            | {"use_qk_norm": False, "num_key_value_heads": 1, "routed_scaling_factor": 2.5},
        ),
        _fused,
        by_block(8),
    ),
)

MASKED = (*LLADA, *LLADA_MOE, *DREAM, *LLADA2)
