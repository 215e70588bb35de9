"""Targets of mean velocities against the closed form of one Gaussian: data of N(2, 0.5^2) in one dimension.

There the path of z is ``2 (1 - t) + s(t) c`` with ``s(t)^2 = 0.25 (1 - t)^2 + t^2`` and c constant.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.training.denoisers.alpha_flow import AlphaFlow, step_target
from jaxmodels.training.denoisers.flow_maps import FlowMapDraws, PathPoints, slope_target
from jaxmodels.training.denoisers.mean_flow import MeanFlow
from jaxmodels.training.denoisers.objective import Pictures, Trained

Z, R, T = 1.3, 0.2, 0.9
VELOCITY, MEAN_VELOCITY = -0.8154, -1.2082


def deviation(t):
    return jnp.sqrt(0.25 * (1 - t) ** 2 + t**2)


class Gaussian:
    """The exact mean velocity, as a model that is shown t and t - r."""

    num_classes = 10

    def __call__(self, x, t, classes):
        (t, gap), shape = (a.reshape(-1, 1, 1, 1) for a in t.T), x.shape
        assert shape[1:] == (1, 1, 1)
        r = t - gap
        apart = x - 2 * (1 - t)
        mean = (x - 2 * (1 - r) - deviation(r) / deviation(t) * apart) / jnp.where(gap == 0, 1, gap)
        velocity = apart * (t - 0.25 * (1 - t)) / deviation(t) ** 2 - 2
        return jnp.where(gap == 0, velocity, mean)


def points():
    one = jnp.full((1, 1, 1, 1), 1.0)
    return PathPoints(
        x=Z * one,
        t=jnp.full(1, T),
        r=jnp.full(1, R),
        velocity=Gaussian()(Z * one, jnp.array([[T, 0.0]]), None),
        classes=jnp.zeros(1, jnp.int32),
    )


def test_the_exact_mean_velocity_is_its_own_target():
    exact = Gaussian()(points().x, jnp.array([[T, T - R]]), None)
    np.testing.assert_allclose(points().velocity.ravel(), VELOCITY, atol=1e-4)
    np.testing.assert_allclose(exact.ravel(), MEAN_VELOCITY, atol=1e-4)
    np.testing.assert_allclose(slope_target(Gaussian(), points()).ravel(), MEAN_VELOCITY, atol=1e-4)


@pytest.mark.parametrize(("alpha", "target"), [(1.0, VELOCITY), (0.5, -1.1654), (0.1, -1.2074)])
def test_targets_of_shorter_steps(alpha, target):
    np.testing.assert_allclose(
        step_target(Gaussian(), points(), jnp.asarray(alpha)).ravel(), target, atol=1e-4
    )


def test_alpha_falls_from_one_to_zero():
    objective = AlphaFlow(begins=0.2, ends=0.8)
    found = [float(objective.alpha(jnp.asarray(share))) for share in (0.0, 0.2, 0.45, 0.5, 0.55, 0.8, 1.0)]
    assert found[:2] == [1, 1] and found[-2:] == [0, 0]
    assert found[3] == pytest.approx(0.5) and found[2] > found[3] > found[4] > 0


class Recorded(Gaussian):
    """Of images that are all the same number."""

    def __init__(self):
        self.shown = []

    def __call__(self, x, t, classes):
        self.shown.append((np.asarray(x), np.asarray(t), np.asarray(classes)))
        return super().__call__(x, t, classes)


def test_points_lie_on_paths_to_the_images_and_a_quarter_jumps():
    images = np.full((200, 1, 1, 1), 0.5, np.float32)
    draw = quick_jit(functools.partial(FlowMapDraws().points, Gaussian()))
    drawn = jax.device_get(draw(Pictures(images, np.zeros(200, np.int32)), jax.random.key(0)))
    t, r = drawn.t, drawn.r
    assert (r[:50] < t[:50]).all() and (r[50:] == t[50:]).all() and t.min() > 0 and t.max() < 1
    np.testing.assert_allclose(drawn.x - drawn.t.reshape(-1, 1, 1, 1) * drawn.velocity, images, atol=1e-5)
    odds = np.log(t[50:] / (1 - t[50:]))
    assert abs(odds.mean() - (-0.4 + 1 / np.sqrt(np.pi))) < 0.25  # the larger of two


@pytest.mark.sweep
def test_guided_velocities_are_those_of_the_definition():
    images, classes = jnp.full((64, 1, 1, 1), 0.5), jnp.arange(64) % 10
    options, key = {"guidance": 2.0, "mixed": 0.5, "class_dropout": 0.5}, jax.random.key(1)

    class ByClass(Gaussian):
        def __call__(self, x, t, classes):
            return super().__call__(x, t, classes) + classes.reshape(-1, 1, 1, 1)

    plain = FlowMapDraws(class_dropout=0.5).points(ByClass(), Pictures(images, classes), key)
    guided = FlowMapDraws(**options).points(ByClass(), Pictures(images, classes), key)
    now = jnp.stack([plain.t, jnp.zeros(64)], -1)
    none, its = (ByClass()(plain.x, now, c) for c in (jnp.full(64, 10), classes))
    expected = 2 * plain.velocity + (1 - 2 - 0.5) * none + 0.5 * its
    shown = np.asarray(guided.classes != 10)
    assert 10 < shown.sum() < 54
    np.testing.assert_allclose(guided.velocity[shown], expected[shown], rtol=1e-5)
    np.testing.assert_array_equal(guided.velocity[~shown], plain.velocity[~shown])
    window = FlowMapDraws(**options, guided_to=0.0).points(ByClass(), Pictures(images, classes), key)
    np.testing.assert_array_equal(window.velocity, plain.velocity)


@pytest.mark.parametrize("objective", [MeanFlow(), AlphaFlow()])
@pytest.mark.parametrize("progress", [0.5, 1.0])
def test_losses_are_errors_over_themselves(objective, progress):
    """Against the targets above; a prediction that is exact on the mean still errs on each velocity."""
    images = (2 + 0.5 * np.random.default_rng(0).standard_normal((40, 1, 1, 1))).astype(np.float32)
    pictures, key = Pictures(images, np.zeros(40, np.int32)), jax.random.key(3)
    trained = Trained(Gaussian(), Gaussian(), jnp.asarray(progress))
    value, told = quick_jit(functools.partial(objective.loss, trained))(pictures, key)
    alpha = float(objective.alpha(progress)) if isinstance(objective, AlphaFlow) else 0.0

    @quick_jit
    def targets(pictures, key):
        drawn = objective.draws.points(Gaussian(), pictures, key)
        target = step_target(Gaussian(), drawn, alpha) if alpha else slope_target(Gaussian(), drawn)
        made = Gaussian()(drawn.x, jnp.stack([drawn.t, drawn.t - drawn.r], -1), None)
        return drawn, target, made

    drawn, target, made = jax.device_get(targets(pictures, key))
    target = np.where(np.arange(40)[:, None] < 10, np.asarray(target).reshape(40, 1), drawn.velocity[:, 0, 0])
    if alpha or isinstance(objective, AlphaFlow):
        target[:10] = np.clip(target[:10], -4, 4)
    error = np.square(made.reshape(40, 1) - target)[:, 0]
    weight = np.where((np.arange(40) < 10) & (alpha > 0), alpha, 1.0)
    np.testing.assert_allclose(told, error.mean(), rtol=1e-4)
    np.testing.assert_allclose(value, (weight * error / (error + objective.floor)).mean(), rtol=1e-4)
