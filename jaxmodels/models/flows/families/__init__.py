"""The registry of flows: one module for each class whose files are read, listed here."""

from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.flows.families import tarflow
from jaxmodels.models.flows.tarflow import TarFlow

FLOWS = ClassRegistry[TarFlow]("flows", own=(tarflow.FAMILY,))
