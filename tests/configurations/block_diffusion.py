"""Qwens trained to fill masks: block by block (SDAR, Fast-dLLM v2), or under a causal mask (WeDLM)."""

from typing import Any

from configurations.case import Case, Sees, by_block, causal, rope_keys
from configurations.masked import SIZES, masked_case


def _case(
    family: str, name: str, like: str, sees: Sees, own: dict[str, Any], changes: dict[str, Any]
) -> Case:
    """`changes` are keys of both configurations, `own` those of the family's alone."""
    return masked_case(
        family, name, {**SIZES, "mask_token_id": 60, **changes, **own}, (like, changes), sees=sees
    )


def _sdar(name: str, block: int = 4, **changes: Any) -> Case:
    own = {} if block == 4 else {"block_size": block}
    return _case("sdar", name, "qwen3", by_block(block), own, changes)


def _sdar_moe(name: str, block: int = 4, **changes: Any) -> Case:
    own = {} if block == 4 else {"block_size": block}
    return _case("sdar_moe", name, "qwen3_moe", by_block(block), own, changes)


def _fast_dllm(name: str, block: int = 32, **changes: Any) -> Case:
    own = {} if block == 32 else {"bd_size": block}
    return _case("Fast_dLLM_Qwen", name, "qwen2", by_block(block), own, changes)


SDAR = (
    _sdar("blocks_of_4", head_dim=10),
    _sdar("blocks_of_7_tied_biases", 7, head_dim=4, tie_word_embeddings=True, attention_bias=True),
    _sdar("one_kv_head", 16, head_dim=6, num_key_value_heads=1, rms_norm_eps=1e-3, **rope_keys("default")),
)

_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 10, "head_dim": 6}

SDAR_MOE = (
    _sdar_moe("blocks_of_4", **_EXPERTS, norm_topk_prob=True),
    _sdar_moe("dense_first_tied", 8, **_EXPERTS, mlp_only_layers=[0], tie_word_embeddings=True),
    _sdar_moe("every_expert", 3, **_EXPERTS | {"num_experts_per_tok": 5}, num_key_value_heads=1),
)

FAST_DLLM = (
    _fast_dllm("blocks_of_32"),
    _fast_dllm("blocks_of_5_tied", 5, tie_word_embeddings=True, num_key_value_heads=4),
    _fast_dllm("one_kv_head_linear", 12, num_key_value_heads=1, **rope_keys("linear", factor=2.5)),
)

WEDLM = (
    _case("wedlm", "like_qwen2", "qwen2", causal, {}, {}),
    _case(
        "wedlm",
        "like_qwen3_tied",
        "qwen3",
        causal,
        {"qk_norm": True},
        {"attention_bias": False, "head_dim": 10, "tie_word_embeddings": True},
    ),
    _case(
        "wedlm",
        "plain_heads_window",
        "qwen2",
        causal,
        {},
        {
            "num_key_value_heads": 4,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 1,
        },
    ),
)

BLOCK_DIFFUSION = (*SDAR, *SDAR_MOE, *FAST_DLLM, *WEDLM)
