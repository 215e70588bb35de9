"""The diffusion process by which MAR's tokens are drawn, and its tables, made in float64 on the host."""

from dataclasses import dataclass

import numpy as np

from jaxmodels.pytrees import register_dataclass

TIMES = 1000
# A step destroys no more than this share of the signal.
_MOST_NOISE = 0.999


@dataclass(frozen=True)
class GaussianSteps:
    """A process of which some steps are taken; every field is f64[steps], by time.

    Attributes:
        times: those of the whole process, from 0 to 999.
        signal: the square root of the share of the variance that is signal, at that time.
        noise: the square root of the rest.
        to_clean, to_noisy: the posterior's mean is ``to_clean * clean + to_noisy * noisy``.
        least, greatest: logarithms of the variances between which the model places that of a step: the
            posterior's, and that of the noise that is added.
    """

    times: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    to_clean: np.ndarray
    to_noisy: np.ndarray
    least: np.ndarray
    greatest: np.ndarray


def cosine_steps(steps: int) -> GaussianSteps:
    """`steps` of the 1,000 of the cosine schedule, evenly spaced from the first to the last.

    Source: Nichol and Dhariwal 2021 (https://arxiv.org/abs/2102.09672), as MAR's code respaces it.
    """
    ends = np.arange(TIMES + 1) / TIMES
    level = np.cos((ends + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], _MOST_NOISE))
    times = np.array([0]) if steps == 1 else np.round(np.arange(steps) * ((TIMES - 1) / (steps - 1)))
    times = times.astype(np.int64)
    kept = kept[times]
    before = np.append(1.0, kept[:-1])
    added = 1 - kept / before
    posterior = added * (1 - before) / (1 - kept)
    # Behind the last step nothing is left to draw: its variance, 0, is taken to be that of the one before.
    least = np.log(np.append(posterior[1], posterior[1:]) if steps > 1 else added)
    return GaussianSteps(
        times=times,
        signal=np.sqrt(kept),
        noise=np.sqrt(1 - kept),
        to_clean=added * np.sqrt(before) / (1 - kept),
        to_noisy=(1 - before) * np.sqrt(1 - added) / (1 - kept),
        least=least,
        greatest=np.log(added),
    )


register_dataclass(
    GaussianSteps, ["times", "signal", "noise", "to_clean", "to_noisy", "least", "greatest"], []
)
