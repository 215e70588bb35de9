"""The bundled model of scratchpads, closings of its texts, and the probe that leaves its thinking."""

import dataclasses

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import ThinkingExit
from jaxmodels.decoding.thinking.probe_training import ProbeTraining
from jaxmodels.parallel_bench.scratchpads import replacements
from jaxmodels.parallel_bench.thinking import (
    TAPS,
    Answered,
    Closings,
    Lesson,
    Moment,
    Thinker,
    calibrated,
    fit_probe,
)

SEED = 9  # of questions that nothing was trained on


@pytest.fixture(scope="module")
def thinker():
    return Thinker(jm.load("tiny-llama-scratchpad", "float32"))


@pytest.fixture(scope="module")
def lesson(thinker):
    return thinker.lesson(24, SEED)


@pytest.mark.sweep
def test_the_model_answers_rightly_after_thinking_and_not_at_once(thinker, lesson):
    asked = replacements(24, SEED)
    at_once = thinker.answer_at_once(asked).is_right.mean()
    assert lesson.answered.is_right.mean() > 0.75 and at_once < 0.6
    needed = np.asarray([len(one.thoughts) * (len(one.items) + 1) for one in asked])
    assert (lesson.answered.thinking >= needed).mean() > 0.75  # it overthinks


@pytest.mark.sweep
def test_answers_are_forced_at_every_cue_and_late_ones_are_right(thinker, lesson):
    cue = thinker.id_of("wait")
    moments = [(one.text, one.place) for one in lesson.closings.moments]
    assert moments == [
        (i, place)
        for i, text in enumerate(lesson.answered.texts)
        for place, token in enumerate(text)
        if token == cue
    ]
    last = dict(moments)
    late = [last[i] == place for i, place in moments]
    assert lesson.closings.is_right[late].mean() > 0.75 > lesson.closings.is_right[~np.asarray(late)].mean()


def test_a_moment_is_premature_where_only_the_answer_of_all_thinking_is_right():
    answered = Answered([[1] * 5, [1] * 5], np.asarray([True, False]), np.asarray([3, 3]))
    moments = [Moment(0, 1), Moment(0, 3), Moment(1, 1), Moment(1, 3)]
    found = Lesson(answered, Closings(moments, np.asarray([False, True, False, True]))).premature(5)
    assert np.argwhere(found).tolist() == [[0, 1]]


def test_a_fitted_and_calibrated_probe_leaves_early_and_keeps_the_answers(thinker, lesson):
    probe = fit_probe(thinker, lesson, TAPS, ProbeTraining(hidden=(), steps=200, learning_rate=0.01))
    assert probe.threshold == 1.0
    probe = calibrated(thinker, lesson, probe, 0.1)
    strategy = ThinkingExit(delimiters=thinker.delimiters, policy=probe)
    left = thinker.think(replacements(24, SEED), strategy)
    assert left.thinking.mean() < 0.9 * lesson.answered.thinking.mean()
    # The promise holds on the very questions that the threshold was found on.
    assert (lesson.answered.is_right & ~left.is_right).mean() <= 0.1


@pytest.mark.sweep
def test_the_bundled_probe_is_for_the_bundled_model(thinker):
    assert jm.list_bundled_thinking() == ("tiny-llama-scratchpad-probe",)
    probe = jm.load_thinking("tiny-llama-scratchpad-probe", thinker.model)
    assert probe.moments == thinker.cues and probe.taps == TAPS and 0 < probe.threshold < 1
    never = dataclasses.replace(probe, threshold=1.0)
    asked = replacements(8, SEED)
    counts = [
        thinker.think(asked, ThinkingExit(delimiters=thinker.delimiters, policy=policy)).thinking
        for policy in (probe, never)
    ]
    assert (counts[0] <= counts[1]).all() and counts[0].sum() < counts[1].sum()
