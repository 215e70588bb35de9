"""Exits against the published programs written out."""

import math

import jax
import numpy as np
import pytest
from seen_cases import LENGTH, ROWS, VOCAB, edit, remember, rows_of, seen_case

from jaxmodels.decoding.masked.stop import Cosine, Exponential, Linear, Prophet, SchED


def threshold_by_hand(kind, step, steps, high, low, rate):
    if steps <= 1:
        return low
    t = min(1.0, step / (steps - 1))
    return {
        "linear": high + (low - high) * t,
        "cosine": low + (high - low) * 0.5 * (1 + math.cos(math.pi * t)),
        "exponential": low + (high - low) * math.exp(-rate * t),
    }[kind]


SCHEDULES = {
    "linear": Linear(high=6.0, low=1.0),
    "cosine": Cosine(high=6.0, low=1.0),
    "exponential": Exponential(high=6.0, low=1.0, rate=2.0),
}


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("most_changed", "patience"), [(1.0, 0), (0.0, 0), (0.3, 1), (1.0, 2)])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_exits_by_a_schedule(kind, most_changed, patience):
    """A block's steps in turn; the logits of most places hardly change from one to the next."""
    steps, rng = 8, np.random.default_rng(3)
    rule = SchED(threshold=SCHEDULES[kind], least_progress=0.3, most_changed=most_changed, patience=patience)
    memory = rule.begin(ROWS, LENGTH, VOCAB)
    base = rng.standard_normal((ROWS, LENGTH, VOCAB)) * np.exp(rng.uniform(-1, 2, (ROWS, 1, 1)))
    order = rng.permuted(np.tile(np.arange(LENGTH), (ROWS, 1)), axis=1)
    before, calm, exits = [None] * ROWS, [0] * ROWS, []
    for step in range(steps):
        seen = seen_case(
            step,
            logits=base + rng.standard_normal(base.shape) * rng.choice([0.02, 0.5], (ROWS, 1, 1)),
            masked=order >= LENGTH * step // steps,
            initial=[LENGTH] * ROWS,
            steps=[steps] * ROWS,
            step=[step] * ROWS,
            memory=memory,
        )
        logits, memory = remember(rule, seen)
        np.testing.assert_array_equal(logits, seen.logits)
        ours = np.asarray(edit(rule, seen.replace(memory=memory), seen.tokens))
        for b, row in enumerate(rows_of(seen)):
            likeliest = row.logits.argmax(-1)
            changed = 1.0
            if before[b] is not None:
                changed = float((likeliest != before[b])[row.unknown].mean())
            before[b] = likeliest
            progress = 1 - len(row.unknown) / LENGTH
            calm[b] = calm[b] + 1 if progress >= 0.3 and changed <= most_changed else 0
            first, second = np.sort(row.logits.astype(np.float64), axis=-1)[:, [-1, -2]].T
            margin = (first - second)[row.unknown].mean()
            least = threshold_by_hand(kind, step, steps, 6.0, 1.0, 2.0)
            assert ours[b] == (progress >= 0.3 and margin >= least and calm[b] > patience), (step, b)
        exits.append(int(ours.sum()))
    assert exits[0] == 0 < max(exits) < ROWS


def test_the_rule_of_the_paper_needs_no_second_step():
    logits = np.zeros((ROWS, LENGTH, VOCAB))
    logits[..., 0] = 8.0
    options = {"logits": logits, "steps": [LENGTH] * ROWS, "step": [0] * ROWS}
    for rule, exits in ((SchED(), True), (SchED(most_changed=0.0), False)):
        seen = seen_case(0, **options, memory=rule.begin(ROWS, LENGTH, VOCAB))
        seen = seen.replace(memory=remember(rule, seen)[1])
        ours = np.asarray(edit(rule, seen, seen.tokens))
        np.testing.assert_array_equal(ours, np.asarray(seen.masked).any(1) & exits)


@pytest.mark.parametrize(("start", "length"), [(0, 5), (4, 2), (9, 5)])
def test_exits_by_the_answer(start, length):
    exits = []
    for seed in range(3):
        seen = seen_case(seed)
        ours = np.asarray(edit(Prophet(start=start, length=length), seen, seen.tokens))
        for b, row in enumerate(rows_of(seen)):
            text = np.flatnonzero(row.masked | row.editable)
            first, second = np.sort(row.logits.astype(np.float64), axis=-1)[:, [-1, -2]].T
            margins = (first - second)[text[start : start + length]]
            progress = (row.step + 1) / row.steps
            least = 7.5 if progress < 0.33 else 5.0 if progress < 0.67 else 2.5
            expected = row.masked.any() and margins.size > 0 and margins.mean() >= least
            assert ours[b] == expected, (seed, b)
            exits.append(expected)
    assert 0 < sum(exits) < len(exits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SchED(least_progress=1.5), "least_progress must be a finite number >= 0 and <= 1, got 1.5"),
        (lambda: SchED(most_changed=-0.1), "most_changed must be a finite number >= 0 and <= 1, got -0.1"),
        (lambda: SchED(patience=-1), "patience must be a whole number >= 0 .*, got -1"),
        (lambda: SchED(threshold=7.5), r"threshold must be one such as Cosine\(\), got 7.5"),
        (lambda: Linear(high=-1), "high must be a finite number >= 0, got -1"),
        (lambda: Exponential(rate=-1), "rate must be a finite number >= 0, got -1"),
        (lambda: Prophet(start=-1), "start must be a whole number >= 0 .*, got -1"),
        (lambda: Prophet(start=0, length=0), "length must be a whole number >= 1 .*, got 0"),
        (lambda: Prophet(start=0, late=-2.5), "late must be a finite number >= 0, got -2.5"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_are_data():
    assert jax.tree.structure(SchED(patience=3)) == jax.tree.structure(SchED(most_changed=0.0))
    assert jax.tree.structure(Prophet(start=3)) == jax.tree.structure(Prophet(start=9, length=2, late=0.0))
