"""Vector-quantised autoencoders as `diffusers` stores them (`VQModel`)."""

from typing import Any

from jaxmodels.models.autoencoders import weight_rows
from jaxmodels.models.autoencoders.stages import Shape
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

# Whether a stage's blocks attend, by the names that `diffusers` has for the two halves' stages.
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}

# How pipelines call the model and scale its latents, not what it computes.
NOTES = ("force_upcast", "lookup_from_codebook", "scaling_factor")


def read_config(reader: ConfigReader) -> VQModel:
    reader.expect("norm_type", "group")
    channels = reader.take_or("block_out_channels", list, [64])
    stages = len(channels)
    down = reader.pattern("down_block_types", DOWN, stages, ["DownEncoderBlock2D"] * stages)
    up = reader.pattern("up_block_types", UP, stages, ["UpDecoderBlock2D"] * stages)
    attends = tuple(DOWN[name] for name in down)
    if attends != tuple(UP[name] for name in reversed(up)):
        raise ConfigError(
            f"{reader.name}: up_block_types must be those of down_block_types in reverse, got {up} and {down}"
        )
    image, latent = reader.positive_or("in_channels", 3), reader.positive_or("latent_channels", 3)
    if reader.positive_or("out_channels", 3) != image:
        raise ConfigError(f"{reader.name}: key 'out_channels' must equal 'in_channels' = {image}")
    reader.consume(*NOTES)
    return VQModel(
        image_channels=image,
        shape=Shape(
            channels=reader.counts("block_out_channels", tuple(channels)),
            blocks_per_stage=reader.positive_or("layers_per_block", 1),
            attends=attends,
            middle_attends=reader.flag("mid_block_add_attention", True),
            num_groups=reader.positive_or("norm_num_groups", 32),
            activation=reader.take_or("act_fn", str, "silu"),
        ),
        latent_channels=latent,
        num_codes=reader.positive_or("num_vq_embeddings", 256),
        code_width=reader.positive_or("vq_embed_dim", latent),
        sample_size=reader.positive_or("sample_size", 32),
        family=FAMILY.model_type,
        notes=tuple((key, reader.values[key]) for key in NOTES if key in reader.values),
    )


def write_config(config: VQModel) -> dict[str, Any]:
    shape = config.shape
    return {
        "_class_name": FAMILY.model_type,
        "act_fn": shape.activation,
        "block_out_channels": list(shape.channels),
        "down_block_types": [_name(DOWN, attends) for attends in shape.attends],
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": shape.blocks_per_stage,
        "mid_block_add_attention": shape.middle_attends,
        "norm_num_groups": shape.num_groups,
        "norm_type": "group",
        "num_vq_embeddings": config.num_codes,
        "out_channels": config.image_channels,
        "sample_size": config.sample_size,
        "up_block_types": [_name(UP, attends) for attends in reversed(shape.attends)],
        "vq_embed_dim": config.code_width,
        **dict(config.notes),
    }


def _name(names: dict[str, bool], attends: bool) -> str:
    return next(name for name, value in names.items() if value == attends)


def named_weights(config: VQModel) -> tuple[Weight, ...]:
    return (
        *weight_rows.encoder(config.encoder),
        *affine("to_code/{p}", "quant_conv"),
        Weight("codebook/weight", "quantize.embedding.weight"),
        *affine("from_code/{p}", "post_quant_conv"),
        *weight_rows.decoder(config.decoder),
    )


# Attention had other names before release 0.18, which `diffusers` still reads.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

FAMILY = Family(
    model_type="VQModel",
    summary="VQ autoencoders",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    renamed=tuple((rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.") for old, new in _OLD.items()),
    named_weights=named_weights,
)
