"""A training run of a draft head as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxmodels.checks import whole
from jaxmodels.training.draft_heads.acceptance import AcceptanceTraining
from jaxmodels.training.draft_heads.aurora import AuroraTraining
from jaxmodels.training.draft_heads.dflash import DFlashTraining
from jaxmodels.training.draft_heads.eagle3 import Eagle3Training
from jaxmodels.training.draft_heads.medusa import MedusaTraining
from jaxmodels.training.draft_heads.mtp import MTPTraining
from jaxmodels.training.draft_heads.objective import HeadObjective
from jaxmodels.training.draft_heads.peagle import PEagleTraining
from jaxmodels.training.fitting import FIT_PARTS, Fit, check_fitted_to_text
from jaxmodels.training.recipe_kind import RecipeKind

OBJECTIVES: Mapping[str, type] = {
    "acceptance": AcceptanceTraining,
    "aurora": AuroraTraining,
    "dflash": DFlashTraining,
    "eagle3": Eagle3Training,
    "medusa": MedusaTraining,
    "mtp": MTPTraining,
    "peagle": PEagleTraining,
}


@dataclass(frozen=True, kw_only=True)
class DraftHeadRecipe:
    """Everything that decides the training of a draft head.

    Attributes:
        target: a model directory or bundled name: what the head drafts for. It is not trained.
        head: the head and how it is trained; in JSON it carries a `kind`, one of `OBJECTIVES`.
        train_files, held_out_files: see `Recipe`; for `AuroraTraining` files of `save_traces`.
        fit: how it is fitted.
        start_from: a directory or bundled name of a draft head for this target, which is trained on with the
            tokens that it knows; None for one that knows nothing yet.
        sequence_length: tokens per window.
        evaluation_windows: held-out windows that are scored at the end.
        seed: of the initial parameters, the order of the windows and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    target: str
    head: HeadObjective
    train_files: tuple[str, ...]
    held_out_files: tuple[str, ...]
    fit: Fit
    start_from: str | None = None
    sequence_length: int = 256
    evaluation_windows: int = 64
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        whole("DraftHeadRecipe: sequence_length", self.sequence_length, low=2)
        check_fitted_to_text(self)

    @property
    def option(self) -> str:
        """That of `jaxmodels generate` which takes what is trained."""
        return "--acceptance-head" if isinstance(self.head, AcceptanceTraining) else "--draft"


DRAFT_HEAD_RECIPES = RecipeKind(
    cls=DraftHeadRecipe,
    mark="target",
    package="jaxmodels.training.draft_heads",
    parts={
        DraftHeadRecipe: {"head": OBJECTIVES, "fit": Fit},
        AuroraTraining: {"of": {name: OBJECTIVES[name] for name in ("eagle3", "medusa", "mtp")}},
        Fit: FIT_PARTS,
    },
)
