"""Tiny next-scale models: their configurations as published, and what is made of them."""

import jax.numpy as jnp
import numpy as np
import torch
from model_helpers import random_params
from safetensors.torch import load_file

from jaxmodels.checkpoints.registered import STEM
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS

SIDES = (1, 2, 3, 4)
VQVAE = {
    "_class_name": "VQVAE",
    "in_channels": 1,
    "ch": 4,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "num_groups": 2,
    "vocab_size": 12,
    "z_channels": 6,
    "v_patch_nums": list(SIDES),
    "share_quant_resi": 4,
}
HEADS = 3
VAR = {
    "_class_name": "VAR",
    "V": 12,
    "Cvae": 6,
    "patch_nums": list(SIDES),
    "num_classes": 5,
    "depth": 2,
    "embed_dim": 24,
    "num_heads": HEADS,
    "attn_l2_norm": True,
}
# Mamba-2 has heads of 64 in it.
MVAR = VAR | {"_class_name": "MVAR", "embed_dim": 64, "num_heads": 4}


def codes_model(seed=0, **changes):
    """The autoencoder and random parameters; its codes are far enough apart."""
    config = AUTOENCODERS.read(VQVAE | changes)
    params = random_params(config.spec(), seed)
    params["codebook"]["weight"] = params["codebook"]["weight"] * 2
    return config, params


def scale_model(seed=0, published=VAR, **changes):
    """The network and random parameters, without a bias of keys as published."""
    config = NEXT_SCALE_MODELS.read(published | changes)
    params = random_params(config.spec(), seed)
    for block in params["blocks"].values():
        block["mixer"]["b_k"] = jnp.zeros_like(block["mixer"]["b_k"])
    return config, params


def published(save, config, params, directory):
    """The model's tensors in torch, as it is written."""
    save(config, params, directory)
    return load_file(directory / f"{STEM}.safetensors")


def as_torch(array):
    """Images or latents, channels last, as torch has them."""
    return torch.tensor(np.asarray(array)).permute(0, 3, 1, 2)
