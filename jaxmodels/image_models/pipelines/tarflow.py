"""A flow between images and noise; the published files have no index."""

from jaxmodels.checkpoints.components import FLOW, Part
from jaxmodels.checkpoints.pipelines import Parts, Pipeline
from jaxmodels.image_models.flow import PIPELINE_NAME, FlowImageModel


def build(parts: Parts) -> FlowImageModel:
    flow = parts.components["flow"]
    return FlowImageModel(flow=flow.config, params=flow.params)


def take_apart(model: FlowImageModel) -> Parts:
    return Parts(components={"flow": Part(model.flow, model.params)})


PIPELINE = Pipeline(name=PIPELINE_NAME, components={"flow": FLOW}, build=build, take_apart=take_apart)
