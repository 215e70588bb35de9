"""The registry of models of codes: one module for each class whose files are read, listed here."""

from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.token_images.families import amused, mage, mar
from jaxmodels.models.token_images.mage import MAGE
from jaxmodels.models.token_images.mar import MAR
from jaxmodels.models.token_images.uvit import UVit2D

TOKEN_IMAGE_MODELS = ClassRegistry[UVit2D | MAGE | MAR](
    "models of codes", (amused.FAMILY,), own=(mage.FAMILY, mar.FAMILY)
)
