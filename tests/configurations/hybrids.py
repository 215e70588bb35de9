"""State space layers beside attention, and mixtures among them."""

from typing import Any

from configurations.case import Case
from configurations.case import dense_case as _dense
from configurations.case import rope_keys as _rope

_SSD = {"mamba_n_heads": 8, "mamba_d_state": 10, "mamba_n_groups": 2, "mamba_chunk_size": 16}


def _nemotron_h(name: str, types: list[str], cached_reference: bool = True, **changes: Any) -> Case:
    sizes = {"mamba_num_heads": 8, "mamba_head_dim": 5, "ssm_state_size": 10, "n_groups": 2, "head_dim": 10}
    return _dense(
        "nemotron_h",
        name,
        cached_reference=cached_reference,
        num_hidden_layers=None,
        layers_block_type=types,
        **sizes | {"chunk_size": 16} | changes,
    )


def _granite_hybrid(name: str, types: list[str], **changes: Any) -> Case:
    sizes = {"shared_intermediate_size": 28, "num_local_experts": 5, "attention_multiplier": 0.3}
    return _dense(
        "granitemoehybrid",
        name,
        num_hidden_layers=len(types),
        layer_types=types,
        **_SSD | sizes | changes,
    )


def _zamba2(name: str, types: str, cached_reference: bool = True, **changes: Any) -> Case:
    kinds = {"m": "linear_attention", "h": "hybrid"}
    sizes = {"n_mamba_heads": 8, "mamba_d_state": 10, "mamba_ngroups": 2, "chunk_size": 16, "adapter_rank": 3}
    return _dense(
        "zamba2",
        name,
        cached_reference=cached_reference,
        num_hidden_layers=len(types),
        layers_block_type=[kinds[letter] for letter in types],
        num_key_value_heads=None,
        **sizes | changes,
    )


BAMBA = (
    _dense("bamba", "attention_between", hidden_size=32, num_hidden_layers=3, attn_layer_indices=[1], **_SSD),
    _dense(
        "bamba",
        "biases_tied",
        hidden_size=32,
        attn_layer_indices=[0],
        attention_bias=True,
        mlp_bias=True,
        mamba_proj_bias=True,
        mamba_conv_bias=False,
        tie_word_embeddings=True,
        num_key_value_heads=1,
        **_SSD | {"mamba_n_groups": 1, "mamba_d_conv": 3},
    ),
    # transformers' one-token step leaves out time_step_limit, which its full forward applies.
    _dense(
        "bamba",
        "limits_wide",
        cached_reference=False,
        attn_layer_indices=[1],
        num_attention_heads=2,
        mamba_expand=4,
        time_step_limit=(0.2, 0.8),
        **_SSD | {"mamba_n_groups": 8},
    ),
)

FALCON_H1 = (
    _dense("falcon_h1", "plain", mamba_d_ssm=40, num_key_value_heads=1, **_SSD),
    _dense(
        "falcon_h1",
        "multipliers_norm_first",
        mamba_d_ssm=48,
        mamba_rms_norm=True,
        lm_head_multiplier=0.7,
        embedding_multiplier=3.1,
        mlp_multipliers=[0.88, 1.3],
        key_multiplier=0.39,
        attention_in_multiplier=1.1,
        attention_out_multiplier=0.9,
        ssm_multipliers=[0.35, 0.8, 1.2, 0.5, 1.4],
        ssm_in_multiplier=1.25,
        ssm_out_multiplier=0.24,
        tie_word_embeddings=True,
        **_SSD,
    ),
    _dense(
        "falcon_h1",
        "gate_first_biases",
        mamba_d_ssm=32,
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        mamba_proj_bias=True,
        projectors_bias=True,
        attention_bias=True,
        mlp_bias=True,
        ssm_multipliers=[1.0, 1.0, 1.0, 1.0, 0.5],
        **_SSD | {"mamba_n_groups": 4},
    ),
)

NEMOTRON_H = (
    _nemotron_h("all_kinds", ["linear_attention", "mlp", "full_attention", "mlp"]),
    _nemotron_h(
        "biases",
        ["full_attention", "linear_attention", "mlp"],
        use_bias=True,
        use_conv_bias=False,
        mlp_bias=True,
        mlp_hidden_act="gelu",
        num_key_value_heads=4,
    ),
    _nemotron_h(
        "mixtures",
        ["linear_attention", "moe", "full_attention", "moe"],
        moe_intermediate_size=12,
        moe_shared_expert_intermediate_size=20,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
    ),
    _nemotron_h(
        "latent_experts_biases",
        ["moe", "full_attention", "moe"],
        moe_latent_size=10,
        mlp_bias=True,
        moe_intermediate_size=12,
        moe_shared_expert_intermediate_size=20,
        n_routed_experts=6,
        num_experts_per_tok=3,
    ),
    # transformers' one-token step leaves out time_step_min, which its full forward applies.
    _nemotron_h(
        "limit_many_groups",
        ["linear_attention", "linear_attention", "mlp", "full_attention"],
        cached_reference=False,
        time_step_min=0.3,
        n_groups=8,
        conv_kernel=3,
    ),
)

_PERIODS = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 3,
    "expert_layer_offset": 1,
}

_JAMBA = {"num_hidden_layers": 4, "mamba_d_state": 5, "num_experts": 5, "num_experts_per_tok": 2, **_PERIODS}

JAMBA = (
    _dense("jamba", "mixtures", **_JAMBA | {"mamba_dt_rank": 4}),
    _dense(
        "jamba",
        "dense_tied",
        num_key_value_heads=4,
        tie_word_embeddings=True,
        mamba_conv_bias=False,
        mamba_d_conv=3,
        **_JAMBA | {"num_experts": 1, "num_hidden_layers": 2, "attn_layer_offset": 0},
    ),
    _dense(
        "jamba",
        "biases_one_attention",
        num_key_value_heads=1,
        mamba_proj_bias=True,
        mamba_expand=3,
        rms_norm_eps=1e-3,
        rewritten=("attn_layer_period", "expert_layer_period"),
        **_JAMBA | {"num_hidden_layers": 3, "attn_layer_period": 4, "expert_layer_period": 7},
    ),
)

GRANITEMOEHYBRID = (
    _granite_hybrid(
        "mixtures",
        ["linear_attention", "full_attention", "linear_attention"],
        residual_multiplier=0.22,
        embedding_multiplier=12.0,
        logits_scaling=8.0,
    ),
    _granite_hybrid(
        "rope_no_experts_tied",
        ["full_attention", "linear_attention"],
        num_local_experts=0,
        position_embedding_type="rope",
        tie_word_embeddings=True,
        attention_bias=True,
        mamba_proj_bias=True,
    ),
    _granite_hybrid(
        "rope_one_expert_each",
        ["linear_attention", "full_attention"],
        position_embedding_type="rope",
        num_experts_per_tok=1,
        mamba_n_groups=1,
        mamba_conv_bias=False,
        num_key_value_heads=1,
        **_rope("linear", factor=2.0),
    ),
)

ZAMBA2 = (
    _zamba2("two_sets_rope", "mhhmh", num_mem_blocks=2, use_shared_attention_adapter=True, use_mem_rope=True),
    _zamba2("one_set_biases", "hmh", add_bias_linear=True, mamba_ngroups=1),
    # transformers' one-token step leaves out time_step_min, which its full forward applies.
    _zamba2(
        "limit",
        "mh",
        cached_reference=False,
        time_step_min=0.3,
        mamba_ngroups=8,
        hidden_act="silu",
        use_mem_rope=True,
        num_attention_heads=2,
        use_shared_attention_adapter=True,
    ),
)

HYBRIDS = (*BAMBA, *FALCON_H1, *NEMOTRON_H, *JAMBA, *GRANITEMOEHYBRID, *ZAMBA2)
