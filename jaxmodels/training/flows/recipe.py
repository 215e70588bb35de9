"""A training run of a flow as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxmodels.checks import whole
from jaxmodels.training.fitting import Fit
from jaxmodels.training.flows.objective import LikelihoodObjective
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe_kind import RecipeKind


@dataclass(frozen=True, kw_only=True)
class FlowRecipe:
    """Everything that decides a training run.

    Attributes:
        flow: the ``config.json`` of a flow of digits, whose size is a multiple of 8, with ten classes.
        fit: how it is fitted.
        likelihood: its objective.
        shift: images are also moved by up to so many pixels in both directions.
        seed: of the initial parameters, the order of the images and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    flow: Mapping[str, Any]
    fit: Fit
    likelihood: LikelihoodObjective = field(default_factory=LikelihoodObjective)
    shift: int = 1
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every"):
            whole(f"FlowRecipe: {name}", getattr(self, name), low=1)
        whole("FlowRecipe: shift", self.shift)
        whole("FlowRecipe: seed", self.seed, high=2**63 - 1)


FLOW_RECIPES = RecipeKind(
    cls=FlowRecipe,
    mark="flow",
    package="jaxmodels.training.flows",
    parts={
        FlowRecipe: {"fit": Fit, "likelihood": LikelihoodObjective},
        Fit: {"schedule": WarmupCosine, "optimizer": AdamW},
    },
)
