"""Stacks of recurrences, alone or with attention between them, and of short convolutions."""

import dataclasses
from typing import Any

from configurations.case import VOCAB, Case
from configurations.case import dense_case as _dense
from configurations.case import rope_keys as _rope


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


def _griffin(name: str, **changes: Any) -> Case:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
    config = {"vocab_size": VOCAB, "num_hidden_layers": 3, **sizes, **changes}
    return Case(name=f"recurrent_gemma-{name}", family="recurrent_gemma", config=config)


MAMBA2 = (
    _mamba2("groups_1"),
    _mamba2("groups_2_biases_tied", n_groups=2, use_bias=True, tie_word_embeddings=True),
    _mamba2("groups_8_no_conv_bias", n_groups=8, use_conv_bias=False, conv_kernel=3, chunk_size=8),
    # transformers' one-token step leaves out time_step_limit, which its full forward applies.
    _mamba2("limits", cached_reference=False, time_step_limit=(0.2, 0.8), n_groups=2, expand=4, num_heads=16),
    _mamba2("no_fp32_residual", residual_in_fp32=False, layer_norm_epsilon=1e-3, chunk_size=256),
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

STATE_SPACE = (*MAMBA2, *MAMBA, *FALCON_MAMBA, *RECURRENT_GEMMA, *LFM2)
