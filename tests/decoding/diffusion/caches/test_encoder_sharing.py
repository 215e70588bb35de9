"""The encoder shared between steps: the programme that chooses them, and the model that leaves it out."""

import itertools

import numpy as np
import pytest

from jaxmodels.decoding.diffusion.caches.encoder_sharing import even_mask, sharing_mask, similarities


def walk(steps, seed):
    """f64[N, T, D], what an encoder may find in the steps of a run."""
    return np.random.default_rng(seed).standard_normal((steps, 5, 4)).cumsum(axis=0)


def error(similarity, mask):
    """How unlike what was found last the steps of a mask are, in sum."""
    last = np.maximum.accumulate(np.where(mask, np.arange(len(mask)), 0))
    return (1 - similarity[np.arange(len(mask)), last]).sum()


@pytest.mark.parametrize("computed", [1, 2, 4, 8])
def test_the_mask_has_the_least_error_of_all(computed):
    similarity = similarities(walk(8, seed=computed))
    mask = sharing_mask(similarity, computed)
    assert mask[0] and mask.sum() == computed
    others = [(0, *rest) for rest in itertools.combinations(range(1, 8), computed - 1)]
    least = min(error(similarity, np.isin(np.arange(8), chosen)) for chosen in others)
    assert error(similarity, mask) == pytest.approx(least, abs=1e-12)


def test_similarities_are_cosines():
    found = walk(3, seed=0)
    similarity = similarities(found)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(found[0], found[2], strict=True)]
    assert similarity[0, 2] == pytest.approx(np.mean(cosines))
    np.testing.assert_allclose(np.diag(similarity), 1)


def test_masks_at_even_distances():
    assert even_mask(7, 3).tolist() == [True, False, False, True, False, False, True]


def test_more_steps_than_there_are_cannot_be_computed():
    with pytest.raises(ValueError, match="computed must be a whole number >= 1 and <= 3, got 4"):
        sharing_mask(np.eye(3), 4)
