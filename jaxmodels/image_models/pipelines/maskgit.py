"""A model that fills in codes, and the autoencoder of those."""

from jaxmodels.checkpoints.components import AUTOENCODER, DECODER, Part
from jaxmodels.checkpoints.pipelines import Parts, Pipeline
from jaxmodels.image_models.masked import PIPELINE_NAME, MaskedImageModel


def build(parts: Parts) -> MaskedImageModel:
    model, autoencoder = parts.components["transformer"], parts.components["vqvae"]
    return MaskedImageModel(
        model=model, autoencoder=autoencoder.config, autoencoder_params=autoencoder.params
    )


def take_apart(model: MaskedImageModel) -> Parts:
    autoencoder = Part(model.autoencoder, model.autoencoder_params)
    return Parts(components={"transformer": model.model, "vqvae": autoencoder})


PIPELINE = Pipeline(
    name=PIPELINE_NAME,
    components={"transformer": DECODER, "vqvae": AUTOENCODER},
    build=build,
    take_apart=take_apart,
)
