"""The registry of denoisers: one module for each class whose files are read, listed here."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.families import (
    ddt,
    dit_diffusers,
    dit_official,
    flux,
    hidream,
    pixart,
    sana,
    sd3,
    uvit,
    z_image,
)

DENOISERS = ClassRegistry[Denoiser](
    "denoisers",
    (
        dit_diffusers.FAMILY,
        flux.FAMILY,
        hidream.FAMILY,
        pixart.FAMILY,
        sana.FAMILY,
        sd3.FAMILY,
        z_image.FAMILY,
    ),
    own=(ddt.FAMILY, dit_official.FAMILY, dit_official.SIT, dit_official.FLOW_MAP, uvit.FAMILY),
    split={
        "Transformer2DModel": (
            "norm_type",
            {
                "ada_norm_zero": dit_diffusers.FAMILY.model_type,
                "ada_norm_single": pixart.FAMILY.model_type,
            },
        )
    },
)


def denoiser_from_config(values: Mapping[str, Any]) -> Denoiser:
    """See `ClassRegistry.read`."""
    return DENOISERS.read(values)


def denoiser_to_config(config: Denoiser) -> dict[str, Any]:
    """See `ClassRegistry.write`."""
    return DENOISERS.write(config)
