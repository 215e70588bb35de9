"""Questions put to models: what counts as a right answer, and how calls are counted."""

import dataclasses

import pytest

import jaxmodels as jm
from jaxmodels.checkpoints import GenerationDefaults, Tokenizer
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL
from jaxmodels.models.filling import MaskFilling
from jaxmodels.parallel_bench.measure import Candidate, Exam, words_of
from jaxmodels.parallel_bench.train import LLAMA
from jaxmodels.parallel_bench.vocabulary import MASK_ID, build_tokenizer


@pytest.fixture(scope="module")
def untrained():
    """A small model of the tasks' vocabulary that fills in masks at random."""
    values = {**LLAMA, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = dataclasses.replace(
        jm.config_from_hf(values), mask=BIDIRECTIONAL, filling=MaskFilling(mask_token=MASK_ID)
    )
    return dataclasses.replace(
        jm.init(config, seed=0),
        tokenizer=Tokenizer.from_backend(build_tokenizer()),
        generation=GenerationDefaults(eos_token_ids=(0,), pad_token_id=0),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada Bob", ("Ada", "Bob")),
        (" [Ada, 'Bob']\nAda", ("Ada", "Bob")),
        ("", ()),
        ("\n \n", ()),
        ("Ada_Bob", ("Ada", "Bob")),
    ],
)
def test_words_of_an_answer(text, words):
    assert words_of(text) == words


@pytest.mark.sweep
def test_calls_follow_from_the_plan(untrained):
    candidate = Candidate(model=untrained, exam=Exam(tasks=("copy", "insert_random"), count=3, length=4))
    assert candidate.canvas == 6  # the longest answer and its end
    trials = list(candidate.fill("confidence", (1, 2, 4, 16)))
    assert [(it.task, it.value) for it in trials[:3]] == [("copy", 1), ("insert_random", 1), ("copy", 2)]
    assert [it.calls for it in trials[::2]] == [6, 3, 2, 1]
    assert all(it.accuracy == 0 for it in trials)
    assert trials[2].tokens_per_call == 2


def test_one_token_after_the_other_takes_a_call_for_each(untrained):
    config = dataclasses.replace(untrained.config, mask=CAUSAL, filling=None)
    model = dataclasses.replace(untrained, config=config)
    candidate = Candidate(model=model, exam=Exam(tasks=("copy",), count=2, length=4, canvas=9))
    (trial,) = candidate.continue_text()
    assert trial.value is None and 1 <= trial.calls <= 9


def test_what_cannot_be_asked_is_told(untrained):
    with pytest.raises(ValueError, match="no tokenizer"):
        Candidate(model=dataclasses.replace(untrained, tokenizer=None), exam=Exam(tasks=("copy",)))
    with pytest.raises(ValueError, match="temperature"):
        Exam(tasks=("copy",), temperature=-1.0)


@pytest.mark.sweep
def test_speed_costs_nothing_on_a_copy_and_everything_on_a_shuffle():
    exam = Exam(tasks=("copy", "shuffle"), count=40, length=6)
    filler = Candidate(model=jm.load("tiny-llada-lists", dtype="float32"), exam=exam)
    twin = Candidate(model=jm.load("tiny-llama-lists", dtype="float32"), exam=exam)
    copy, shuffle = filler.fill("confidence", (16,))
    assert copy.calls == shuffle.calls == 1
    assert copy.accuracy >= 0.95
    assert shuffle.accuracy <= 0.15  # 6!/6**6 = 0.015 of a model whose probabilities are exact
    alone, _ = twin.continue_text()
    assert alone.accuracy >= 0.95 and alone.calls == pytest.approx(7)
    careful, _ = filler.fill("confidence", (1,))
    fast, _ = filler.fill("threshold", (0.9,))
    assert careful.calls >= 3 * fast.calls
    assert fast.accuracy >= careful.accuracy - 0.05
