"""Caches against the hooks of `diffusers`, step for step on the same canvases."""

import numpy as np
import pytest
import torch
from diffusers.hooks import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks.sea_cache import SeaCacheConfig
from step_caches import FluxPair

from jaxmodels.decoding.diffusion.caches.first_block import FirstBlock
from jaxmodels.decoding.diffusion.caches.magcache import FLUX_RATIOS, MagCache, resampled
from jaxmodels.decoding.diffusion.caches.pab import PAB
from jaxmodels.decoding.diffusion.caches.seacache import SeaCache
from jaxmodels.decoding.diffusion.caches.taylorseer import TaylorSeer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return FluxPair(tmp_path_factory.mktemp("flux"))


def assert_alike(ours, theirs):
    """Both leave out the same work, some steps of it and not all, and predict the same."""
    (found, blocks), (wanted, attentions) = ours, theirs
    assert len(set(blocks)) > 1
    np.testing.assert_array_equal(blocks == blocks.max(), attentions == attentions.max())
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("threshold", [0.4, 0.8])
def test_first_block(pair, threshold):
    theirs = pair.of_diffusers(FirstBlockCacheConfig(threshold=threshold))
    ours = pair.ours(FirstBlock(threshold))
    assert_alike(ours, theirs)
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize(("threshold", "most", "warmup"), [(0.06, 3, 0.2), (0.5, 2, 0.0), (0.03, 5, 0.1)])
def test_magcache(pair, threshold, most, warmup):
    config = MagCacheConfig(
        threshold=threshold,
        max_skip_steps=most,
        retention_ratio=warmup,
        num_inference_steps=pair.plan.calls,
        mag_ratios=torch.tensor(FLUX_RATIOS),
    )
    ratios = resampled(FLUX_RATIOS, pair.plan.calls)
    ours = pair.ours(MagCache(ratios, threshold, most, warmup))
    assert_alike(ours, pair.of_diffusers(config))


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("interval", "warmup", "order", "cooldown"), [(5, 3, 1, 0), (3, 2, 2, 2), (4, 1, 0, 0)]
)
def test_taylorseer(pair, interval, warmup, order, cooldown):
    config = TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=warmup,
        disable_cache_after_step=pair.plan.calls - cooldown if cooldown else None,
        max_order=order,
        taylor_factors_dtype=torch.float32,
    )
    cache = TaylorSeer(interval, warmup, cooldown, order, parts=("mixer",))
    assert_alike(pair.ours(cache), pair.of_diffusers(config))


@pytest.mark.parametrize("interval", [2, 3])
def test_pab(pair, interval):
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=interval,
        spatial_attention_timestep_skip_range=(0.1, 0.8),
        current_timestep_callback=pair.time,
    )
    assert_alike(pair.ours(PAB(mixer=interval, within=(0.1, 0.8))), pair.of_diffusers(config))


@pytest.mark.parametrize(
    ("options", "order"),
    [({}, 1), ({"threshold": 0.6, "warmup": 2, "cooldown": 2, "most_in_a_row": 0, "power": 2.0}, 1)],
)
def test_seacache(pair, options, order):
    cache = SeaCache(**options)
    config = SeaCacheConfig(
        threshold=cache.threshold,
        residual_order=order,
        retention_steps=cache.warmup,
        cache_end_steps=cache.cooldown,
        max_consecutive_cached=cache.most_in_a_row,
        power_exp=cache.power,
        raw_vision_callback=lambda *_: list(pair.canvas()[:, :, None]),
    )
    assert_alike(pair.ours(cache), pair.of_diffusers(config))
