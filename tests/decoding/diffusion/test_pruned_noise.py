"""Noise that is pruned: which directions are empty, that none is drawn there, and that the rest is as
before."""

import jax
import numpy as np
import pytest

from jaxmodels.decoding.diffusion import drawn
from jaxmodels.decoding.diffusion.pruned_noise import pruned, pruning_axes

CANVAS = (2, 3, 2)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """Data that lie on one side of three of twelve directions, and on both of the others."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(400, 12)) * np.linspace(3, 0.5, 12)
    numbers[:, -3:] = np.abs(numbers[:, -3:])
    return numbers.reshape(400, *CANVAS)


def test_axes_point_where_there_are_no_data(data: np.ndarray) -> None:
    axes = pruning_axes(data, 0.15)
    flat = data.reshape(400, 12)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    assert 0 < len(axes) < 24
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1, rtol=1e-5)
    assert (axes @ flat.T).max() < 0.15
    covariance = np.cov(flat.T)
    for axis in axes:  # principal: the covariance only scales it
        turned = covariance @ axis
        np.testing.assert_allclose(turned, (turned @ axis) * axis, atol=1e-5)


def test_no_start_points_there(data: np.ndarray) -> None:
    axes, noise = pruning_axes(data, 0.15), drawn(3, 64, CANVAS)
    starts = np.asarray(jax.jit(lambda noise: noise.first())(pruned(noise, axes, 0.2))).reshape(64, 12)
    cosines = starts / np.linalg.norm(starts, axis=1, keepdims=True) @ axes.T
    before = np.asarray(noise.first()).reshape(64, 12)
    assert cosines.max() <= 0.2
    assert (before / np.linalg.norm(before, axis=1, keepdims=True) @ axes.T).max() > 0.2
    half = pruned(noise, axes, 0.2, length=0.5)
    np.testing.assert_allclose(np.asarray(half.first()).reshape(64, 12), starts / 2, rtol=1e-6)
    np.testing.assert_array_equal(half.fresh(2), noise.fresh(2))


def test_an_image_s_start_is_its_own(data: np.ndarray) -> None:
    axes = pruning_axes(data, 0.15)
    many, few = (pruned(drawn(3, count, CANVAS), axes, 0.2).first() for count in (5, 2))
    np.testing.assert_array_equal(many[:2], few)


def test_the_best_of_all_tries_is_taken(data: np.ndarray) -> None:
    axes, noise = pruning_axes(data, 0.15), drawn(0, 8, CANVAS)

    def largest(tries: int) -> np.ndarray:
        starts = np.asarray(pruned(noise, axes, -1.0, tries=tries).first()).reshape(8, 12)
        return (starts / np.linalg.norm(starts, axis=1, keepdims=True) @ axes.T).max(1)

    assert (largest(50) <= largest(5)).all()
    assert largest(50).mean() < largest(1).mean() - 0.1


def test_what_cannot_be_pruned(data: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"none is empty at most_cosine=-0.9"):
        pruning_axes(data, -0.9)
    with pytest.raises(ValueError, match="number 7 is all zeros"):
        pruning_axes(np.where(np.arange(400)[:, None, None, None] == 7, 0.0, data))
    with pytest.raises(ValueError, match=r"axes must be \[M, 12\] for canvases \[2, 3, 2\], got \[1, 5\]"):
        pruned(drawn(0, 1, CANVAS), np.ones((1, 5)))
