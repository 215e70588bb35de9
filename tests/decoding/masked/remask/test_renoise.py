import numpy as np
import pytest
from seen_cases import LENGTH, ROWS, VOCAB, edit, seen_case

from jaxmodels.decoding.masked.remask import Renoise
from jaxmodels.models.filling import MaskFilling


def test_places_that_were_not_filled_are_drawn_anew_from_all_tokens():
    masked = np.ones((ROWS, LENGTH), bool)
    masked[:, :2] = False
    filled = masked & (np.arange(LENGTH) % 3 == 0)
    seen = seen_case(0, masked=masked, filled=filled)
    tokens = np.full((ROWS, LENGTH), -5)
    edited = edit(Renoise(), seen, tokens)
    ours = np.asarray(edited.tokens)
    renewed = masked & ~filled
    np.testing.assert_array_equal(ours[~renewed], -5)
    counts = np.bincount(ours[renewed], minlength=VOCAB)
    assert counts.sum() == renewed.sum() and len(counts) == VOCAB
    expected = renewed.sum() / VOCAB
    assert ((counts - expected) ** 2 / expected).sum() < 40  # chi squared, 16 degrees: 1 in 1000 is beyond
    assert not np.asarray(edited.unfinished).any()


def test_models_that_know_a_mask_token_have_no_use_for_noise():
    with pytest.raises(ValueError, match=r"Renoise puts random tokens .* mask token 5; leave it out"):
        Renoise().check(MaskFilling(mask_token=5), None)
    Renoise().check(MaskFilling(mask_token=None), None)
