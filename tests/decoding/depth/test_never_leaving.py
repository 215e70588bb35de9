"""Every policy of depth that reads every block decodes as the model does, with every kind of mixer.

Each policy is tested beside a few of the kinds and each kind beside a few of the policies: a policy
sees of a block what it writes and reads, whatever the mixer.
"""

import functools

import pytest
from model_helpers import ARCHITECTURES, random_params
from policies import NEVER_LEAVING, OF_HALVES, WITHOUT_HALVES
from strategy_helpers import MODELS, PROMPTS, assert_same_generation, decode

from jaxmodels.decoding import AdaptiveDepth, Autoregressive

KINDS = ARCHITECTURES | MODELS


@functools.cache
def sequential(kind):
    """(config, params, what sequential decoding gives)"""
    config = KINDS[kind]
    params = random_params(config.spec())
    return config, params, decode(config, params, Autoregressive(top_logprobs=2))


def pairs(kinds, each):
    """(kind, policy): each policy beside so many of the kinds, evenly spread; without the pairs in which the
    policy cannot read the kind."""
    step, kinds = len(kinds) // each, list(kinds)
    return [
        (kind, policy)
        for number, policy in enumerate(NEVER_LEAVING)
        for kind in kinds[number % step :: step]
        if not (kind in WITHOUT_HALVES and policy in OF_HALVES)
    ]


def at_full_depth(config, params, policy, prompts):
    made = NEVER_LEAVING[policy](config)
    strategy = AdaptiveDepth(depth=made, decode=Autoregressive(top_logprobs=2))
    ours = decode(config, params, strategy, prompts)
    assert (ours.counters["layers"] == len(config.blocks) * ours.counters["calls"]).all()
    return ours


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(("kind", "policy"), pairs(KINDS, each=3))
def test_rows_of_different_lengths_decode_as_without_the_policy(kind, policy):
    config, params, expected = sequential(kind)
    assert_same_generation(at_full_depth(config, params, policy, PROMPTS), expected)


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "policy"), pairs(["attention", "ssd", "hybrid"], each=1))
def test_a_row_alone_decodes_as_without_the_policy(kind, policy):
    config, params, expected = sequential(kind)
    ours = at_full_depth(config, params, policy, PROMPTS[2:3])
    assert_same_generation(ours, expected, row=2)
