"""Heads on features of the model draft for every kind of it, and leave what it says as it is."""

import pytest
from draft_heads import eagle3_drafter
from strategy_helpers import MODELS, architecture, assert_same_generation, decode, expected

from jaxmodels.decoding import Speculative


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_is_that_of_sequential_decoding(name):
    config, params = architecture(name)
    ours = decode(config, params, Speculative(draft=eagle3_drafter(), top_logprobs=2))
    assert_same_generation(ours, expected(name))
