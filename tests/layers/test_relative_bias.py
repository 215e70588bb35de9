"""The bias of relative positions against T5's in transformers: buckets, and the bias block by block."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from jaxmodels.layers.relative_bias import RelativeBias


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (32, 64), (8, 9), (4, 20), (64, 1000)])
def test_buckets_are_those_of_t5(buckets, distance):
    layer = RelativeBias(num_heads=1, num_buckets=buckets, max_distance=distance)
    expected = T5Attention._relative_position_bucket(
        torch.arange(-3 * distance, 3 * distance + 1), num_buckets=buckets, max_distance=distance
    )
    clipped = np.clip(np.arange(-3 * distance, 3 * distance + 1), -distance, distance)
    np.testing.assert_array_equal(layer.buckets()[clipped + distance], expected.numpy())


def test_the_bias_is_that_of_t5():
    theirs = T5Attention(T5Config(num_heads=3), has_relative_attention_bias=True, layer_idx=0)
    params = {"weight": jnp.asarray(theirs.relative_attention_bias.weight.detach().numpy())}
    bias = RelativeBias(num_heads=3).of(params, jnp.arange(200))
    expected = theirs.compute_bias(200, 200).detach().numpy()
    np.testing.assert_array_equal(bias(30, 50, 100, 60)[:, :, 0], expected[:, :, 30:80, 100:160])


def test_sizes_that_make_no_buckets_are_refused():
    with pytest.raises(ValueError, match="num_buckets=30 must be a multiple of 4"):
        RelativeBias(num_heads=1, num_buckets=30)
    with pytest.raises(ValueError, match="max_distance=8 must be above num_buckets / 4 = 8"):
        RelativeBias(num_heads=1, max_distance=8)
