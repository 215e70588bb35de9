"""A model that fills in codes, and the autoencoder of those."""

from jaxmodels.checkpoints.components import AUTOENCODER, Component, Part
from jaxmodels.checkpoints.huggingface import read_config
from jaxmodels.checkpoints.pipelines import Parts, Pipeline
from jaxmodels.image_models.masked import PIPELINE_NAME, MaskedImageModel
from jaxmodels.model import Model

# In the layout of its family, as language models are.
DECODER = Component(
    read=lambda folder, reading: reading.load(folder),
    outline=lambda folder: Model(config=read_config(folder)[0], params={}),
    write=lambda model, folder, writing: writing.save(model, folder),
    name=lambda model: ("jaxmodels", "Decoder"),
    draws=True,
)


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
