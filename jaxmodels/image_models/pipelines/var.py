"""A model that draws codes scale by scale, and their autoencoder; the published files have no index."""

from jaxmodels.checkpoints.components import AUTOENCODER, NEXT_SCALE, Part
from jaxmodels.checkpoints.pipelines import Parts, Pipeline
from jaxmodels.image_models.next_scale import PIPELINE_NAME, NextScaleImageModel


def build(parts: Parts) -> NextScaleImageModel:
    model, autoencoder = parts.components["var"], parts.components["vae"]
    return NextScaleImageModel(
        model=model.config,
        params=model.params,
        autoencoder=autoencoder.config,
        autoencoder_params=autoencoder.params,
    )


def take_apart(model: NextScaleImageModel) -> Parts:
    components = {
        "var": Part(model.model, model.params),
        "vae": Part(model.autoencoder, model.autoencoder_params),
    }
    return Parts(components=components)


PIPELINE = Pipeline(
    name=PIPELINE_NAME,
    components={"var": NEXT_SCALE, "vae": AUTOENCODER},
    build=build,
    take_apart=take_apart,
)
