"""Branches from an early exit: the text stays the model's, and the branch of its token is the draft."""

import numpy as np
import pytest
from model_helpers import VOCAB
from strategy_helpers import architecture, assert_same_generation, decode, expected, nearby, stop_inside

from jaxmodels.decoding import Draft, MirrorDrafter, ModelDrafter, Speculative


@pytest.mark.parametrize("name", ["attention", pytest.param("hybrid", marks=pytest.mark.sweep)])
def test_the_text_is_that_of_the_model(name):
    config, params = architecture(name)
    draft = Draft(config, nearby(params, 0.02))
    strategy = Speculative(draft=MirrorDrafter(draft=draft, layers=1, branches=3, size=3), top_logprobs=2)
    assert_same_generation(decode(config, params, strategy), expected(name))
    stop = stop_inside(expected(name).tokens)
    assert_same_generation(decode(config, params, strategy, stop=(stop,)), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_with_a_branch_for_every_token_it_is_the_draft_itself():
    config, params = architecture("ssd")
    draft = Draft(config, nearby(params, 0.1))
    every = decode(
        config, params, Speculative(draft=MirrorDrafter(draft=draft, layers=1, branches=VOCAB, size=3))
    )
    alone = decode(config, params, Speculative(draft=ModelDrafter(draft=draft, size=3)))
    np.testing.assert_array_equal(every.counters["accepted"], alone.counters["accepted"])


@pytest.mark.sweep
def test_the_exit_behind_the_last_block_says_the_token():
    """There one branch is enough where tokens are the most probable ones."""
    config, params = architecture("attention")
    draft = Draft(config, params)
    one = MirrorDrafter(draft=draft, layers=len(config.blocks), branches=1, size=3)
    ours = decode(config, params, Speculative(draft=one))
    alone = decode(config, params, Speculative(draft=ModelDrafter(draft=draft, size=3)))
    np.testing.assert_array_equal(ours.counters["accepted"], alone.counters["accepted"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 9}, r"layers=9\) exits behind more than the model's \d blocks"),
        ({"layers": 1, "branches": VOCAB + 1}, f"branches={VOCAB + 1}.*{VOCAB}"),
    ],
    ids=["layers", "branches"],
)
def test_what_the_model_does_not_have_is_refused(options, message):
    config, params = architecture("ssd")
    with pytest.raises(ValueError, match=message):
        decode(config, params, Speculative(draft=MirrorDrafter(draft=Draft(config, params), **options)))
