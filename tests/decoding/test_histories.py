"""Settled prompts as values: gone on from, branched, and refused where they do not fit."""

import numpy as np
import pytest
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.decoding import driver
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.decoding.samplers import Sample

# One family for each kind of state; attention beside state space layers runs every time.
STATES = ["bamba"] + [
    pytest.param(name, marks=pytest.mark.sweep)
    for name in ("deepseek_v2", "mamba", "qwen3_next", "recurrent_gemma", "minimax", "lfm2", "gpt_oss")
]
PROMPTS = [[5, 4, 3, 9, 8, 1, 2], [7, 7, 3]]
NEW = 8


def model_of(family):
    return jm.init(jm.config_from_hf(CONFIGS[family]), seed=1)


@pytest.fixture(scope="module")
def model():
    return model_of("bamba")


def tokens(model, prompts, **options):
    return model.generate(prompts, NEW, stop_tokens=(), **options).tokens


@pytest.mark.sweep
@pytest.mark.parametrize("family", STATES)
def test_going_on_from_a_history_gives_the_same_tokens_again_and_again(family):
    model = model_of(family)
    history = model.prefill(PROMPTS)
    assert history.tokens == ((5, 4, 3, 9, 8, 1), (7, 7))
    np.testing.assert_array_equal(history.cache.length, history.lengths)
    expected = tokens(model, PROMPTS)
    for _ in range(2):
        np.testing.assert_array_equal(tokens(model, PROMPTS, history=history), expected)


@pytest.mark.sweep
def test_branches_go_on_with_prompts_of_their_own(model):
    shared = [5, 4, 3, 9]
    history = model.prefill([*shared, 0]).branched(3)
    prompts = [[*shared, 8, 1, 2], [*shared, 6], [*shared, *range(10, 30)]]
    np.testing.assert_array_equal(tokens(model, prompts, history=history), tokens(model, prompts))


def test_rows_are_taken_by_number(model):
    history = model.prefill(PROMPTS).rows([1, 0])
    assert history.tokens == ((7, 7), (5, 4, 3, 9, 8, 1))
    swapped = PROMPTS[::-1]
    np.testing.assert_array_equal(tokens(model, swapped, history=history), tokens(model, swapped))


@pytest.mark.sweep
def test_samples_and_penalties_are_those_of_the_whole_prompt(model):
    strategy = jm.decoding.Autoregressive(
        sampler=Sample(temperature=0.8), processors=(RepetitionPenalty(1.5),)
    )
    history = model.prefill(PROMPTS)
    found = tokens(model, PROMPTS, history=history, strategy=strategy, seed=4)
    np.testing.assert_array_equal(found, tokens(model, PROMPTS, strategy=strategy, seed=4))


@pytest.mark.sweep
def test_prompts_of_several_windows_go_on(model):
    strategy = jm.decoding.Autoregressive(prefill_window=32)
    prompts = [list(np.random.default_rng(0).integers(250, size=size)) for size in (100, 45)]
    history = model.prefill([row[:20] for row in prompts], 128)
    found = tokens(model, prompts, history=history, strategy=strategy)
    np.testing.assert_array_equal(found, tokens(model, prompts))


def test_a_history_of_one_token_is_empty(model):
    history = model.prefill([[5]])
    assert history.tokens == ((),)
    np.testing.assert_array_equal(tokens(model, [[5]], history=history), tokens(model, [[5]]))


def test_one_program_serves_all_prompts_of_a_bucket(model):
    history = model.prefill(PROMPTS)
    tokens(model, PROMPTS, history=history)
    programs = driver.generate.count()
    tokens(model, [[*PROMPTS[0], 3, 2], [7, 7, 1]], history=history)
    assert driver.generate.count() == programs


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ([[5, 4, 3]], "it has 2 rows, and there are 1 prompts"),
        ([[5, 4, 9, 9, 8, 1, 2], [7, 7, 3]], "row 0 has token 3 at 2, and its prompt has 9"),
        ([[5, 4, 3, 9, 8, 1, 2], [7, 7]], "row 1 has 2 tokens settled and its prompt 2"),
    ],
)
def test_prompts_that_do_not_go_on_from_it_are_refused(model, prompts, told):
    with pytest.raises(ValueError, match=told):
        tokens(model, prompts, history=model.prefill(PROMPTS))


def test_more_tokens_than_it_has_slots_for_are_refused(model):
    history = model.prefill(PROMPTS, capacity=12)
    with pytest.raises(ValueError, match="capacity=12 cannot hold a prompt of 7 tokens"):
        tokens(model, PROMPTS, history=history)
    with pytest.raises(ValueError, match="capacity=64: the history has 12 slots"):
        tokens(model, PROMPTS, history=history, capacity=64)
    with pytest.raises(ValueError, match="capacity=6 cannot hold a prompt of 7 tokens"):
        model.prefill(PROMPTS, capacity=6)


def test_a_strategy_that_reads_prompts_whole_is_refused(model):
    with pytest.raises(ValueError, match=r"Jacobi reads prompts whole; Autoregressive\(\.\.\.\) goes on"):
        tokens(model, PROMPTS, history=model.prefill(PROMPTS), strategy=jm.decoding.Jacobi())


def test_rows_that_it_does_not_have_are_refused(model):
    history = model.prefill(PROMPTS)
    with pytest.raises(ValueError, match=r"numbers\[1\] must be a whole number .*1, got 2"):
        history.rows([0, 2])
    with pytest.raises(ValueError, match="numbers: got none"):
        history.rows([])
    with pytest.raises(ValueError, match="times must be a whole number"):
        history.branched(0)
