"""Heads on features of the model draft for every kind of it, and leave what it says as it is."""

import pytest
from draft_heads import eagle3_drafter
from strategy_helpers import BESIDE_A_MODEL, architecture, assert_same_generation, decode, expected

from jaxmodels.decoding import FeatureTreeDrafter, Speculative


@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_text_is_that_of_sequential_decoding(name):
    config, params = architecture(name)
    ours = decode(config, params, Speculative(draft=eagle3_drafter(), top_logprobs=2))
    assert_same_generation(ours, expected(name))


def tree_drafter(**fields):
    numbers = {name: fields.pop(name, value) for name, value in (("total", 9), ("depth", 3), ("top_k", 3))}
    drafter = eagle3_drafter(**fields)
    return FeatureTreeDrafter(
        head=drafter.head, params=drafter.params, token_ids=drafter.token_ids, **numbers
    )


@pytest.mark.sweep
@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_text_from_a_tree_is_that_of_sequential_decoding(name):
    config, params = architecture(name)
    ours = decode(config, params, Speculative(draft=tree_drafter(known=13), top_logprobs=2))
    assert_same_generation(ours, expected(name))
