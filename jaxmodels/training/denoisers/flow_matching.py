"""Flow matching: the velocity of the straight path between data and noise is predicted."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.decoding.diffusion.samplers import FlowTime
from jaxmodels.training.denoisers.objective import Pictures, Trained, along, drop_classes
from jaxmodels.training.objectives.masking import spread

# What SD3 and Flux count up to.
_TIMES = 1000


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Mean squared error of the velocity of ``x = (1 - s) * clean + s * noise`` (Lipman et al. 2022,
    https://arxiv.org/abs/2210.02747), s logit-normal as in Esser et al. 2024
    (https://arxiv.org/abs/2403.03206).

    The velocity is that in the direction in which times rise: with those of SD3, 0 at data and 1000 at
    noise, ``noise - clean``; with those of SiT and DDT, 0 at noise and 1 at data, ``clean - noise``.

    Attributes:
        time: which way times run.
        mean, deviation: of the logarithm of ``s / (1 - s)``.
        class_dropout: share of the images whose class is not shown.

    Raises:
        ValueError: `time` is unknown, or a number out of range.
    """

    time: FlowTime = FlowTime.NOISE
    mean: float = 0.0
    deviation: float = 1.0
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", FlowTime(self.time))
        number("FlowMatching: mean", self.mean)
        number("FlowMatching: deviation", self.deviation, low=0, low_included=False)
        number("FlowMatching: class_dropout", self.class_dropout, low=0, high=1)

    @property
    def times(self) -> int:
        return 1

    def loss(
        self, trained: Trained, pictures: Pictures, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """See `DenoisingObjective.loss`."""
        keys, predict = jax.random.split(key, 3), trained.predict
        clean, batch = pictures.images, len(pictures.images)
        s = logit_normal(spread(keys[0], batch), self.mean, self.deviation)
        noise = jax.random.normal(keys[1], clean.shape)
        classes = drop_classes(pictures.classes, self.class_dropout, predict.num_classes, keys[2])
        noisy = (1 - along(s, clean)) * clean + along(s, clean) * noise
        to_noise = self.time is FlowTime.NOISE
        velocity, t = (noise - clean, _TIMES * s) if to_noise else (clean - noise, 1 - s)
        error = jnp.square(predict(noisy, t, classes)[..., : clean.shape[-1]] - velocity).mean()
        return error, error

    def scheduler(self) -> dict[str, Any]:
        """Euler's steps of equal length."""
        if self.time is FlowTime.DATA:
            return {"_class_name": "FlowToDataEulerScheduler"}
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": _TIMES, "shift": 1.0}


def logit_normal(uniform: Float[Array, "B"], mean: float, deviation: float) -> Float[Array, "B"]:
    """Numbers between 0 and 1 whose log odds are normal, of uniform ones."""
    inside = jnp.clip(uniform, 1e-4, 1 - 1e-4)
    return jax.nn.sigmoid(mean + deviation * jax.scipy.special.ndtri(inside))
