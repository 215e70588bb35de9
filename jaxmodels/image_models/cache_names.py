"""The names of caches: from one of them, as command lines give it, to a cache for a model and its run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxmodels.checks import shown
from jaxmodels.decoding.diffusion.caches.cache import NoCache, StepCache
from jaxmodels.decoding.diffusion.caches.dbcache import DBCache
from jaxmodels.decoding.diffusion.caches.encoder_sharing import EncoderSharing, even_mask
from jaxmodels.decoding.diffusion.caches.fastercache import FasterCache
from jaxmodels.decoding.diffusion.caches.first_block import FirstBlock
from jaxmodels.decoding.diffusion.caches.fora import FORA
from jaxmodels.decoding.diffusion.caches.harmonica import HarmoniCa
from jaxmodels.decoding.diffusion.caches.magcache import MagCache, resampled
from jaxmodels.decoding.diffusion.caches.pab import PAB
from jaxmodels.decoding.diffusion.caches.seacache import SeaCache
from jaxmodels.decoding.diffusion.caches.step_mask import PublishedMask
from jaxmodels.decoding.diffusion.caches.taylorseer import TaylorSeer
from jaxmodels.decoding.diffusion.caches.teacache import TeaCache


@dataclass(frozen=True, kw_only=True)
class CachedRun:
    """What a cache is made for.

    Attributes:
        calls: of the denoiser.
        blocks: of the denoiser.
        calibrations: what was measured or trained for caches of this model, by their names.
    """

    calls: int
    blocks: int
    calibrations: Mapping[str, np.ndarray]

    def calibration(self, name: str) -> np.ndarray:
        """That of a cache.

        Raises:
            ValueError: the model has none.
        """
        if name not in self.calibrations:
            raise ValueError(
                f"cache {name!r} goes by a calibration, and the model has "
                f"{', '.join(self.calibrations) or 'none'}; see jaxmodels.decoding.diffusion.caches"
            )
        return self.calibrations[name]


def _dbcache(run: CachedRun) -> DBCache:
    """As published, but no longer than half of a small model or a short run."""
    return DBCache(first=max(1, min(8, run.blocks // 2)), warmup=max(1, min(8, run.calls // 2)))


def _encoder_sharing(run: CachedRun) -> EncoderSharing:
    """By the model's mask, or every second step where there is none."""
    return EncoderSharing(run.calibrations.get("encoder-sharing", even_mask(run.calls, 2)))


CACHES: Mapping[str, Callable[[CachedRun], StepCache]] = {
    "none": lambda run: NoCache(),
    "cache-dit": lambda run: PublishedMask(),
    "dbcache": _dbcache,
    "encoder-sharing": _encoder_sharing,
    "fastercache": lambda run: FasterCache(),
    "first-block": lambda run: FirstBlock(),
    "fora": lambda run: FORA(),
    "harmonica": lambda run: HarmoniCa(run.calibration("harmonica")),
    "magcache": lambda run: MagCache(resampled(run.calibration("magcache").tolist(), run.calls)),
    "pab": lambda run: PAB(),
    "seacache": lambda run: SeaCache(),
    "taylorseer": lambda run: TaylorSeer(),
    "teacache": lambda run: TeaCache(),
}


def named_cache(name: str, run: CachedRun) -> StepCache:
    """The cache of a name, with its published options.

    Raises:
        ValueError: there is none of this name, or it goes by a calibration that the model does not have.
    """
    if name not in CACHES:
        raise ValueError(f"cache {shown(name)} is not known; the caches are: {', '.join(CACHES)}")
    return CACHES[name](run)
