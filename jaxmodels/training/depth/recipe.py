"""A training run of a policy of depth as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxmodels.checks import whole
from jaxmodels.training.depth.duo import DuoTraining
from jaxmodels.training.depth.exits import CLASSIFIERS, ExitTraining
from jaxmodels.training.depth.informed_routing import InformedRoutingTraining
from jaxmodels.training.depth.lora_drop import LoRADropTraining
from jaxmodels.training.depth.mind_skip import MindSkipTraining
from jaxmodels.training.depth.objective import PolicyTraining
from jaxmodels.training.depth.plan_search import PlanSearch
from jaxmodels.training.depth.prompt_router import PromptRouterTraining
from jaxmodels.training.fitting import FIT_PARTS, Fit, check_fitted_to_text
from jaxmodels.training.recipe_kind import RecipeKind

POLICIES: Mapping[str, type] = {
    "duo": DuoTraining,
    "exits": ExitTraining,
    "informed_routing": InformedRoutingTraining,
    "lora_drop": LoRADropTraining,
    "mind_skip": MindSkipTraining,
    "prompt_router": PromptRouterTraining,
}


@dataclass(frozen=True, kw_only=True)
class DepthRecipe:
    """Everything that decides the training of a policy of depth.

    Attributes:
        target: a model directory or bundled name: what the policy is for. It is not trained.
        depth_policy: the policy and how it is trained; in JSON it carries a `kind`, one of `POLICIES`.
        train_files, held_out_files: see `Recipe`.
        fit: how it is fitted.
        sequence_length: tokens per window.
        prompt: leading tokens of a held-out window that are read at once, as a prompt is.
        evaluation_windows: held-out windows that the trained policy is compared with the model on.
        seed: of the initial parameters, the order of the windows and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    target: str
    depth_policy: PolicyTraining
    train_files: tuple[str, ...]
    held_out_files: tuple[str, ...]
    fit: Fit
    sequence_length: int = 256
    prompt: int = 64
    evaluation_windows: int = 64
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        whole("DepthRecipe: sequence_length", self.sequence_length, low=3)
        whole("DepthRecipe: prompt", self.prompt, low=1, high=self.sequence_length - 2)
        check_fitted_to_text(self)


DEPTH_RECIPES = RecipeKind(
    cls=DepthRecipe,
    mark="depth_policy",
    package="jaxmodels.training.depth",
    parts={
        DepthRecipe: {"depth_policy": POLICIES, "fit": Fit},
        ExitTraining: {"classifier": CLASSIFIERS},
        PromptRouterTraining: {"search": PlanSearch},
        Fit: FIT_PARTS,
    },
)
