"""A training run of a next-scale model as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxmodels.checks import whole
from jaxmodels.training.fitting import Fit
from jaxmodels.training.next_scale.objectives import CodesObjective, PyramidObjective
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe_kind import RecipeKind


@dataclass(frozen=True, kw_only=True)
class NextScaleRecipe:
    """Everything that decides a training run: first of an autoencoder, then of a model of its codes.

    Attributes:
        vqvae: the ``config.json`` of an autoencoder of several scales, whose images are digits of a size that
            is a multiple of 8.
        var: the ``config.json`` of a next-scale model of its codes, with ten classes.
        fit_vqvae, fit_var: how each is fitted.
        codebook: the autoencoder's objective.
        codes: the other model's.
        shift: images are also moved by up to so many pixels in both directions.
        revive_every: steps between two looks for codes that no image has, over the first four fifths of the
            autoencoder's run.
        seed: of the initial parameters, the order of the images and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    vqvae: Mapping[str, Any]
    var: Mapping[str, Any]
    fit_vqvae: Fit
    fit_var: Fit
    codebook: PyramidObjective = field(default_factory=PyramidObjective)
    codes: CodesObjective = field(default_factory=CodesObjective)
    shift: int = 1
    revive_every: int = 50
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("revive_every", "log_every", "checkpoint_every"):
            whole(f"NextScaleRecipe: {name}", getattr(self, name), low=1)
        whole("NextScaleRecipe: shift", self.shift)
        whole("NextScaleRecipe: seed", self.seed, high=2**63 - 1)


NEXT_SCALE_RECIPES = RecipeKind(
    cls=NextScaleRecipe,
    mark="var",
    package="jaxmodels.training.next_scale",
    parts={
        NextScaleRecipe: {
            "fit_vqvae": Fit,
            "fit_var": Fit,
            "codebook": PyramidObjective,
            "codes": CodesObjective,
        },
        Fit: {"schedule": WarmupCosine, "optimizer": AdamW},
    },
)
