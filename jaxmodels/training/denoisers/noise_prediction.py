"""Diffusion with discrete times: noise, velocity or clean data are predicted, and variances as well."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.training.denoisers.objective import Pictures, Predict, Trained, along, drop_classes
from jaxmodels.training.images.mar import binned_log_likelihood, gaussian_divergence
from jaxmodels.training.objectives.masking import spread

_TRAINED = (Prediction.EPSILON, Prediction.V, Prediction.CLEAN)


@dataclass(frozen=True, kw_only=True)
class NoisePrediction:
    """Mean squared error of the prediction at times spread evenly over a batch (Ho et al. 2020,
    https://arxiv.org/abs/2006.11239; velocities: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512).

    Where the model has twice the channels of the images, the second half says where the logarithm of a step's
    variance lies between the least and the greatest it can be. It is trained by the bound on the likelihood,
    in bits, in which the prediction is held (Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672).

    Attributes:
        prediction: "epsilon", "v_prediction" or "sample".
        betas: the noise schedule.
        class_dropout: share of the images whose class is not shown.

    Raises:
        ValueError: `prediction` is another, or `class_dropout` is not from 0 to 1.
    """

    prediction: Prediction = Prediction.EPSILON
    betas: Betas = field(default_factory=Betas)
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.prediction not in _TRAINED:
            raise ValueError(
                f"NoisePrediction: prediction must be one of {', '.join(_TRAINED)}, got {self.prediction!r}"
            )
        object.__setattr__(self, "prediction", Prediction(self.prediction))
        number("NoisePrediction: class_dropout", self.class_dropout, low=0, high=1)

    @property
    def times(self) -> int:
        return 1

    def loss(
        self, trained: Trained, pictures: Pictures, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """See `DenoisingObjective.loss`."""
        keys = jax.random.split(key, 3)
        clean = pictures.images
        t = (spread(keys[0], len(clean)) * self.betas.count).astype(jnp.int32)
        noise = jax.random.normal(keys[1], clean.shape)
        classes = drop_classes(pictures.classes, self.class_dropout, trained.predict.num_classes, keys[2])
        error, bound = self.errors(trained.predict, clean, noise, t, classes)
        return (error + bound).mean(), error.mean()

    def errors(
        self,
        predict: Predict,
        clean: Float[Array, "B H W C"],
        noise: Float[Array, "B H W C"],
        t: Int[Array, "B"],
        classes: Int[Array, "B"],
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """Of each image: the mean squared error, and the bound where variances are predicted, else 0."""
        products = self.betas.products
        tables = (np.sqrt(products), np.sqrt(1 - products))
        alpha, sigma = (along(jnp.asarray(table, jnp.float32)[t], clean) for table in tables)
        noisy = alpha * clean + sigma * noise
        output = predict(noisy, t, classes)
        made = Predicted(output=output, x=noisy, alpha=alpha, sigma=sigma, kind=self.prediction)
        target = {
            Prediction.EPSILON: noise,
            Prediction.V: alpha * noise - sigma * clean,
            Prediction.CLEAN: clean,
        }[self.prediction]
        error = jnp.square(made.raw() - target).mean((1, 2, 3))
        if not made.extra().shape[-1]:
            return error, jnp.zeros_like(error)
        return error, self._bound(made, clean, t)

    def _bound(self, made: Predicted, clean: Array, t: Array) -> Float[Array, "B"]:
        tables = (jnp.asarray(table, jnp.float32)[t] for table in _posterior(self.betas.products))
        to_clean, to_noisy, least, greatest = (along(rows, clean) for rows in tables)
        share = (made.extra() + 1) / 2
        log_variance = share * greatest + (1 - share) * least
        mean = to_clean * jax.lax.stop_gradient(made.clean()) + to_noisy * made.x
        true_mean = to_clean * clean + to_noisy * made.x
        behind = gaussian_divergence(true_mean, least, mean, log_variance)
        first = -binned_log_likelihood(clean, mean, 0.5 * log_variance)
        return jnp.where(along(t, clean) == 0, first, behind).mean((1, 2, 3)) / np.log(2)

    def scheduler(self) -> dict[str, Any]:
        """DDIM with trailing times, which begin at pure noise however few they are. Clean data are taken as
        predicted: DDIM does not compute the noise again from what was cut, and guided canvases go astray."""
        return {
            "_class_name": "DDIMScheduler",
            "beta_start": self.betas.first,
            "beta_end": self.betas.last,
            "beta_schedule": self.betas.schedule.value,
            "num_train_timesteps": self.betas.count,
            "rescale_betas_zero_snr": self.betas.zero_terminal_snr,
            "prediction_type": self.prediction.value,
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "set_alpha_to_one": True,
            "steps_offset": 0,
        }


def _posterior(products: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of the step behind each time: the posterior's mean as factors of clean and noisy data, and logarithms
    of the variances between which the model places its own. At time 0 the least is that of time 1."""
    before = np.append(1.0, products[:-1])
    added = 1 - products / before
    variance = added * (1 - before) / (1 - products)
    least = np.log(np.append(variance[1], variance[1:]))
    to_clean = added * np.sqrt(before) / (1 - products)
    to_noisy = (1 - before) * np.sqrt(1 - added) / (1 - products)
    return to_clean, to_noisy, least, np.log(added)
