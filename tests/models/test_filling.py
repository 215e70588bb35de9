"""Models that are no causal ones: whose mask holds where the caller gives none, and who may decode them."""

from dataclasses import replace

import numpy as np
import pytest
from model_helpers import ARCHITECTURES, VOCAB, draw_tokens, forward, peek, random_params

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive
from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.models.filling import MaskFilling, filling_of

CAUSAL_CONFIG = ARCHITECTURES["attention"]


@pytest.mark.parametrize("mask", [BIDIRECTIONAL, BlockCausal(3)])
def test_the_models_own_mask_is_that_of_callers_who_give_none(mask):
    config = replace(CAUSAL_CONFIG, mask=mask)
    params, tokens = random_params(config.spec()), draw_tokens(2, 7)
    expected = np.asarray(forward(CAUSAL_CONFIG, params, tokens, mask=mask))
    np.testing.assert_array_equal(forward(config, params, tokens), expected)
    logits, _ = peek(config, params, tokens, config.init_cache(2, 7))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(expected - forward(CAUSAL_CONFIG, params, tokens)).max() > 1e-3


@pytest.mark.parametrize(
    ("filling", "way"), [(None, "encodes texts"), (MaskFilling(mask_token=3), "MaskedDiffusion")]
)
def test_a_model_that_sees_both_ways_is_not_decoded_token_by_token(filling, way):
    config = replace(CAUSAL_CONFIG, mask=BIDIRECTIONAL, filling=filling)
    model = jm.Model(config=config, params=random_params(config.spec()))
    with pytest.raises(ValueError, match=f"later ones.*{way}"):
        model.generate([[1, 2]], max_new_tokens=2, strategy=Autoregressive())


def test_a_filling_says_what_is_wrong_with_it():
    with pytest.raises(ValueError, match="mask_token"):
        MaskFilling(mask_token=-1)
    with pytest.raises(ValueError, match="offset"):
        MaskFilling(mask_token=VOCAB - 1, offset=2)
    assert filling_of(object()) is None
    assert filling_of(replace(CAUSAL_CONFIG, filling=MaskFilling(mask_token=3))).mask_token == 3
