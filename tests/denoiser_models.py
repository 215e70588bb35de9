"""Denoisers of every family, tiny, and what they are conditioned on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.text import Text

DIFFUSERS = {"num_attention_heads": 3, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2}
POOLED = {"joint_attention_dim": 10, "pooled_projection_dim": 14}
OFFICIAL = {"hidden_size": 24, "num_heads": 3, "depth": 2, "input_size": 8}
# By class of diffusers, or by name of the official code.
CONFIGS = {
    "DDT": {"hidden_size": 24, "num_groups": 3, "num_blocks": 3, "num_encoder_blocks": 2},
    "DiT": OFFICIAL,
    "DiTTransformer2DModel": DIFFUSERS,
    "FlowMapDiT": OFFICIAL | {"learn_sigma": False},
    "FluxTransformer2DModel": DIFFUSERS | POOLED | {"num_single_layers": 2, "axes_dims_rope": [2, 2, 4]},
    "HiDreamImageTransformer2DModel": DIFFUSERS
    | {"num_single_layers": 1, "axes_dims_rope": [2, 2, 4], "max_resolution": [16, 2], "patch_size": 2}
    | {"caption_channels": [10, 6], "text_emb_dim": 14, "llama_layers": [0, 2, 2]},
    "PixArtTransformer2DModel": DIFFUSERS | {"cross_attention_dim": 24, "caption_channels": 10},
    "SD3Transformer2DModel": DIFFUSERS | POOLED | {"caption_projection_dim": 24},
    "SanaTransformer2DModel": DIFFUSERS
    | {"num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24}
    | {"caption_channels": 10, "sample_size": 8},
    "SiT": OFFICIAL | {"learn_sigma": False},
    "ZImageTransformer2DModel": {
        "in_channels": 4,
        "dim": 24,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 3,
    }
    | {"cap_feat_dim": 10, "axes_dims": [2, 2, 4], "axes_lens": [64, 8, 8]},
    "UViT": {"embed_dim": 24, "num_heads": 3, "depth": 2, "img_size": 8, "patch_size": 2, "num_classes": 11},
}


def times_of(name, *times):
    """The times of rows, as a model of `CONFIGS` takes them."""
    t = jnp.array(times)
    return jnp.stack([t, t / 2], -1) if name == "FlowMapDiT" else t


def classes_shape(batch=1):
    """The shape of classes."""
    return jax.ShapeDtypeStruct((batch,), jnp.int32)


def text_shapes(**shapes):
    """A `Text` of these shapes."""
    return Text(**{name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})


def assert_flops(config, canvas, condition, expected):
    """A compiled step does `expected` FLOPs, up to 5%, and never asks the host. canvas: its shape; condition:
    shapes as well."""
    shapes = (jax.ShapeDtypeStruct(canvas, jnp.float32), jax.ShapeDtypeStruct(canvas[:1], jnp.float32))
    step = quick_jit(config.denoise).lower(abstract_params(config.spec()), *shapes, condition).compile()
    assert "callback" not in step.as_text()
    assert step.cost_analysis()["flops"] == pytest.approx(expected, rel=0.05)


def condition_of(name, batch=2):
    """What a model of `CONFIGS` is conditioned on: another for each row."""
    if name in ("DDT", "DiT", "DiTTransformer2DModel", "FlowMapDiT", "SiT", "UViT"):
        return jnp.arange(batch, dtype=jnp.int32)
    rng = np.random.default_rng(0)
    text = Text(tokens=jnp.asarray(rng.standard_normal((batch, 7, 10)), jnp.float32))
    if name in ("SanaTransformer2DModel", "ZImageTransformer2DModel"):
        return text
    if name == "PixArtTransformer2DModel":
        return text.replace(resolution=jnp.full((batch, 2), 64.0), aspect_ratio=jnp.ones(batch))
    text = text.replace(pooled=jnp.asarray(rng.standard_normal((batch, 14)), jnp.float32))
    if name == "HiDreamImageTransformer2DModel":
        return text.replace(states=jnp.asarray(rng.standard_normal((batch, 3, 5, 6)), jnp.float32))
    return text


# Whole loops of these are run in every run of the tests, those of the others in the sweep.
ESSENTIAL = ("DiTTransformer2DModel", "FlowMapDiT", "SD3Transformer2DModel")


def by_tier():
    """The names as parameters of a test, in their tiers."""
    return [pytest.param(n, marks=() if n in ESSENTIAL else pytest.mark.sweep) for n in CONFIGS]
