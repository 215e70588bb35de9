"""A training run of a denoiser as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.training.denoisers.alpha_flow import AlphaFlow
from jaxmodels.training.denoisers.flow_maps import FlowMapDraws
from jaxmodels.training.denoisers.flow_matching import FlowMatching
from jaxmodels.training.denoisers.mean_flow import MeanFlow
from jaxmodels.training.denoisers.noise_prediction import NoisePrediction
from jaxmodels.training.denoisers.objective import DenoisingObjective
from jaxmodels.training.denoisers.shortcut import Shortcut
from jaxmodels.training.fitting import Fit
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe_kind import RecipeKind

OBJECTIVES: Mapping[str, type] = {
    "noise_prediction": NoisePrediction,
    "flow_matching": FlowMatching,
    "shortcut": Shortcut,
    "mean_flow": MeanFlow,
    "alpha_flow": AlphaFlow,
}


@dataclass(frozen=True, kw_only=True)
class DenoiserRecipe:
    """Everything that decides the training of a denoiser of pixels.

    Attributes:
        image_size: height and width of the digits, a multiple of 8.
        denoiser: the ``config.json`` of a class-conditional denoiser.
        objective: what it is trained for; in JSON it carries a `kind`, one of `OBJECTIVES`.
        fit: how it is fitted.
        guidance: the scale that the model draws with where none is asked for.
        shift: images are also moved by up to so many pixels in both directions.
        seed: of the initial parameters, the order of the images and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    image_size: int
    denoiser: Mapping[str, Any]
    objective: DenoisingObjective
    fit: Fit
    guidance: float = 1.0
    shift: int = 1
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("image_size", "log_every", "checkpoint_every"):
            whole(f"DenoiserRecipe: {name}", getattr(self, name), low=1)
        number("DenoiserRecipe: guidance", self.guidance, low=0)
        whole("DenoiserRecipe: shift", self.shift)
        whole("DenoiserRecipe: seed", self.seed, high=2**63 - 1)


DENOISER_RECIPES = RecipeKind(
    cls=DenoiserRecipe,
    mark="denoiser",
    package="jaxmodels.training.denoisers",
    parts={
        DenoiserRecipe: {"objective": OBJECTIVES, "fit": Fit},
        Fit: {"schedule": WarmupCosine, "optimizer": AdamW},
        NoisePrediction: {"betas": Betas},
        MeanFlow: {"draws": FlowMapDraws},
        AlphaFlow: {"draws": FlowMapDraws},
    },
)
