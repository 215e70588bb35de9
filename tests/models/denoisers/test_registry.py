"""What holds for every denoiser that is read: configurations both ways, dtypes, bytes."""

import functools

import jax
import jax.numpy as jnp
import pytest
from denoiser_models import CONFIGS, condition_of, times_of

from jaxmodels.layers.spec import abstract_params, count_params
from jaxmodels.models.costs import weight_bytes
from jaxmodels.models.denoisers.families import DENOISERS, denoiser_from_config, denoiser_to_config
from jaxmodels.models.hf_config import ConfigError


def test_every_denoiser_is_here():
    assert CONFIGS.keys() == DENOISERS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_written_as_they_are_read(name):
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    written = denoiser_to_config(config)
    assert {key: written[key] for key in CONFIGS[name]} == CONFIGS[name]
    assert denoiser_from_config(written) == config


@pytest.mark.parametrize(
    ("name", "norm"),
    [("DiTTransformer2DModel", "ada_norm_zero"), ("PixArtTransformer2DModel", "ada_norm_single")],
)
def test_the_class_of_older_releases_is_read_as_those_of_today(name, norm):
    """As in the published files of DiT-XL-2 and PixArt-alpha, with the keys of other models."""
    off = {"num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False}
    older = {**off, **CONFIGS[name], "_class_name": "Transformer2DModel", "norm_type": norm}
    assert denoiser_from_config(older) == denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    with pytest.raises(ConfigError, match="'Transformer2DModel'; the denoisers are"):
        denoiser_from_config({**older, "norm_type": "layer_norm"})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_computes_in_the_dtype_of_its_parameters(name):
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    params = abstract_params(config.spec(), jnp.bfloat16)
    assert weight_bytes(config, jnp.bfloat16) == 2 * count_params(config.spec())
    channels = config.projections.in_channels
    denoise = functools.partial(config.denoise, taps=config.taps)
    given = jnp.zeros((2, 8, 8, channels)), times_of(name, 0.0, 0.0), condition_of(name)
    out = jax.eval_shape(denoise, params, *given)
    assert out.prediction.shape == (2, 8, 8, config.projections.out_channels)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}
