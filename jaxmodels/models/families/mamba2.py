"""Mamba-2 in both published layouts: `transformers` ("mamba2") and the original ("mamba2-original").

The original layout is the one of the authors' own package: its ``config.json`` has no `model_type` but an
``ssm_cfg`` dictionary, and its embedding is called ``backbone.embedding.weight``.
"""

import math
from dataclasses import replace
from typing import Any

from jaxmodels.layers.norm import GatedRMSNorm, GateOrder, RMSNorm
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader, json_number
from jaxmodels.models.readers import hybrid

# How weights are drawn, a rank that only Mamba-1 has, a width that follows from `expand`: none of these
# changes a forward pass. Nor does `norm_before_gate`: transformers' code gates first whatever it says.
INERT = (
    "intermediate_size", "layer_types", "norm_before_gate", "rescale_prenorm_residual", "time_step_floor",
    "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_rank", "time_step_scale",
)  # fmt: skip
ORIGINAL_INERT = ("A_init_range", "conv_init", "dt_init_floor", "dt_max", "dt_min", "use_mem_eff_path")

WEIGHTS = (
    Weight("embed/weight", "backbone.embeddings.weight"),
    Weight("final_norm/scale", "backbone.norm_f.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("blocks/{i}/mixer_norm/scale", "backbone.layers.{i}.norm.weight"),
    *hybrid.SSD_WEIGHTS,
)


def read_config(reader: ConfigReader) -> Decoder:
    d_model = reader.positive("hidden_size")
    num_heads, head_dim = reader.positive("num_heads"), reader.positive("head_dim")
    expand = reader.positive_or("expand", 2)
    if d_model * expand != num_heads * head_dim:
        raise ConfigError(
            f"{reader.name}: hidden_size * expand = {d_model} * {expand} must equal "
            f"num_heads * head_dim = {num_heads} * {head_dim}"
        )
    reader.expect("hidden_act", "silu", "swish")
    reader.expect("rms_norm", True)
    groups, eps = reader.positive("n_groups"), reader.epsilon("layer_norm_epsilon", 1e-5)
    mixer = SSDMixer(
        d_model=d_model,
        num_heads=num_heads,
        head_dim=head_dim,
        state_dim=reader.positive("state_size"),
        num_groups=groups,
        conv_width=reader.positive_or("conv_kernel", 4),
        chunk_size=reader.positive_or("chunk_size", 256),
        dt_limit=reader.limits("time_step_limit", (0.0, math.inf)),
        projection_bias=reader.flag("use_bias", False),
        conv_bias=reader.flag("use_conv_bias", True),
        norm=GatedRMSNorm(dim=num_heads * head_dim, eps=eps, num_groups=groups),
    )
    norm = RMSNorm(dim=d_model, eps=eps)
    layers = reader.positive("num_hidden_layers")
    return Decoder(
        vocab_size=reader.positive("vocab_size"),
        d_model=d_model,
        blocks=(Block(mixer_norm=norm, mixer=mixer),) * layers,
        final_norm=norm,
        tie_embeddings=reader.flag("tie_word_embeddings", False),
        residual_dtype="float32" if reader.flag("residual_in_fp32", True) else None,
        family="mamba2",
    )


def write_config(config: Decoder) -> dict[str, Any]:
    mixer = _mixer(config)
    assert mixer.norm is not None
    if mixer.norm.order != "gate_then_norm" or mixer.norm.num_groups != mixer.num_groups:
        raise ConfigError(f"the 'mamba2' layout cannot express the gated norm {mixer.norm}")
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": len(config.blocks),
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "state_size": mixer.state_dim,
        "n_groups": mixer.num_groups,
        "expand": mixer.d_inner // mixer.d_model,
        "conv_kernel": mixer.conv_width,
        "chunk_size": mixer.chunk_size,
        "time_step_limit": [json_number(limit) for limit in mixer.dt_limit],
        "use_bias": mixer.projection_bias,
        "use_conv_bias": mixer.conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": mixer.norm.eps,
        "residual_in_fp32": config.residual_dtype == "float32",
        "tie_word_embeddings": config.tie_embeddings,
    }


def read_original_config(reader: ConfigReader) -> Decoder:
    reader.expect("rms_norm", True)
    reader.expect("d_intermediate", 0)
    reader.expect("attn_layer_idx", [])
    reader.expect("attn_cfg", {})
    reader.take("ssm_cfg", dict)
    inner = reader.section("ssm_cfg")
    inner.consume(*ORIGINAL_INERT)
    if inner.take_or("layer", str, "Mamba1") != "Mamba2":  # stacks of Mamba-1 lack the key
        raise ConfigError(f"{inner.name}: key 'layer' must be 'Mamba2', got {inner.values.get('layer')!r}")
    inner.expect("d_ssm", None)
    inner.expect("D_has_hdim", False)
    d_model = reader.positive("d_model")
    d_inner = d_model * inner.positive_or("expand", 2)
    head_dim, groups = inner.positive_or("headdim", 64), inner.positive_or("ngroups", 1)
    if head_dim < 1 or d_inner % head_dim:
        raise ConfigError(
            f"{reader.name}: ssm_cfg.headdim={head_dim} must divide expand * d_model = {d_inner}"
        )
    order: GateOrder = "norm_then_gate" if inner.flag("norm_before_gate", False) else "gate_then_norm"
    gated = GatedRMSNorm(dim=d_inner, eps=1e-5, num_groups=groups, order=order)
    mixer = SSDMixer(
        d_model=d_model,
        num_heads=d_inner // head_dim,
        head_dim=head_dim,
        state_dim=inner.positive_or("d_state", 128),
        num_groups=groups,
        conv_width=inner.positive_or("d_conv", 4),
        chunk_size=inner.positive_or("chunk_size", 256),
        dt_limit=inner.limits("dt_limit", (0.0, math.inf)),
        projection_bias=inner.flag("bias", False),
        conv_bias=inner.flag("conv_bias", True),
        norm=gated if inner.flag("rmsnorm", True) else None,
    )
    norm = RMSNorm(dim=d_model, eps=1e-5)
    multiple = reader.positive_or("pad_vocab_size_multiple", 8)
    vocab = reader.positive("vocab_size")
    return Decoder(
        vocab_size=-(-vocab // multiple) * multiple,
        d_model=d_model,
        blocks=(Block(mixer_norm=norm, mixer=mixer),) * reader.positive("n_layer"),
        final_norm=norm,
        tie_embeddings=reader.flag("tie_embeddings", True),
        residual_dtype="float32" if reader.flag("residual_in_fp32", True) else None,
        family="mamba2-original",
    )


def write_original_config(config: Decoder) -> dict[str, Any]:
    mixer = _mixer(config)
    return {
        "d_model": config.d_model,
        "n_layer": len(config.blocks),
        "vocab_size": config.vocab_size,
        "pad_vocab_size_multiple": 1,
        "rms_norm": True,
        "residual_in_fp32": config.residual_dtype == "float32",
        "fused_add_norm": True,
        "tie_embeddings": config.tie_embeddings,
        "ssm_cfg": {
            "layer": "Mamba2",
            "d_state": mixer.state_dim,
            "d_conv": mixer.conv_width,
            "expand": mixer.d_inner // mixer.d_model,
            "headdim": mixer.head_dim,
            "ngroups": mixer.num_groups,
            "chunk_size": mixer.chunk_size,
            "dt_limit": [json_number(limit) for limit in mixer.dt_limit],
            "bias": mixer.projection_bias,
            "conv_bias": mixer.conv_bias,
            "rmsnorm": mixer.norm is not None,
            "norm_before_gate": mixer.norm is not None and mixer.norm.order == "norm_then_gate",
        },
    }


def _mixer(config: Decoder) -> SSDMixer:
    mixers = {block.mixer for block in config.blocks}
    mixer = next(iter(mixers))
    if len(mixers) != 1 or not isinstance(mixer, SSDMixer) or any(b.ffn for b in config.blocks):
        raise ConfigError("the Mamba-2 layouts hold one kind of SSD block, with no feed-forward")
    return mixer


FAMILY = Family(
    model_type="mamba2",
    summary="Mamba-2, the transformers layout",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
)

ORIGINAL = Family(
    model_type="mamba2-original",
    summary="Mamba-2, the layout of the authors' package (state-spaces/mamba2-*)",
    read_config=read_original_config,
    write_config=write_original_config,
    weights=tuple(
        replace(row, theirs=row.theirs.replace("backbone.embeddings", "backbone.embedding"))
        for row in WEIGHTS
    ),
    claims=lambda values: values.get("model_type") is None and "ssm_cfg" in values,
)
