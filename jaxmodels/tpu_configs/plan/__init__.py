"""Planning: what a model takes on a TPU slice and how fast it can be, before one is rented."""

from jaxmodels.tpu_configs.plan.planning import Memory, Plan, meshes, plan
from jaxmodels.tpu_configs.plan.roofline import Roofline

__all__ = ["Memory", "Plan", "Roofline", "meshes", "plan"]
