"""Small diffusion models with random weights."""

from denoiser_models import CONFIGS
from model_helpers import random_params

from jaxmodels.decoding.diffusion.samplers import DDIM
from jaxmodels.image_models.conditions import Classes
from jaxmodels.image_models.diffusion import DiffusionModel, Habits
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.denoisers.families import DENOISERS

AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "layers_per_block": 1,
    "sample_size": 16,
}


def denoiser_of(name, **changes):
    """A denoiser of `CONFIGS` and its parameters."""
    config = DENOISERS.read({**CONFIGS[name], "_class_name": name, **changes})
    return config, random_params(config.spec())


def dit_model(autoencoder=AUTOENCODER, **options):
    """Images of 16 x 16 pixels of ten classes; without autoencoder of 8 x 8 with 4 channels."""
    denoiser, params = denoiser_of(
        "DiTTransformer2DModel", sample_size=8, out_channels=8, num_embeds_ada_norm=10
    )
    parts = {}
    if autoencoder is not None:
        config = AUTOENCODERS.read(autoencoder)
        made = random_params(config.spec(), seed=1)
        parts = {"autoencoder": config, "autoencoder_params": made}
    given = {
        "pipeline": "DiTPipeline",
        "denoiser": denoiser,
        "params": params,
        "conditions": Classes(num_classes=10),
        "sampler": DDIM(),
        "habits": Habits(steps=4, guidance=3.0),
        "canvas": 8,
    }
    return DiffusionModel(**{**given, **parts, **options})
