"""Vector-quantised autoencoders as `diffusers` stores them (`VQModel`)."""

from typing import Any

from jaxmodels.models.autoencoders import weight_rows
from jaxmodels.models.autoencoders.families.conv_keys import (
    RENAMED,
    read_image_channels,
    read_shape,
    write_shape,
)
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader

# How pipelines call the model and scale its latents, not what it computes.
NOTES = ("force_upcast", "lookup_from_codebook", "scaling_factor")


def read_config(reader: ConfigReader) -> VQModel:
    reader.expect("norm_type", "group")
    shape, latent = read_shape(reader), reader.positive_or("latent_channels", 3)
    reader.consume(*NOTES)
    return VQModel(
        image_channels=read_image_channels(reader),
        shape=shape,
        latent_channels=latent,
        num_codes=reader.positive_or("num_vq_embeddings", 256),
        code_width=reader.positive_or("vq_embed_dim", latent),
        sample_size=reader.positive_or("sample_size", 32),
        family=FAMILY.model_type,
        notes=tuple((key, reader.values[key]) for key in NOTES if key in reader.values),
    )


def write_config(config: VQModel) -> dict[str, Any]:
    return {
        "_class_name": FAMILY.model_type,
        **write_shape(config.shape),
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "norm_type": "group",
        "num_vq_embeddings": config.num_codes,
        "out_channels": config.image_channels,
        "sample_size": config.sample_size,
        "vq_embed_dim": config.code_width,
        **dict(config.notes),
    }


def named_weights(config: VQModel) -> tuple[Weight, ...]:
    return (
        *weight_rows.encoder(config.encoder),
        *affine("to_code/{p}", "quant_conv"),
        Weight("codebook/weight", "quantize.embedding.weight"),
        *affine("from_code/{p}", "post_quant_conv"),
        *weight_rows.decoder(config.decoder),
    )


FAMILY = Family(
    model_type="VQModel",
    summary="VQ autoencoders",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    renamed=RENAMED,
    named_weights=named_weights,
)
