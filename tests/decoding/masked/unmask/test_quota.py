"""The even schedule of LLaDA, and what orders the places, against the published rules written out."""

from dataclasses import is_dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from seen_cases import LENGTH, MASK, ROWS, agrees, choose, highest, rows_of, seen_case, softmax

from jaxmodels.decoding.masked.unmask import (
    AsSampled,
    EndsLast,
    Margin,
    NegativeEntropy,
    Probability,
    Quota,
    Random,
)
from jaxmodels.decoding.masked.unmask.quota import even_share


def schedule(masks, steps):
    """LLaDA's `get_num_transfer_tokens`."""
    return [masks // steps + (i < masks % steps) for i in range(steps)]


def margin(p):
    first, second = np.sort(p, axis=-1)[..., [-1, -2]].T
    return first - second


def negative_entropy(p):
    return (p * np.log(p + 1e-10)).sum(-1)


@pytest.mark.parametrize(
    ("masks", "steps", "shares"), [(10, 4, [3, 3, 2, 2]), (32, 5, [7, 7, 6, 6, 6]), (4, 4, [1, 1, 1, 1])]
)
def test_shares_are_those_of_the_schedule(masks, steps, shares):
    ours = even_share(jnp.int32(masks), jnp.int32(steps), jnp.arange(steps))
    assert ours.tolist() == shares == schedule(masks, steps)


def test_a_step_fills_in_at_least_one_place():
    assert even_share(3, jnp.int32(5), jnp.arange(7)).tolist() == [1] * 7


@pytest.mark.parametrize(
    ("by", "value"),
    [
        (Probability(), lambda row: row.c),
        (Margin(), lambda row: margin(row.p)),
        (NegativeEntropy(), lambda row: negative_entropy(row.p)),
        (AsSampled(), lambda row: row.distribution[np.arange(LENGTH), row.proposed]),
        (AsSampled(Margin()), lambda row: margin(row.distribution)),
        (AsSampled(NegativeEntropy()), lambda row: negative_entropy(row.distribution)),
    ],
    ids=lambda value: str(value) if is_dataclass(value) else "",
)
@pytest.mark.parametrize("temperature", [None, 1.7])
def test_the_surest_places_come_first(by, value, temperature):
    def by_hand(row):
        share = max(schedule(int(row.initial), int(row.steps))[row.step], 1)
        return highest(value(row), row.unknown, share)

    counts = agrees(Quota(by), by_hand, temperature=temperature)
    assert len(set(counts)) > 5


def test_random_places_follow_the_keys_of_their_rows():
    options = {"masked": np.ones((ROWS, LENGTH), bool), "initial": [LENGTH] * ROWS, "steps": [4] * ROWS}
    chosen = np.asarray(choose(Quota(Random()), seen_case(0, **options)))
    assert (chosen.sum(1) == LENGTH // 4).all()
    assert chosen.mean(0).min() > 0.15 and chosen.mean(0).max() < 0.35
    np.testing.assert_array_equal(chosen, choose(Quota(Random()), seen_case(0, **options)))
    assert (chosen != choose(Quota(Random()), seen_case(1, **options))).any()


def test_ends_are_filled_in_last():
    """LLaDA's `confidence_eos_eot_inf` at temperature 0: two tokens that end a text leave the softmax."""
    ends = (3, 11)

    def by_hand(row):
        logits = row.logits.astype(np.float64)
        logits[:, ends] = -np.inf
        confidence = softmax(logits)[np.arange(LENGTH), row.proposed]
        share = max(schedule(int(row.initial), int(row.steps))[row.step], 1)
        return highest(confidence, row.unknown, share)

    assert max(agrees(Quota(EndsLast(ends)), by_hand)) > 1
    for row in rows_of(seen_case(0)):
        assert MASK not in row.proposed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quota(Probability), r"by must be one such as Probability\(\), got <class"),
        (lambda: Quota(3), "by must be one such as .* got 3"),
        (lambda: EndsLast(()), r"tokens must be a sequence of at least one token id, got \(\)"),
        (lambda: EndsLast((-1,)), r"tokens\[0\] must be a whole number >= 0 .*, got -1"),
    ],
)
def test_what_is_no_confidence_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
