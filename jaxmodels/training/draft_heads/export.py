"""A trained draft head as a directory that `load_drafter` or `load_draft_length` reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.checkpoints.draft_heads import save_draft_length, save_drafter
from jaxmodels.decoding.lengths.predicted_acceptance import PredictedAcceptance
from jaxmodels.training.draft_heads.run import DraftHeadRun
from jaxmodels.training.images.export import rounded


def export_draft_head(run: DraftHeadRun, destination: str | Path, dtype: DTypeLike = "bfloat16") -> Any:
    """Writes a run's head in the form that its kind is published in, and gives what drafts with it.

    Args:
        run: as `train_draft_head` gives it.
        destination: the directory.
        dtype: of the parameters.

    Raises:
        CheckpointError: the directory cannot be written.
        ValueError: `dtype` is none that parameters can have.
    """
    params = rounded(run.pupil.head.spec(), run.pupil.params, floating_dtype("dtype", dtype))
    drafter = run.recipe.head.drafter(replace(run.pupil, params=params))
    save = save_draft_length if isinstance(drafter, PredictedAcceptance) else save_drafter
    save(drafter, destination)
    return drafter
