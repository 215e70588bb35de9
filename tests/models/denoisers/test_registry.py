"""What holds for every denoiser that is read: configurations both ways, dtypes, bytes."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.layers.spec import abstract_params, count_params
from jaxmodels.models.costs import weight_bytes
from jaxmodels.models.denoisers.families import DENOISERS, denoiser_from_config, denoiser_to_config
from jaxmodels.models.denoisers.text import Text

DIFFUSERS = {"num_attention_heads": 3, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2}
POOLED = {"joint_attention_dim": 10, "pooled_projection_dim": 14}
OFFICIAL = {"hidden_size": 24, "num_heads": 3, "depth": 2, "input_size": 8}
CONFIGS = {
    "DiT": OFFICIAL,
    "DiTTransformer2DModel": DIFFUSERS,
    "FluxTransformer2DModel": DIFFUSERS | POOLED | {"num_single_layers": 2, "axes_dims_rope": [2, 2, 4]},
    "PixArtTransformer2DModel": DIFFUSERS | {"cross_attention_dim": 24, "caption_channels": 10},
    "SD3Transformer2DModel": DIFFUSERS | POOLED | {"caption_projection_dim": 24},
    "SiT": OFFICIAL | {"learn_sigma": False},
}


def condition(name):
    if name in ("DiT", "SiT", "DiTTransformer2DModel"):
        return jnp.zeros(2, jnp.int32)
    text = Text(tokens=jnp.zeros((2, 7, 10)))
    if name == "PixArtTransformer2DModel":
        return text.replace(resolution=jnp.zeros((2, 2)), aspect_ratio=jnp.zeros(2))
    return text.replace(pooled=jnp.zeros((2, 14)))


def test_every_denoiser_is_here():
    assert CONFIGS.keys() == DENOISERS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_written_as_they_are_read(name):
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    written = denoiser_to_config(config)
    assert {key: written[key] for key in CONFIGS[name]} == CONFIGS[name]
    assert denoiser_from_config(written) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_computes_in_the_dtype_of_its_parameters(name):
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    params = abstract_params(config.spec(), jnp.bfloat16)
    assert weight_bytes(config, jnp.bfloat16) == 2 * count_params(config.spec())
    channels = config.projections.in_channels
    denoise = functools.partial(config.denoise, taps=config.taps)
    out = jax.eval_shape(denoise, params, jnp.zeros((2, 8, 8, channels)), jnp.zeros(2), condition(name))
    assert out.prediction.shape == (2, 8, 8, config.projections.out_channels)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}
