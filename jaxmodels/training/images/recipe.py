"""A training run of an image model as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxmodels.checks import whole
from jaxmodels.training.fitting import Fit
from jaxmodels.training.images.vq import VQObjective
from jaxmodels.training.objectives.maskgit import MaskGIT
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe_kind import RecipeKind


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """Everything that decides a training run: first of an autoencoder, then of a model of its codes.

    Attributes:
        image_size: height and width of the digits, a multiple of 8.
        autoencoder: the ``config.json`` of an autoencoder.
        transformer: the Hugging Face ``config.json`` of a model that fills masks. Its vocabulary is the
            codes, the ten classes and the mask token.
        fit_autoencoder, fit_transformer: how each is fitted.
        codebook: the autoencoder's objective.
        masking: the transformer's objective.
        shift: images are also moved by up to so many pixels in both directions.
        revive_every: steps between two looks for codes that no image has, over the first four fifths of the
            autoencoder's run.
        seed: of the initial parameters, the order of the images and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    image_size: int
    autoencoder: Mapping[str, Any]
    transformer: Mapping[str, Any]
    fit_autoencoder: Fit
    fit_transformer: Fit
    codebook: VQObjective = field(default_factory=VQObjective)
    masking: MaskGIT = field(default_factory=MaskGIT)
    shift: int = 1
    revive_every: int = 50
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("image_size", "revive_every", "log_every", "checkpoint_every"):
            whole(f"ImageRecipe: {name}", getattr(self, name), low=1)
        whole("ImageRecipe: shift", self.shift)
        whole("ImageRecipe: seed", self.seed, high=2**63 - 1)


IMAGE_RECIPES = RecipeKind(
    cls=ImageRecipe,
    mark="autoencoder",
    package="jaxmodels.training.images",
    parts={
        ImageRecipe: {
            "fit_autoencoder": Fit,
            "fit_transformer": Fit,
            "codebook": VQObjective,
            "masking": MaskGIT,
        },
        Fit: {"schedule": WarmupCosine, "optimizer": AdamW},
    },
)
