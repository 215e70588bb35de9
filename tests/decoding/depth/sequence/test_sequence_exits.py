"""Whole sequences are answered where their gate says, with thresholds that keep what they promise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, random_params

from jaxmodels.decoding.depth.sequence import (
    ExitHeads,
    LearnedGate,
    QExit,
    ScoreExit,
    WindowExit,
    budgeted_exit,
    classify,
    exit_features,
    uncertainty_window,
)

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
ROWS, CLASSES, WIDTH = 16, 4, CONFIG.d_model
TOKENS, LENGTHS = draw_tokens(ROWS, 6), jnp.asarray(np.resize([1, 4, 6], ROWS))
RNG = np.random.default_rng(0)


def noise(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


HEADS = ExitHeads(weight=noise(3, CLASSES, WIDTH), bias=noise(3, CLASSES), exits=(0, 1, 2))
Q_EXIT = QExit(w_in=noise(5, 2 * WIDTH) / 4, b_in=noise(5), w_out=noise(5), b_out=jnp.asarray(-0.5))
LEARNED = LearnedGate(weight=noise(3, 3), bias=noise(3))


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def seen():
    """(features [B, E, D], logits [B, E, C]) of sequences read without padding."""
    features = np.zeros((ROWS, 3, WIDTH), np.float32)
    lengths = np.asarray(LENGTHS)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        features[rows] = exit_features(CONFIG, PARAMS, (0, 1, 2), TOKENS[rows, :length], LENGTHS[rows])
    return features, np.einsum("bed,ecd->bec", features, HEADS.weight) + np.asarray(HEADS.bias)


FEATURES, LOGITS = seen()
SCORES = softmax(LOGITS).max(-1)


def leaves_by_hand(gate):
    """bool[B, 2]"""
    if isinstance(gate, QExit):
        before, left, found = np.zeros((ROWS, WIDTH)), np.ones(ROWS), []
        for k in range(2):
            both = np.concatenate([FEATURES[:, k], before], -1)
            score = np.tanh(both @ np.asarray(gate.w_in).T + gate.b_in) @ gate.w_out + gate.b_out
            left, before = left * (1 - 1 / (1 + np.exp(-score))), FEATURES[:, k]
            found.append(1 - left >= gate.q)
        return np.stack(found, -1)
    if isinstance(gate, LearnedGate):
        p = softmax(LOGITS)
        ranked = np.sort(p, -1)
        entropy = -(p * np.log(p)).sum(-1) / np.log(CLASSES)
        shown = np.stack([ranked[..., -1], ranked[..., -1] - ranked[..., -2], entropy], -1)
        return ((shown * np.asarray(gate.weight)).sum(-1) + gate.bias >= 0)[:, :2]
    if isinstance(gate, ScoreExit):
        return SCORES[:, :2] >= gate.thresholds
    return (SCORES[:, :2] < gate.low) | (SCORES[:, :2] > gate.high)


MIDDLE = np.median(SCORES[:, :2], 0) + 1e-4
GATES = {
    "palbert": Q_EXIT,
    "jei_dnn": LEARNED,
    "score": ScoreExit(thresholds=MIDDLE),
    "window": WindowExit(low=MIDDLE - 0.1, high=MIDDLE + 0.1),
}


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_each_row_is_answered_by_the_exit_that_its_gate_says(gate):
    leaves = np.concatenate([leaves_by_hand(gate), np.ones((ROWS, 1), bool)], -1)
    exits = leaves.argmax(-1)
    assert len(set(exits)) > 1
    found = classify(CONFIG, PARAMS, HEADS, gate, TOKENS, LENGTHS)
    np.testing.assert_array_equal(found.exits, exits)
    np.testing.assert_array_equal(found.blocks, exits + 1)
    np.testing.assert_allclose(found.logits, LOGITS[np.arange(ROWS), exits], atol=1e-4)


def test_a_gate_that_never_answers_gives_the_last_heads_answer():
    never = ScoreExit(thresholds=np.asarray([np.inf, np.inf]))
    found = classify(CONFIG, PARAMS, HEADS, never, TOKENS, LENGTHS)
    np.testing.assert_allclose(found.logits, LOGITS[:, -1], atol=1e-4)


def made_up(count=4000):
    """Scores and right answers of exits of which later ones are better."""
    scores = RNG.uniform(size=(count, 3)) ** (1 / np.asarray([1, 2, 3]))
    return scores.astype(np.float32), RNG.uniform(size=scores.shape) < scores


@pytest.mark.parametrize("budget", [2.5, 5.0, 8.0])
def test_a_budget_of_exits_is_met(budget):
    scores, right = made_up()
    costs = np.asarray([2.0, 6.0, 12.0])
    gate = budgeted_exit(scores, right, costs, budget)
    leaves = np.concatenate([scores[:, :2] >= gate.thresholds, np.ones((len(scores), 1), bool)], -1)
    assert budget - 0.1 <= costs[leaves.argmax(-1)].mean() <= budget


def test_a_window_lets_its_share_go_on():
    scores, _ = made_up()
    gate = uncertainty_window(scores[:, :2], threshold=0.6, share=0.2)
    inside = (scores[:, 0] >= gate.low[0]) & (scores[:, 0] <= gate.high[0])
    assert inside.mean() == pytest.approx(0.2, abs=0.01)
    assert (gate.low <= 0.6).all() and (gate.high >= 0.6).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: budgeted_exit(*made_up(9), np.asarray([2.0, 6.0, 12.0]), 1.0), r"budget=1.0: .* met is 2"),
        (lambda: WindowExit(low=np.asarray([0.5]), high=np.asarray([0.4])), r"low\[0\]=0.5 must not exceed"),
        (
            lambda: ExitHeads(weight=noise(2, 4, 3), bias=noise(2, 3), exits=(0, 1)),
            r"got \[2, 4, 3\] and \[2, 3\]",
        ),
        (lambda: dataclasses.replace(HEADS, exits=(1, 0, 2)), r"exits must rise, got \[1, 0, 2\]"),
        (
            lambda: dataclasses.replace(Q_EXIT, q=1.5),
            "q must be a finite number >= 0 and <= 1, got 1.5",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_heads_and_thresholds_of_another_model_are_refused_before_compilation():
    heads = dataclasses.replace(HEADS, exits=(0, 1, 3))
    with pytest.raises(ValueError, match=r"heads up to block 3 .* this one's last block is 2"):
        jax.eval_shape(lambda t: classify(CONFIG, PARAMS, heads, Q_EXIT, t, LENGTHS), TOKENS)
    with pytest.raises(ValueError, match="3 thresholds are for 4 exits, but there are 3"):
        classify(CONFIG, PARAMS, HEADS, ScoreExit(thresholds=np.ones(3)), TOKENS, LENGTHS)
