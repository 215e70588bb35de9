"""A small model of masked codes with random weights."""

import jax

import jaxmodels as jm
from jaxmodels.image_models.masked import MaskedImageModel
from jaxmodels.layers.spec import init_params
from jaxmodels.models.autoencoders.families import AUTOENCODERS

AUTOENCODER = {
    "_class_name": "VQModel",
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "num_vq_embeddings": 12,
    "vq_embed_dim": 4,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
    "sample_size": 8,
}
# Twelve codes, ten classes and the mask token; a class and 4 x 4 codes.
TRANSFORMER = {
    "model_type": "maskgit",
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 17,
    "mask_token_id": 22,
}


def image_model(seed=0, autoencoder=AUTOENCODER, transformer=TRANSFORMER):
    """Images of 8 x 8 pixels and 4 x 4 codes."""
    parts = AUTOENCODERS.read(autoencoder)
    return MaskedImageModel(
        model=jm.init(jm.config_from_hf(transformer), seed=seed),
        autoencoder=parts,
        autoencoder_params=init_params(parts.spec(), jax.random.key(seed)),
    )
