"""Masks of sequences that are made in stages."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.masks import Places
from jaxmodels.layers.stages import StageAlone, StageCausal

PICTURES = {
    StageCausal((1, 2, 1)): ["x...", "xxx.", "xxx.", "xxxx"],
    StageAlone((1, 2, 1)): ["x...", ".xx.", ".xx.", "...x"],
}


@pytest.mark.parametrize("mask", PICTURES)
def test_masks_are_their_pictures(mask):
    positions = jnp.arange(4)
    seen = mask.sees(Places(positions=positions[None, :, None]), Places(positions=positions[None, None, :]))
    expected = np.array([[mark == "x" for mark in row] for row in PICTURES[mask]])
    np.testing.assert_array_equal(seen[0], expected)
    for low in range(4):
        for high in range(low + 1, 5):
            reach = mask.within_reach(low, high, Places(positions=positions[None, :]))
            assert not (expected[low:high].any(0) & ~np.asarray(reach[0])).any()


@pytest.mark.parametrize("sizes", [(), (1, 0)])
def test_stages_need_sizes(sizes):
    with pytest.raises(ValueError, match="StageCausal"):
        StageCausal(sizes)
