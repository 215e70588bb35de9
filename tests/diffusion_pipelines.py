"""Pipelines of diffusers, tiny, with random weights: whole directories, and the images that they give."""

import json

import diffusers
import numpy as np
import torch
from diffusers_modules import randomised
from safetensors.numpy import load_file

# Pipelines report the steps of every call on standard error otherwise.
diffusers.utils.logging.set_verbosity_error()

HEADS = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
STAGES = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}


def autoencoder(**options):
    """Of images twice as high and wide as its latents."""
    return randomised(diffusers.AutoencoderKL(**{**STAGES, "latent_channels": 4, **options}), seed=1)


def dit(scheduler=None, **options):
    """Of a thousand classes, since the pipeline takes class 1000 for none whatever the model."""
    transformer = diffusers.DiTTransformer2DModel(
        **{**HEADS, "in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 1000, **options}
    )
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.DiTPipeline(randomised(transformer), autoencoder(), scheduler)


def pixart(scheduler=None, t5=None, tokenizer=None, features=10, **options):
    """Of texts with so many features, without text encoder by default."""
    transformer = diffusers.PixArtTransformer2DModel(
        **{
            **HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "caption_channels": features,
            "cross_attention_dim": 24,
            **options,
        }
    )
    return diffusers.PixArtAlphaPipeline(
        tokenizer,
        t5,
        autoencoder(),
        randomised(transformer),
        scheduler or diffusers.DPMSolverMultistepScheduler(),
    )


def texts(batch, features, length=7, seed=0):
    """f32[batch, length, features], and which tokens are real: the first few of each."""
    rng = np.random.default_rng(seed)
    seen = np.arange(length) < rng.integers(2, length, (batch, 1))
    return rng.standard_normal((batch, length, features)).astype(np.float32), seen


def noise(batch, height, width, channels, seed=0):
    """f32[batch, height, width, channels]."""
    return np.random.default_rng(seed).standard_normal((batch, height, width, channels)).astype(np.float32)


def channels_first(array):
    """As diffusers has canvases."""
    return torch.tensor(np.moveaxis(array, -1, 1))


def assert_written_alike(directory, again):
    """Every tensor, and every setting that was not left at None, is in both directories."""
    files = {file.relative_to(directory) for file in directory.rglob("*") if file.is_file()}
    for file in files:
        if file.suffix == ".safetensors":
            before, after = (load_file(root / file) for root in (directory, again))
            assert before.keys() == after.keys()
            for name, tensor in before.items():
                np.testing.assert_array_equal(after[name], tensor)
        elif file.name in ("config.json", "scheduler_config.json", "model_index.json"):
            before, after = (json.loads((root / file).read_text()) for root in (directory, again))
            kept = {key: value for key, value in before.items() if value is not None and key in after}
            assert {key: after[key] for key in kept} == kept
            assert before.get("_class_name") == after.get("_class_name")
