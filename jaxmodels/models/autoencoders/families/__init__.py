"""The registry of autoencoders: one module for each class whose files are read, listed here."""

from jaxmodels.models.autoencoders.families import vq_diffusers
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.models.class_registry import ClassRegistry

AUTOENCODERS = ClassRegistry[VQModel]("autoencoders", (vq_diffusers.FAMILY,))
