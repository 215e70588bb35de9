"""Masks of steps: the published ones, and what is refused."""

import numpy as np
import pytest
from step_caches import plan_at

from jaxmodels.decoding.diffusion.caches.step_mask import SPEEDS, PublishedMask, StepMask, published_mask

# What `cache_dit.steps_mask` of version 1.5.3 gives, in the order slow, medium, fast, ultra.
PUBLISHED = {
    4: ["1101", "1101", "1101", "1101"],
    8: ["11111011", "11110101", "11101001", "11001001"],
    9: ["111110111", "111110101", "111101001", "111001001"],
    13: ["1111011011011", "1111011010011", "1110100100101", "1101001000101"],
    20: ["11111111011100111001", "11111101100011000101", "11111101000000000001", "11110000000000000001"],
    28: [
        "1111111101110011100110010001",
        "1111110110001100011000110001",
        "1111110100010000100000100001",
        "1111001000001000000100000001",
    ],
    50: [
        "11111111111111111111110011111000111110001110001101",
        "11111111111111110011100000111000001110000011100001",
        "11111111111001100000110000000110000000001100000001",
        "11111110001100000000011000000000001100000000000001",
    ],
}


@pytest.mark.parametrize("steps", PUBLISHED)
def test_published_masks(steps):
    for speed, wanted in zip(SPEEDS, PUBLISHED[steps], strict=True):
        mask = PublishedMask(speed).rows(None, plan_at(np.linspace(1, 0.1, steps)))
        assert "".join(map(str, mask.astype(int))) == wanted


def test_what_there_is_no_mask_for():
    with pytest.raises(ValueError, match="4, 6, and 8 or more steps, not for 5"):
        published_mask("fast", 5)
    with pytest.raises(ValueError, match="speed must be one of slow, medium, fast, ultra, got 'faster'"):
        PublishedMask("faster")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([0, 1, 1], r"compute must compute the first step.*got \[0, 1, 1\]"),
        ([1, 2], r"compute must be one of 0 and 1 for each step, got \[1, 2\]"),
        ([], "compute must be one of 0 and 1 for each step"),
        ("110", "compute must be one of 0 and 1 for each step, got '110'"),
    ],
)
def test_masks_that_are_none(mask, message):
    with pytest.raises(ValueError, match=message):
        StepMask(mask)


def test_a_mask_for_another_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="made for 3 steps, but the run has 4 calls of the model"):
        StepMask([1, 0, 1]).rows(None, plan_at(np.linspace(1, 0.1, 4)))
