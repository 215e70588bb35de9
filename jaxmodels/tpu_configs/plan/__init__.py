"""Planning: what a model takes on a TPU slice and how fast it can be, before one is rented."""

from jaxmodels.tpu_configs.plan.planning import Memory, Plan, meshes, plan
from jaxmodels.tpu_configs.plan.roofline import Roofline
from jaxmodels.tpu_configs.plan.working import Beside

__all__ = ["Beside", "Memory", "Plan", "Roofline", "meshes", "plan"]
