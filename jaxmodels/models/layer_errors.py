"""What layers say of their fields, said of the keys of a ``config.json`` that these were read from."""

import re
from collections.abc import Mapping
from typing import Any

# The names under which families spell the sizes that layers speak of. Of many, a message gives those that
# the file has.
_THEIR_NAMES: Mapping[str, tuple[str, ...]] = {
    "adapter_rank": ("adapter_rank",),
    "chunk_size": ("chunk_size", "mamba_chunk_size", "block_size"),
    "conv_width": ("conv_kernel", "mamba_d_conv", "conv_L_cache", "conv1d_width", "linear_conv_kernel_dim"),
    "d_ff": ("intermediate_size", "moe_intermediate_size", "shared_intermediate_size", "n_inner"),
    "d_inner": ("intermediate_size", "mamba_d_ssm", "mamba_expand", "expand", "lru_width"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "dim": ("hidden_size", "n_embd", "d_model"),
    "dt_rank": ("time_step_rank", "mamba_dt_rank"),
    "head_dim": ("head_dim", "mamba_d_head", "mamba_head_dim", "linear_value_head_dim"),
    "key_dim": ("qk_nope_head_dim", "linear_key_head_dim"),
    "kv_rank": ("kv_lora_rank",),
    "num_blocks": ("num_attention_heads",),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "num_groups": ("n_groups", "mamba_n_groups", "mamba_ngroups", "n_group", "num_expert_group"),
    "num_heads": (
        "num_attention_heads",
        "n_head",
        "mamba_n_heads",
        "n_mamba_heads",
        "mamba_num_heads",
        "num_heads",
    ),
    "num_key_heads": ("linear_num_key_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "query_rank": ("q_lora_rank",),
    "rope_dim": ("qk_rope_head_dim",),
    "rotary_dim": ("head_dim", "qk_rope_head_dim", "partial_rotary_factor", "rotary_pct"),
    "scale": ("routed_scaling_factor", "attention_multiplier", "query_pre_attn_scalar"),
    "softcap": ("attn_logit_softcapping",),
    "state_dim": ("state_size", "ssm_state_size", "mamba_d_state"),
    "theta": ("rope_theta", "rotary_emb_base"),
    "top_groups": ("topk_group",),
    "top_k": ("num_experts_per_tok", "num_experts_per_token"),
    "value_dim": ("v_head_dim",),
    "sliding_window": ("sliding_window", "attention_window_size"),
}  # fmt: skip


def in_their_words(message: str, values: Mapping[str, Any]) -> str:
    """A layer's message with the keys of a configuration in place of the names of the layer's fields."""

    def key(match: re.Match[str]) -> str:
        names = _THEIR_NAMES.get(match.group(), ())
        held = [name for name in names if name in values] or (names if len(names) <= 2 else ())
        return "/".join(held) or match.group()

    return re.sub(r"[a-z_]+", key, message)
