"""Falcon-H1 (`model_type` "falcon_h1"): attention and Mamba-2 side by side, with multipliers."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import GateOrder
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.layers.sum_mixer import Branch, SumMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid

WEIGHTS = (
    *hybrid.FRAME_WEIGHTS,
    *hybrid.GATED_MLP_WEIGHTS,
    *hybrid.renamed(dense.ATTENTION_WEIGHTS, ours=("/mixer/", "/mixer/attention/")),
    *hybrid.ssd_weights("blocks/{i}/mixer/ssd", "model.layers.{i}.mamba"),
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("hidden_act", "silu", "swish")  # it is also the convolution's
    norm = dense.read_norm(reader, default_eps=1e-5)
    branches = (_read_attention(reader), _read_ssd(reader, norm))
    gate_scale, out_scale = reader.numbers("mlp_multipliers", (1.0,) * 2)
    ffn = dense.read_gated_mlp(reader, reader.flag("mlp_bias", False))
    ffn = replace(ffn, gate_scale=gate_scale, out_scale=out_scale)
    block = Block(mixer_norm=norm, mixer=SumMixer(branches=branches), ffn_norm=norm, ffn=ffn)
    embed_scale = reader.factor("embedding_multiplier", 1.0)
    logit_scale = reader.factor("lm_head_multiplier", 1.0)
    config = dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)
    return replace(config, embed_scale=embed_scale, logit_scale=logit_scale)


def _read_attention(reader: ConfigReader) -> Branch:
    attention = hybrid.read_attention(reader)
    # Keys enter the logits as a factor, rotated or not, so that their multiplier is one of the logits.
    scale = attention.head_dim**-0.5 * reader.factor("key_multiplier", 1.0)
    return Branch(
        name="attention",
        mixer=replace(attention, scale=scale),
        in_scale=reader.factor("attention_in_multiplier", 1.0),
        out_scale=reader.factor("attention_out_multiplier", 1.0),
    )


def _read_ssd(reader: ConfigReader, norm: Any) -> Branch:
    ssd = hybrid.read_ssd(reader, norm, reader.count("mamba_d_ssm"))
    assert ssd.norm is not None
    order: GateOrder = "norm_then_gate" if reader.flag("mamba_norm_before_gate", True) else "gate_then_norm"
    gated = replace(ssd.norm, order=order) if reader.flag("mamba_rms_norm", False) else None
    reader.expect_same("projectors_bias", "mamba_proj_bias", ssd.projection_bias)
    z, x, b, c, dt = reader.numbers("ssm_multipliers", (1.0,) * 5)
    return Branch(
        name="ssd",
        mixer=replace(ssd, norm=gated, input_scales=(z, x, b, c, dt)),
        in_scale=reader.factor("ssm_in_multiplier", 1.0),
        out_scale=reader.factor("ssm_out_multiplier", 1.0),
    )


def write_config(config: Decoder) -> dict[str, Any]:
    mixer, ffn = hybrid.first_of(config, SumMixer), hybrid.first_of(config, GatedMLP)
    branches = {branch.name: branch for branch in mixer.branches}
    if set(branches) != {"attention", "ssd"}:
        raise ConfigError(f"the 'falcon_h1' layout holds branches attention and ssd, got {sorted(branches)}")
    attention, ssd = branches["attention"].mixer, branches["ssd"].mixer
    assert isinstance(attention, Attention) and isinstance(ssd, SSDMixer) and attention.scale is not None
    norm = {} if ssd.norm is None else {"mamba_norm_before_gate": ssd.norm.order == "norm_then_gate"}
    return (
        hybrid.write_decoder(config)
        | hybrid.write_attention(attention)
        | hybrid.write_ssd(ssd)
        | norm
        | {
            "architectures": ["FalconH1ForCausalLM"],
            "intermediate_size": ffn.d_ff,
            "hidden_act": ffn.activation,
            "mlp_bias": ffn.bias,
            "mlp_multipliers": [ffn.gate_scale, ffn.out_scale],
            "mamba_d_ssm": ssd.d_inner,
            "mamba_rms_norm": ssd.norm is not None,
            "projectors_bias": ssd.projection_bias,
            "key_multiplier": hybrid.other_factor(attention.scale, attention.head_dim**-0.5),
            "attention_in_multiplier": branches["attention"].in_scale,
            "attention_out_multiplier": branches["attention"].out_scale,
            "ssm_multipliers": list(ssd.input_scales),
            "ssm_in_multiplier": branches["ssd"].in_scale,
            "ssm_out_multiplier": branches["ssd"].out_scale,
            "embedding_multiplier": config.embed_scale,
            "lm_head_multiplier": config.logit_scale,
        }
    )


FAMILY = Family(
    model_type="falcon_h1",
    summary="Falcon-H1: attention and Mamba-2 side by side",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
)
