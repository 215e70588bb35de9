"""The registry of models of codes: one module for each class whose files are read, listed here."""

from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.token_images.families import amused
from jaxmodels.models.token_images.uvit import UVit2D

TOKEN_IMAGE_MODELS = ClassRegistry[UVit2D]("models of codes", (amused.FAMILY,))
