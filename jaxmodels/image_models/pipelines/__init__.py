"""The registry of pipelines: one module for each, listed here."""

from collections.abc import Mapping

from jaxmodels.checkpoints.pipelines import Pipeline
from jaxmodels.image_models.pipelines import maskgit, tarflow, var

PIPELINES: Mapping[str, Pipeline] = {
    pipeline.name: pipeline for pipeline in (maskgit.PIPELINE, tarflow.PIPELINE, var.PIPELINE)
}
