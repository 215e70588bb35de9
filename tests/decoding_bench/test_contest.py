"""Contests of strategies: what they measure, on a model small enough to be asked everything."""

import numpy as np
import pytest
from model_helpers import VOCAB
from strategy_helpers import architecture

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Draft, EarlyExit, Jacobi, Sample, Speculative
from jaxmodels.decoding_bench.contestants import PLAIN, Contestant, contestants
from jaxmodels.decoding_bench.measure import Exam, sit, variation
from jaxmodels.decoding_bench.report import as_json, table

PROMPTS = np.asarray([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int32)


@pytest.fixture(scope="module")
def model():
    config, params = architecture("attention")
    return jm.Model(config=config, params=params)


def test_contestants_share_the_options_of_sequential_decoding(model):
    base = Autoregressive(sampler=Sample(temperature=0.7), top_logprobs=1)
    found = {one.name: one for one in contestants(model, base, {"itself": model})}
    assert next(iter(found)) == PLAIN and found[PLAIN].strategy == base
    drafted = [one.strategy for one in found.values() if isinstance(one.strategy, Speculative | Jacobi)]
    assert {"Jacobi, 4", "suffix", "lookahead", "first layers, 1", "itself, 2"} < set(found)
    assert all(it.sampler == base.sampler and it.top_logprobs == 1 for it in drafted)
    assert [one.name for one in found.values() if not one.keeps_text] == ["early exit, 0.9"]


def test_models_that_fill_in_masks_are_refused():
    with pytest.raises(ValueError, match="fills in masks"):
        contestants(jm.load("tiny-llada"), Autoregressive())


@pytest.mark.sweep
def test_a_greedy_contest(model):
    itself = Draft(model.config, model.params)
    field = (
        Contestant(name=PLAIN, strategy=Autoregressive()),
        Contestant(name="itself", strategy=Speculative(draft=itself, gamma=3)),
        Contestant(name="first block", strategy=EarlyExit(threshold=0.0, min_layers=1), keeps_text=False),
    )
    plain, drafted, shallow = sit(model, field, Exam(prompts=PROMPTS, new=13, rounds=1))
    assert plain.speed == 1.0 and plain.tokens_per_call == 1.0 and plain.accepted_at == ()
    # A draft that is the model itself is right each time: 12 tokens behind the first in 3 calls of 4.
    assert drafted.tokens_per_call == 4.0
    assert drafted.accepted_at == (1.0, 1.0, 1.0)
    assert (plain.agreement, drafted.agreement) == (1.0, 1.0) and shallow.agreement < 1.0
    assert plain.distance is drafted.distance is None
    assert drafted.tokens_per_second == pytest.approx(plain.tokens_per_second * drafted.speed)
    rows = as_json([plain, drafted, shallow])
    assert [row["name"] for row in rows] == [PLAIN, "itself", "first block"]
    assert table([plain, drafted, shallow]).row_count == 3


@pytest.mark.sweep
def test_draws_are_compared_with_draws(model):
    base = Autoregressive(sampler=Sample(temperature=1.0))
    field = (
        Contestant(name=PLAIN, strategy=base),
        Contestant(name="colder", strategy=Autoregressive(sampler=Sample(temperature=0.2)), keeps_text=False),
    )
    plain, colder = sit(model, field, Exam(prompts=PROMPTS[:1], new=3, rounds=1, draws=400))
    assert plain.agreement is None and plain.chance == colder.chance
    assert plain.distance < 1.5 * plain.chance < 0.5 * colder.distance


def test_the_variation_of_samples():
    ones, halves = np.ones((4, 2), int), np.asarray([[1, 1], [1, 1], [2, 1], [3, 1]])
    assert variation(ones, ones) == 0
    assert variation(ones, halves) == 0.25  # half of the first place, nothing of the second
    assert variation(ones, 1 + ones) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": PROMPTS[0]}, "prompts must be"),
        ({"prompts": PROMPTS, "new": 0}, "new must be"),
        ({"prompts": PROMPTS, "rounds": 0}, "rounds must be"),
    ],
)
def test_exams_that_ask_for_nothing(values, message):
    with pytest.raises(ValueError, match=message):
        Exam(**values)


def test_the_first_contestant_is_sequential(model):
    field = (Contestant(name="Jacobi", strategy=Jacobi()),)
    with pytest.raises(ValueError, match="first contestant must be 'autoregressive'"):
        list(sit(model, field, Exam(prompts=PROMPTS)))
    assert PROMPTS.max() < VOCAB
