"""The registry of next-scale models: one module for each class whose files are read, listed here."""

from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.next_scale.families import mvar, var
from jaxmodels.models.next_scale.var import VAR

NEXT_SCALE_MODELS = ClassRegistry[VAR]("next-scale models", own=(var.FAMILY, mvar.FAMILY))
