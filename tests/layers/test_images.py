"""Convolutions and norms of images against torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.normalization import GlobalResponseNorm as TheirResponseNorm
from diffusers_modules import assert_close, draw, randomised, weights_of

from jaxmodels.layers.conv2d import Conv2D, TransposedConv2D, upsample_nearest
from jaxmodels.layers.image_norm import GlobalResponseNorm, GroupNorm


def first(tensor):
    """A torch image with its channels first."""
    return tensor.movedim(-1, 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups", "bias"),
    [(3, 1, (1, 1), 1, True), (3, 2, (0, 1), 2, False), (2, 2, (0, 1), 1, False), (1, 1, (0, 0), 6, True)],
)
def test_convolution(kernel, stride, padding, groups, bias):
    theirs = randomised(torch.nn.Conv2d(6, 12, kernel, stride, groups=groups, bias=bias))
    ours = Conv2D(
        in_channels=6,
        out_channels=12,
        kernel=kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        bias=bias,
    )
    params = {name[0]: jnp.asarray(value) for name, value in weights_of(theirs).items()}
    x, tx = draw(2, 7, 10, 6)
    padded = torch.nn.functional.pad(first(tx), padding * 2)
    wanted = theirs(padded).movedim(1, -1)
    assert_close(ours(params, x), wanted)
    assert ours.flops(*wanted.shape[1:3]) == 2 * wanted[0].numel() * theirs.weight[0].numel()


def test_transposed_convolution():
    theirs = randomised(torch.nn.ConvTranspose2d(6, 4, 3, stride=3))
    params = {name[0]: jnp.asarray(value) for name, value in weights_of(theirs).items()}
    x, tx = draw(2, 5, 3, 6)
    ours = TransposedConv2D(in_channels=6, out_channels=4, kernel=3)
    assert_close(ours(params, x), theirs(first(tx)).movedim(1, -1))


def test_nearest_upsampling():
    x, tx = draw(2, 3, 4, 5)
    wanted = torch.nn.functional.interpolate(first(tx), scale_factor=2.0, mode="nearest").movedim(1, -1)
    np.testing.assert_array_equal(upsample_nearest(x), wanted)


def test_group_norm():
    theirs = randomised(torch.nn.GroupNorm(3, 12, eps=1e-3))
    scale, bias = (jnp.asarray(value) for value in weights_of(theirs).values())
    x, tx = draw(2, 5, 7, 12)
    ours = GroupNorm(channels=12, num_groups=3, eps=1e-3)({"scale": scale, "bias": bias}, 4 * x + 2)
    assert_close(ours, theirs(first(4 * tx + 2)).movedim(1, -1))


def test_global_response_norm():
    theirs = randomised(TheirResponseNorm(10))
    scale, bias = (jnp.asarray(value.ravel()) for value in weights_of(theirs).values())
    x, tx = draw(2, 5, 7, 10)
    ours = GlobalResponseNorm(channels=10)({"scale": scale, "bias": bias}, x)
    assert_close(ours, theirs(tx))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupNorm(channels=12, num_groups=5), "num_groups must divide channels=12, got 5"),
        (lambda: Conv2D(in_channels=6, out_channels=4, groups=3), "groups=3 must divide in_channels=6 and"),
    ],
)
def test_groups_that_do_not_divide_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
