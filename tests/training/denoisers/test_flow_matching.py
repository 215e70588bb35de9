"""Flow matching against its definition, for both conventions of times."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.training.denoisers.flow_matching import FlowMatching
from jaxmodels.training.denoisers.objective import Pictures, Trained


class Zero:
    num_classes = 10

    def __call__(self, x, t, classes):
        self.x, self.t = x, t
        return jnp.zeros_like(x)


@pytest.mark.parametrize(("time", "data_time", "noise_time"), [("noise", 0.0, 1000.0), ("data", 1.0, 0.0)])
def test_the_velocity_is_that_of_the_path_in_the_direction_of_its_times(time, data_time, noise_time):
    images = np.random.default_rng(0).uniform(-1, 1, (200, 2, 2, 1)).astype(np.float32)

    @quick_jit
    def loss(pictures, key):
        predict = Zero()
        found = FlowMatching(time=time).loss(Trained(predict, predict, jnp.zeros(())), pictures, key)
        return found, predict.x, predict.t

    (error, told), x, t = jax.device_get(loss(Pictures(images, np.zeros(200, np.int32)), jax.random.key(0)))
    s = (t - data_time) / (noise_time - data_time)
    odds = np.log(s / (1 - s))
    assert abs(odds.mean()) < 0.05 and abs(odds.std() - 1) < 0.05
    rows = s.reshape(-1, 1, 1, 1)
    noise = (x - (1 - rows) * images) / rows
    assert abs(noise.std() - 1) < 0.1
    np.testing.assert_allclose(error, np.square(noise - images).mean(), rtol=1e-3)
    assert error == told

    class Exact(Zero):
        """The velocity towards larger times, of the one image that there is."""

        def __call__(self, x, t, classes):
            share = ((t - data_time) / (noise_time - data_time)).reshape(-1, 1, 1, 1)
            noise = (x - (1 - share) * 0.5) / share
            return (noise - 0.5) * np.sign(noise_time - data_time)

    one = Pictures(np.full((50, 2, 2, 1), 0.5, np.float32), np.zeros(50, np.int32))
    exact = functools.partial(FlowMatching(time=time).loss, Trained(Exact(), Exact(), jnp.zeros(())))
    error, _ = quick_jit(exact)(one, jax.random.key(0))
    assert error < 1e-6


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="deviation must be"):
        FlowMatching(deviation=0)
    with pytest.raises(ValueError, match="'up' is not a valid FlowTime"):
        FlowMatching(time="up")
