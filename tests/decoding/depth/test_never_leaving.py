"""Every policy of depth that reads every block decodes as the model does, with every kind of mixer."""

import functools

import pytest
from model_helpers import ARCHITECTURES, random_params
from policies import NEVER_LEAVING, OF_HALVES, WITHOUT_HALVES
from strategy_helpers import MODELS, PROMPTS, assert_same_generation, decode, in_tiers

from jaxmodels.decoding import AdaptiveDepth, Autoregressive

KINDS = ARCHITECTURES | MODELS


@functools.cache
def sequential(kind):
    """(config, params, what sequential decoding gives)"""
    config = KINDS[kind]
    params = random_params(config.spec())
    return config, params, decode(config, params, Autoregressive(top_logprobs=2))


def pairs(kinds):
    """(kind, policy) of all policies that the kinds can be read by."""
    return [
        (kind, policy)
        for kind in kinds
        for policy in NEVER_LEAVING
        if not (kind in WITHOUT_HALVES and policy in OF_HALVES)
    ]


def at_full_depth(config, params, policy, prompts):
    made = NEVER_LEAVING[policy](config)
    strategy = AdaptiveDepth(depth=made, decode=Autoregressive(top_logprobs=2))
    ours = decode(config, params, strategy, prompts)
    assert (ours.counters["layers"] == len(config.blocks) * ours.counters["calls"]).all()
    return ours


@pytest.mark.wide(every_run=4)
@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        *pairs(["hybrid"]),
        *(
            pytest.param(*pair, marks=pytest.mark.sweep)
            for pair in pairs(kind for kind in KINDS if kind != "hybrid")
        ),
    ],
)
def test_rows_of_different_lengths_decode_as_without_the_policy(kind, policy):
    config, params, expected = sequential(kind)
    assert_same_generation(at_full_depth(config, params, policy, PROMPTS), expected)


@pytest.mark.parametrize("policy", NEVER_LEAVING)
@pytest.mark.parametrize("kind", in_tiers([], ["attention", "ssd", "hybrid"]))
def test_a_row_alone_decodes_as_without_the_policy(kind, policy):
    config, params, expected = sequential(kind)
    ours = at_full_depth(config, params, policy, PROMPTS[2:3])
    assert_same_generation(ours, expected, row=2)
