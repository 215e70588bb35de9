"""Sana as `diffusers` stores it (`SanaTransformer2DModel`)."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import ProjectedModulation, TableModulation
from jaxmodels.layers.conv_mlp import GatedConvMLP
from jaxmodels.layers.cross_attention import CrossAttention
from jaxmodels.layers.linear_attention import ReLUAttention
from jaxmodels.layers.norm import LayerNorm, RMSNorm
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.cross_block import CrossBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.pixart import PixArt
from jaxmodels.models.denoisers.text_conditioner import TextConditioner
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader

# Of the norms of queries, keys and texts, which no configuration says.
QK_EPS, CAPTION_EPS = 1e-5, 1e-5

BLOCK = "transformer_blocks.{i}."
WEIGHTS = (
    *weight_rows.ends("patch_embed.proj", "proj_out"),
    *weight_rows.modulation("modulation", "time_embed.linear"),
    *weight_rows.embed_mlp("caption", "caption_projection"),
    Weight("caption_norm/scale", "caption_norm.weight"),
    Weight("blocks/{i}/modulation/table", BLOCK + "scale_shift_table"),
    *weight_rows.attention("blocks/{i}/mixer", BLOCK + "attn1."),
    *weight_rows.attention("blocks/{i}/cross", BLOCK + "attn2."),
    Weight("blocks/{i}/ffn_norm/scale", BLOCK + "norm2.weight"),
    Weight("blocks/{i}/ffn_norm/bias", BLOCK + "norm2.bias"),
    *affine("blocks/{i}/ffn/{p}_up", BLOCK + "ff.conv_inverted", "f d 1 1 -> f d"),
    *affine("blocks/{i}/ffn/conv/{p}", BLOCK + "ff.conv_depth"),
    Weight("blocks/{i}/ffn/w_down", BLOCK + "ff.conv_point.weight", "d f 1 1 -> d f"),
    Weight("final_norm/modulation/table", "scale_shift_table"),
)


def read_config(reader: ConfigReader) -> PixArt:
    d_model = reader.positive_or("num_attention_heads", 70) * reader.positive_or("attention_head_dim", 32)
    reader.expect_same("cross_attention_dim", "num_attention_heads * attention_head_dim", d_model)
    in_channels, sample_size = reader.positive_or("in_channels", 32), reader.positive_or("sample_size", 32)
    scale = reader.nullable("interpolation_scale", float, None)
    return PixArt(
        sample_size=sample_size,
        interpolation_scale=None if scale is None else reader.factor("interpolation_scale", 1.0),
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 1),
            in_channels=in_channels,
            # null is as many as come in, absent are the 32 of the published models
            out_channels=reader.nullable("out_channels", int, 32) or in_channels,
        ),
        blocks=(_read_block(reader, d_model),) * reader.positive_or("num_layers", 20),
        conditioner=TextConditioner(
            time=TimestepEmbedding(d_model=d_model),
            guided=reader.flag("guidance_embeds", False),
            time_scale=reader.factor("timestep_scale", 1.0),
            guidance_scale=reader.factor("guidance_embeds_scale", 0.1),
        ),
        modulation=ProjectedModulation(d_model=d_model, d_condition=d_model),
        caption_width=reader.positive_or("caption_channels", 2304),
        caption_norm=RMSNorm(dim=d_model, eps=CAPTION_EPS),
        final_norm=parts.table_norm(d_model),
        family=FAMILY.model_type,
    )


def _read_block(reader: ConfigReader, d_model: int) -> CrossBlock:
    reader.expect("qk_norm", None, "rms_norm_across_heads")
    normed = reader.values.get("qk_norm") is not None

    def attention(heads: tuple[str, int], width: tuple[str, int]) -> Attention:
        num_heads, head_dim = reader.positive_or(*heads), reader.positive_or(*width)
        norm = RMSNorm(dim=num_heads * head_dim, eps=QK_EPS, axis=None) if normed else None
        made = parts.plain_attention(num_heads, head_dim, norm)
        return replace(made, d_model=d_model, norm_across_heads=normed)

    own = attention(("num_attention_heads", 70), ("attention_head_dim", 32))
    other = attention(("num_cross_attention_heads", 20), ("cross_attention_head_dim", 112))
    norm = parts.bare_norm(d_model, reader.epsilon("norm_eps", 1e-6))
    learned = reader.flag("norm_elementwise_affine", False)
    return CrossBlock(
        mixer_norm=norm,
        mixer=ReLUAttention(attention=replace(own, qkv_bias=reader.flag("attention_bias", False))),
        cross=CrossAttention(attention=other, d_context=d_model),
        ffn_norm=replace(norm, scale=learned, bias=learned),
        ffn=GatedConvMLP(d_model=d_model, d_ff=int(reader.factor("mlp_ratio", 2.5) * d_model)),
        modulation=TableModulation(d_model=d_model, d_condition=6 * d_model),
    )


def write_config(config: PixArt) -> dict[str, Any]:
    block, told = config.blocks[0], config.conditioner
    mixer, cross, ffn, norm = block.mixer, block.cross.attention, block.ffn, block.ffn_norm
    assert isinstance(mixer, ReLUAttention) and isinstance(ffn, GatedConvMLP) and isinstance(norm, LayerNorm)
    return {
        "_class_name": FAMILY.model_type,
        "attention_bias": mixer.attention.qkv_bias,
        "attention_head_dim": mixer.attention.head_dim,
        "caption_channels": config.caption_width,
        "cross_attention_dim": block.cross.d_context,
        "cross_attention_head_dim": cross.head_dim,
        "guidance_embeds": told.guided,
        "guidance_embeds_scale": told.guidance_scale,
        "in_channels": config.projections.in_channels,
        "interpolation_scale": config.interpolation_scale,
        "mlp_ratio": ffn.d_ff / ffn.d_model,
        "norm_elementwise_affine": norm.scale,
        "norm_eps": norm.eps,
        "num_attention_heads": mixer.attention.num_heads,
        "num_cross_attention_heads": cross.num_heads,
        "num_layers": len(config.blocks),
        "out_channels": config.projections.out_channels,
        "patch_size": config.projections.patch,
        "qk_norm": None if cross.query_norm is None else "rms_norm_across_heads",
        "sample_size": config.sample_size,
        "timestep_scale": told.time_scale,
    }


def time_rows(config: PixArt) -> tuple[Weight, ...]:
    """The rows of the time's embedding, whose names depend on whether there is one of guidance beside it."""
    if not config.conditioner.guided:
        return weight_rows.embed_mlp("conditioner/time", "time_embed.emb.timestep_embedder")
    return (
        *weight_rows.embed_mlp("conditioner/time", "time_embed.timestep_embedder"),
        *weight_rows.embed_mlp("conditioner/guidance", "time_embed.guidance_embedder"),
    )


# Times and strengths of guidance are multiplied by their scales in the code of pipelines, here in the model.
# Dropout belongs to training.
FAMILY = Family(
    model_type="SanaTransformer2DModel",
    summary="Sana, Sana 1.5 and Sana Sprint",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    named_weights=time_rows,
    inert=("dropout",),
)
