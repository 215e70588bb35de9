"""The registry of pipelines: one module for each, listed here."""

from collections.abc import Mapping

from jaxmodels.checkpoints.pipelines import Pipeline
from jaxmodels.image_models.pipelines import dit, flux, hidream, maskgit, pixart, sana, sd3, tarflow, var

PIPELINES: Mapping[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        dit.DDT,
        dit.DIT,
        dit.FLOW_MAP,
        flux.PIPELINE,
        hidream.PIPELINE,
        maskgit.PIPELINE,
        pixart.ALPHA,
        pixart.SIGMA,
        sana.PIPELINE,
        sd3.PIPELINE,
        tarflow.PIPELINE,
        var.PIPELINE,
    )
}
