"""The registry of pipelines: one module for each, listed here."""

from collections.abc import Mapping

from jaxmodels.checkpoints.pipelines import Pipeline
from jaxmodels.image_models.pipelines import dit, maskgit, pixart, sana, tarflow, var

PIPELINES: Mapping[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        dit.DDT,
        dit.DIT,
        maskgit.PIPELINE,
        pixart.ALPHA,
        pixart.SIGMA,
        sana.PIPELINE,
        tarflow.PIPELINE,
        var.PIPELINE,
    )
}
