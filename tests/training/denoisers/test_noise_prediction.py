"""Losses of diffusion with discrete times, against the scheduler of `diffusers` and textbook Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.training.denoisers.noise_prediction import NoisePrediction
from jaxmodels.training.denoisers.objective import Pictures, Trained

RNG = np.random.default_rng(0)
CLEAN, NOISE = (RNG.standard_normal((5, 4, 4, 1)).astype(np.float32) for _ in range(2))
CLEAN = np.clip(CLEAN / 2, -0.9, 0.9)
TIMES = np.array([0, 1, 300, 700, 999])


class Given:
    """Predicts what it was told to, and remembers what it was shown."""

    num_classes = 10

    def __init__(self, output):
        self.output = jnp.asarray(output)

    def __call__(self, x, t, classes):
        self.x, self.t, self.classes = x, t, classes
        return self.output


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_targets_are_those_of_the_scheduler(prediction, schedule):
    scheduler = DDPMScheduler(beta_schedule=schedule)
    clean, noise, times = (torch.from_numpy(a) for a in (CLEAN, NOISE, TIMES))
    target = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, times)}
    output = RNG.standard_normal(CLEAN.shape).astype(np.float32)
    predict, classes = Given(output), jnp.arange(5)
    objective = NoisePrediction(prediction=prediction, betas=Betas(schedule=schedule))
    error, bound = objective.errors(predict, *map(jnp.asarray, (CLEAN, NOISE, TIMES)), classes)
    np.testing.assert_allclose(predict.x, scheduler.add_noise(clean, noise, times), atol=2e-6)
    expected = np.square(output - target[prediction].numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    assert not bound.any()


def test_variances_are_trained_by_the_bound():
    """The step's posterior is made of its two Gaussians: that of x before the step given the clean image, and
    that of what the step adds."""
    output = np.concatenate([NOISE + 0.1, RNG.uniform(-1, 1, CLEAN.shape)], -1).astype(np.float32)
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)
    objective = NoisePrediction()
    _, bound = objective.errors(
        Given(output), *map(jnp.asarray, (CLEAN, NOISE, TIMES)), jnp.zeros(5, jnp.int32)
    )
    for i, t in enumerate(TIMES[1:], 1):
        noisy = np.sqrt(kept[t]) * CLEAN[i] + np.sqrt(1 - kept[t]) * NOISE[i]

        def posterior(clean, noisy=noisy, t=t):
            before, added = kept[t - 1], betas[t]
            precision = 1 / (1 - before) + (1 - added) / added
            mean = np.sqrt(before) * clean / (1 - before) + np.sqrt(1 - added) * noisy / added
            return mean / precision, 1 / precision

        guess = (noisy - np.sqrt(1 - kept[t]) * output[i, ..., :1]) / np.sqrt(kept[t])
        (mean, variance), (guessed, _) = posterior(CLEAN[i]), posterior(guess)
        share = (output[i, ..., 1:] + 1) / 2
        theirs = np.exp(share * np.log(betas[t]) + (1 - share) * np.log(variance))
        apart = np.log(theirs / variance) + (variance + (mean - guessed) ** 2) / theirs - 1
        np.testing.assert_allclose(bound[i], (apart / 2).mean() / np.log(2), rtol=2e-3)
    assert bound[0] > 0


def test_the_bound_leaves_the_prediction_alone():
    output = np.concatenate([NOISE + 0.1, 0 * NOISE], -1)

    def bound(output):
        classes = jnp.zeros(5, jnp.int32)
        return NoisePrediction().errors(Given(output), CLEAN, NOISE, jnp.asarray(TIMES), classes)[1].sum()

    gradient = jax.grad(bound)(jnp.asarray(output))
    assert not gradient[..., 0].any() and gradient[..., 1].any()


def test_times_are_spread_over_the_batch_and_classes_dropped():
    images, classes = jnp.zeros((400, 2, 2, 1)), jnp.arange(400) % 10
    predict = Given(jnp.zeros((400, 2, 2, 1)))
    trained = Trained(predict, predict, jnp.zeros(()))
    value, told = NoisePrediction(class_dropout=0.25).loss(
        trained, Pictures(images, classes), jax.random.key(0)
    )
    assert value == told == pytest.approx(1, abs=0.1)
    gaps = np.diff(np.sort(np.asarray(predict.t)))
    assert gaps.max() <= 3 and predict.t.min() >= 0 and predict.t.max() <= 999
    kept = np.asarray(predict.classes != 10)
    assert 0.18 < 1 - kept.mean() < 0.32
    np.testing.assert_array_equal(predict.classes[kept], classes[kept])


def test_its_scheduler_is_one_of_diffusers():
    made = NoisePrediction(prediction="v_prediction").scheduler()
    scheduler = DDIMScheduler.from_config(made)
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [999]
    assert dict(scheduler.config) | made == dict(scheduler.config)


def test_other_predictions_are_refused():
    with pytest.raises(ValueError, match=r"prediction must be one of epsilon, .*, got .*flow_prediction"):
        NoisePrediction(prediction=Prediction.FLOW)
