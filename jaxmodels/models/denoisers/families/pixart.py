"""PixArt-alpha and PixArt-Sigma as `diffusers` stores them (`PixArtTransformer2DModel`)."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import ProjectedModulation, TableModulation
from jaxmodels.layers.cross_attention import CrossAttention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.cross_block import CrossBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.pixart import PixArt
from jaxmodels.models.denoisers.text_conditioner import TextConditioner
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

BLOCK = "transformer_blocks.{i}."
WEIGHTS = (
    *weight_rows.ends("pos_embed.proj", "proj_out"),
    *weight_rows.embed_mlp("conditioner/time", "adaln_single.emb.timestep_embedder"),
    *weight_rows.embed_mlp("conditioner/resolution", "adaln_single.emb.resolution_embedder"),
    *weight_rows.embed_mlp("conditioner/aspect_ratio", "adaln_single.emb.aspect_ratio_embedder"),
    *weight_rows.modulation("modulation", "adaln_single.linear"),
    *weight_rows.embed_mlp("caption", "caption_projection"),
    Weight("blocks/{i}/modulation/table", BLOCK + "scale_shift_table"),
    *weight_rows.attention("blocks/{i}/mixer", BLOCK + "attn1."),
    *weight_rows.attention("blocks/{i}/cross", BLOCK + "attn2."),
    *affine("blocks/{i}/ffn/{p}_up", BLOCK + "ff.net.0.proj"),
    *affine("blocks/{i}/ffn/{p}_down", BLOCK + "ff.net.2"),
    Weight("final_norm/modulation/table", "scale_shift_table"),
)


def read_config(reader: ConfigReader) -> PixArt:
    reader.expect("norm_type", "ada_norm_single")
    reader.expect("norm_elementwise_affine", False)
    reader.expect("activation_fn", *parts.ACTIVATIONS)
    reader.expect("attention_type", "default")
    num_heads = reader.positive_or("num_attention_heads", 16)
    head_dim = reader.positive_or("attention_head_dim", 72)
    d_model, caption = num_heads * head_dim, reader.count("caption_channels")
    if caption is None:
        raise ConfigError(f"{reader.name}: key 'caption_channels' is missing; expected a whole number >= 1")
    if reader.positive_or("cross_attention_dim", 1152) != d_model:
        raise ConfigError(
            f"{reader.name}: key 'cross_attention_dim' must equal num_attention_heads * attention_head_dim = "
            f"{d_model}, got {reader.values.get('cross_attention_dim', 1152)}"
        )
    bias = reader.flag("attention_bias", True)
    attention = replace(parts.plain_attention(num_heads, head_dim), qkv_bias=bias)
    activation = parts.ACTIVATIONS[reader.take_or("activation_fn", str, "gelu-approximate")]
    norm = parts.bare_norm(d_model, reader.epsilon("norm_eps", 1e-6))
    block = CrossBlock(
        mixer_norm=norm,
        mixer=attention,
        cross=CrossAttention(attention=attention, d_context=d_model),
        ffn_norm=norm,
        ffn=MLP(d_model=d_model, d_ff=4 * d_model, activation=activation),
        modulation=TableModulation(d_model=d_model, d_condition=6 * d_model),
    )
    sample_size, in_channels = reader.positive_or("sample_size", 128), reader.positive_or("in_channels", 4)
    told = reader.flag("use_additional_conditions", sample_size == 128)
    return PixArt(
        sample_size=sample_size,
        interpolation_scale=reader.factor("interpolation_scale", max(sample_size // 64, 1.0)),
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 2),
            in_channels=in_channels,
            # null is as many as come in, absent are the eight of the published models
            out_channels=reader.nullable("out_channels", int, 8) or in_channels,
        ),
        blocks=(block,) * reader.positive_or("num_layers", 28),
        conditioner=TextConditioner(
            time=TimestepEmbedding(d_model=d_model),
            sizes=TimestepEmbedding(d_model=d_model // 3) if told else None,
        ),
        modulation=ProjectedModulation(d_model=d_model, d_condition=d_model),
        caption_width=caption,
        final_norm=parts.table_norm(d_model),
        family=FAMILY.model_type,
    )


def write_config(config: PixArt) -> dict[str, Any]:
    block = config.blocks[0]
    attention, ffn, norm = block.mixer, block.ffn, block.mixer_norm
    assert isinstance(attention, Attention) and isinstance(ffn, MLP) and isinstance(norm, LayerNorm)
    return {
        "_class_name": FAMILY.model_type,
        "activation_fn": parts.activation_name(ffn.activation),
        "attention_bias": attention.qkv_bias,
        "attention_head_dim": attention.head_dim,
        "attention_type": "default",
        "caption_channels": config.caption_width,
        "cross_attention_dim": block.cross.d_context,
        "in_channels": config.projections.in_channels,
        "interpolation_scale": config.interpolation_scale,
        "norm_elementwise_affine": False,
        "norm_eps": norm.eps,
        "norm_type": "ada_norm_single",
        "num_attention_heads": attention.num_heads,
        "num_layers": len(config.blocks),
        "out_channels": config.projections.out_channels,
        "patch_size": config.projections.patch,
        "sample_size": config.sample_size,
        "use_additional_conditions": config.conditioner.sizes is not None,
    }


# The steps of a schedule are no part of a forward pass, nor are the settings of other kinds of block.
FAMILY = Family(
    model_type="PixArtTransformer2DModel",
    summary="PixArt-alpha and PixArt-Sigma",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    inert=("norm_num_groups", "num_embeds_ada_norm", "upcast_attention", *parts.OLDER_KEYS),
)
