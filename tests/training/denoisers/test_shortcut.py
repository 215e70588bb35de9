"""Targets of shortcut models against their recurrence in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.training.denoisers.objective import Pictures, Trained
from jaxmodels.training.denoisers.shortcut import Shortcut


class Linear:
    """A velocity that depends on all that a model is shown."""

    num_classes = 10

    def __init__(self, slope=0.5):
        self.slope, self.shown = slope, []

    def __call__(self, x, t, classes):
        self.shown.append((x, t, classes))
        rows = (a.reshape(-1, 1, 1, 1) for a in (t[:, 0], t[:, 1], classes / 10))
        time, level, kind = rows
        return self.slope * x + time - 0.1 * level + kind


def test_a_long_step_is_the_mean_of_two_half_as_long():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 1))
    t, level, classes = np.array([0.25, 0.0]), np.array([2, 0]), np.array([3, 7])
    for guidance in (1.0, 2.5):
        expected = []
        for i in range(2):

            def velocity(x, t, i=i, guidance=guidance):
                own = 0.5 * x + t - 0.1 * (level[i] + 1) + classes[i] / 10
                none = 0.5 * x + t - 0.1 * (level[i] + 1) + 1
                return none + guidance * (own - none)

            half = 1 / 2 ** (level[i] + 1)
            one = velocity(x[i], t[i])
            two = velocity(np.clip(x[i] + half * one, -4, 4), t[i] + half)
            expected.append(np.clip((one + two) / 2, -4, 4))
        ours = Shortcut(guidance=guidance).two_steps(Linear(), *map(jnp.asarray, (x, t, level, classes)))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_an_eighth_learns_long_steps_of_the_average_and_the_others_velocities():
    images = np.random.default_rng(1).uniform(-1, 1, (64, 2, 2, 1)).astype(np.float32)
    classes = np.arange(64) % 10
    objective = Shortcut(class_dropout=0.5)

    @quick_jit
    def loss(pictures, key):
        predict, average = Linear(), Linear(slope=-1.0)
        error, _ = objective.loss(Trained(predict, average, jnp.zeros(())), pictures, key)
        assert len(average.shown) == 2
        return error, predict.shown

    error, [(x, times, shown)] = jax.device_get(loss(Pictures(images, classes), jax.random.key(0)))
    t, level = times[:, 0], times[:, 1]
    assert (level[:8] < 7).all() and (level[8:] == 7).all()
    np.testing.assert_array_equal(t * 2**level % 1, 0)
    assert t.min() >= 0 and t.max() < 1
    np.testing.assert_array_equal(shown[:8], classes[:8])
    assert 10 < (shown[8:] == 10).sum() < 46
    left = (1 - (1 - 1e-5) * t).reshape(-1, 1, 1, 1)
    noise = (x - t.reshape(-1, 1, 1, 1) * images) / left
    aim = quick_jit(lambda *given: objective.two_steps(Linear(slope=-1.0), *given))
    aimed = aim(x[:8], times[:8, 0], times[:8, 1].astype(int), classes[:8])
    target = np.concatenate([aimed, (images - (1 - 1e-5) * noise)[8:]])
    np.testing.assert_allclose(error, np.square(Linear()(x, times, shown) - target).mean(), rtol=1e-4)


@pytest.mark.parametrize("changes", [{"finest": 0}, {"guidance": -1}, {"class_dropout": 2}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=f"Shortcut: {next(iter(changes))} must be"):
        Shortcut(**changes)
