"""The registry of autoencoders: one module for each class whose files are read, listed here."""

from typing import Any

from jaxmodels.models.autoencoders.families import dc_diffusers, kl_diffusers, vq_diffusers, vqvae_var
from jaxmodels.models.class_registry import ClassRegistry

AUTOENCODERS = ClassRegistry[Any](
    "autoencoders",
    (dc_diffusers.FAMILY, kl_diffusers.FAMILY, vq_diffusers.FAMILY),
    own=(vqvae_var.FAMILY,),
)
