"""Autoencoders of latent diffusion as `diffusers` stores them (`AutoencoderKL`)."""

from typing import Any

from jaxmodels.models.autoencoders import weight_rows
from jaxmodels.models.autoencoders.families.conv_keys import (
    RENAMED,
    read_image_channels,
    read_shape,
    write_shape,
)
from jaxmodels.models.autoencoders.kl import AutoencoderKL
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader

# How pipelines call the model, not what it computes.
NOTES = ("force_upcast",)


def read_config(reader: ConfigReader) -> AutoencoderKL:
    # Scales of each channel, which only pipelines that are not read here apply.
    for key in ("latents_mean", "latents_std"):
        reader.expect(key, None)
    reader.consume(*NOTES)
    return AutoencoderKL(
        image_channels=read_image_channels(reader),
        shape=read_shape(reader),
        latent_channels=reader.positive_or("latent_channels", 4),
        projects_code=reader.flag("use_quant_conv", True),
        projects_latents=reader.flag("use_post_quant_conv", True),
        scaling_factor=reader.factor("scaling_factor", 0.18215),
        shift_factor=reader.nullable("shift_factor", float, None),
        sample_size=reader.positive_or("sample_size", 32),
        family=FAMILY.model_type,
        notes=tuple((key, reader.values[key]) for key in NOTES if key in reader.values),
    )


def write_config(config: AutoencoderKL) -> dict[str, Any]:
    return {
        "_class_name": FAMILY.model_type,
        **write_shape(config.shape),
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "out_channels": config.image_channels,
        "sample_size": config.sample_size,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor,
        "use_post_quant_conv": config.projects_latents,
        "use_quant_conv": config.projects_code,
        **dict(config.notes),
    }


def named_weights(config: AutoencoderKL) -> tuple[Weight, ...]:
    return (
        *weight_rows.encoder(config.encoder),
        *affine("to_code/{p}", "quant_conv"),
        *affine("from_code/{p}", "post_quant_conv"),
        *weight_rows.decoder(config.decoder),
    )


FAMILY = Family(
    model_type="AutoencoderKL",
    summary="the autoencoders of latent diffusion",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    renamed=RENAMED,
    named_weights=named_weights,
)
