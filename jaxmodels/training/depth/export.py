"""A trained policy of depth as a directory that `jaxmodels.load_depth` reads."""

from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.checkpoints.depth_policies import save_depth
from jaxmodels.training.depth.run import DepthRun
from jaxmodels.training.images.export import rounded


def export_depth(run: DepthRun, destination: str | Path, dtype: DTypeLike = "bfloat16") -> Any:
    """Writes a run's policy, and gives it.

    Args:
        run: as `train_depth` gives it.
        destination: the directory.
        dtype: of the parameters.

    Raises:
        CheckpointError: the directory cannot be written.
        ValueError: `dtype` is none that parameters can have.
    """
    training = run.recipe.depth_policy
    params = rounded(training.spec(run.model), run.params, floating_dtype("dtype", dtype))
    policy = training.policy(run.model, params)
    save_depth(policy, destination, run.model)
    return policy
