"""Rules that go by thresholds, against the published rules written out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import BlockRefinementScheduler
from seen_cases import LENGTH, MASK, ROWS, SEEDS, VOCAB, agrees, choose, highest, rows_of, seen_case

from jaxmodels.decoding.masked.unmask import (
    AsSampled,
    CreditDecoding,
    DynamicThreshold,
    EntropyBounded,
    EntropyThreshold,
    Factor,
    Hierarchy,
    LocalLeap,
    Margin,
    NegativeEntropy,
    ReleasedFactor,
    StrictThreshold,
    Threshold,
)


def best(row):
    return {row.unknown[row.c[row.unknown].argmax()]}


def entropies(row):
    return -(row.p * np.log(np.where(row.p > 0, row.p, 1))).sum(-1)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
def test_thresholds_and_always_the_best(threshold):
    def by_hand(row):
        return {i for i in row.unknown if row.c[i] >= threshold} | best(row)

    counts = agrees(Threshold(threshold), by_hand)
    assert agrees(StrictThreshold(threshold), by_hand) == counts
    assert max(counts) > 1


def halves():
    """A view whose places have two equally likely tokens, so that probabilities are one half exactly."""
    logits = np.full((ROWS, LENGTH, VOCAB), -np.inf)
    logits[..., :2] = 0.0
    return seen_case(1, logits=logits, steps=[LENGTH] * ROWS, step=[0] * ROWS)


@pytest.mark.parametrize(
    ("rule", "reached"),
    [
        (Threshold(0.5), True),
        (StrictThreshold(0.5), False),
        (DynamicThreshold(0.5), False),
        (EntropyThreshold(float(np.float32(np.log(2)))), False),
        (LocalLeap(threshold=0.5, relaxed=0.5), True),
        (Hierarchy(threshold=0.5, low=0.5), False),
        (EntropyBounded(0.0), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_equals_a_threshold(rule, reached):
    """Reached or not as the published programs have it; of equals the first place comes first."""
    seen = halves()
    chosen = np.asarray(choose(rule, seen))
    masked = np.asarray(seen.masked)
    first = masked & (np.arange(LENGTH) == masked.argmax(1)[:, None])
    np.testing.assert_array_equal(chosen, masked if reached else first)


@pytest.mark.parametrize("temperature", [None, 1.7])
@pytest.mark.parametrize("threshold", [0.4, 0.85])
def test_a_dynamic_threshold_fills_in_at_least_the_share(threshold, temperature):
    def by_hand(row):
        confidence = row.distribution[np.arange(LENGTH), row.proposed]
        share = LENGTH // row.steps + (row.step < LENGTH % row.steps)
        above = [i for i in row.unknown if confidence[i] > threshold]
        return above if len(above) >= share else highest(confidence, row.unknown, share)

    rule = DynamicThreshold(threshold, AsSampled())
    assert len(set(agrees(rule, by_hand, temperature=temperature))) > 3
    if temperature is None:
        agrees(DynamicThreshold(threshold), by_hand)


@pytest.mark.parametrize("steps", [1, 5, LENGTH])
def test_a_dynamic_threshold_is_that_of_diffusers(steps):
    scheduler = BlockRefinementScheduler(block_length=LENGTH)
    scheduler.set_timesteps(steps)
    for seed in SEEDS:
        for step in {0, steps - 1}:
            seen = seen_case(seed, step=[step] * ROWS, steps=[steps] * ROWS)
            theirs = scheduler.step(
                torch.tensor(np.asarray(seen.logits)),
                step,
                torch.tensor(np.asarray(seen.tokens, np.int64)),
                mask_token_id=MASK,
                threshold=0.6,
            )
            ours = choose(DynamicThreshold(0.6), seen)
            np.testing.assert_array_equal(ours, theirs.transfer_index.numpy())
            np.testing.assert_array_equal(seen.proposed, theirs.sampled_tokens.numpy())


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_factors(factor):
    def paper(row):
        places = highest(row.c, row.unknown, None)
        passing = [n for n in range(1, len(places) + 1) if (n + 1) * (1 - row.c[places[n - 1]]) < factor]
        return places[: max(passing, default=1)]

    def released(row):
        places = highest(row.c, row.unknown, None)
        thresholds = [1 - factor / (n + 1) for n in range(1, len(places) + 1)]
        thresholds[0] = -1
        for index, place in enumerate(places):
            if row.c[place] < thresholds[index]:
                break
        if index in (0, len(places) - 1):
            index += 1
        return places[:index]

    assert len(set(agrees(Factor(factor), paper))) > 3
    assert agrees(ReleasedFactor(factor), released) != agrees(Factor(factor), paper)


def test_the_factors_differ_where_the_last_place_fails():
    probability = np.array([[0.96, 0.3, 0.99, 0.97]])
    seen = replace(seen_case(0, length=4, masked=np.ones((1, 4), bool)), probability=jnp.asarray(probability))
    assert choose(Factor(1.0), seen)[0].tolist() == [True, False, True, True]
    assert choose(ReleasedFactor(1.0), seen)[0].tolist() == [True] * 4


@pytest.mark.parametrize("threshold", [0.2, 0.9, 1.5])
def test_entropy_thresholds(threshold):
    def by_hand(row):
        entropy = entropies(row)
        lowest = row.unknown[entropy[row.unknown].argmin()]
        return {i for i in row.unknown if entropy[i] < threshold} | {lowest}

    assert max(agrees(EntropyThreshold(threshold), by_hand)) > 1


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_leaps_around_anchors(radius):
    def by_hand(row):
        anchors = [i for i in row.unknown if row.c[i] >= 0.8]
        near = {j for i in anchors for j in range(i - radius, i + radius + 1)}
        return {i for i in row.unknown if row.c[i] >= (0.4 if i in near else 0.8)} | best(row)

    counts = agrees(LocalLeap(threshold=0.8, relaxed=0.4, radius=radius), by_hand)
    assert max(counts) > 3


@pytest.mark.parametrize(("threshold", "low"), [(0.9, 0.4), (0.6, 0.1), (2.0, 0.0)])
def test_hierarchies_take_the_best_of_each_run(threshold, low):
    def by_hand(row):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.masked, [0]])))
        runs = zip(edges[::2], edges[1::2], strict=True)
        of_runs = {start + row.c[start:end].argmax() for start, end in runs}
        above = {i for i in row.unknown if row.c[i] > threshold}
        return {i for i in of_runs if row.c[i] > low} | above | best(row)

    assert len(set(agrees(Hierarchy(threshold=threshold, low=low), by_hand))) > 3


@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("by", [None, Margin()], ids=str)
def test_entropy_bounds(bound, by):
    def by_hand(row):
        entropy = entropies(row)
        first, second = np.sort(row.p, axis=-1)[:, [-1, -2]].T
        proxy = -entropy if by is None else first - second
        places = highest(proxy, row.unknown, None)
        within = [
            k
            for k in range(1, len(places) + 1)
            if entropy[places[:k]].sum() - entropy[places[:k]].max() <= bound
        ]
        return places[: max(within, default=1)]

    rule = EntropyBounded(bound) if by is None else EntropyBounded(bound, by)
    counts = agrees(rule, by_hand)
    assert max(counts) > 1 or not bound


def test_the_entropy_bound_of_the_published_example():
    """Entropies .01 .05 .03 .2 .04 with bound .1: all but .2."""
    shares = [0.001, 0.0085, 0.0045, 0.05, 0.0065]
    logits = np.full((1, 5, VOCAB), -np.inf)
    logits[0, :, 0], logits[0, :, 1] = np.log1p(-np.asarray(shares)), np.log(shares)
    seen = seen_case(0, length=5, masked=np.ones((1, 5), bool), logits=logits)
    (row,) = rows_of(seen)
    np.testing.assert_allclose(entropies(row), [0.01, 0.05, 0.03, 0.2, 0.04], atol=0.01)
    assert choose(EntropyBounded(0.1), seen)[0].tolist() == [True, True, True, False, True]


def test_credits_grow_where_a_token_stays_the_likeliest():
    """Some steps of a block whose logits are drawn anew each time, in double precision beside ours."""
    rule = CreditDecoding(then=Threshold(0.6))
    step = jax.jit(lambda rule, seen: rule.fuse(seen))
    memory = rule.begin(ROWS, LENGTH, VOCAB)
    credit = np.zeros((ROWS, LENGTH, VOCAB))
    base = np.random.default_rng(5).standard_normal((ROWS, LENGTH, VOCAB)) * 2
    counts = []
    for seed in range(8):
        noise = np.random.default_rng(seed).standard_normal((ROWS, LENGTH, VOCAB)) * 0.5
        seen = seen_case(seed, logits=base + noise, memory=memory)
        fused, memory = step(rule, seen)
        credit *= 0.8 if seed else 1.0
        for b, row in enumerate(rows_of(seen)):
            for i in row.unknown:
                credit[b, i, row.p[i].argmax()] += row.p[i].max() ** 0.2
        expected = np.asarray(seen.logits, np.float64) + 0.7 * np.log(1 + credit)
        np.testing.assert_allclose(memory, credit, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-5)
        shown = seen_case(seed, masked=seen.masked, logits=fused, memory=memory)
        chosen = np.asarray(choose(rule, shown))
        np.testing.assert_array_equal(chosen, choose(Threshold(0.6), shown))
        counts.append(chosen.sum())
    assert counts[-1] > counts[0]  # the same places with the same doubt: credit alone makes them sure


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threshold(-0.1), "threshold must be a finite number >= 0, got -0.1"),
        (lambda: StrictThreshold(float("nan")), "threshold must be a finite number >= 0, got nan"),
        (lambda: DynamicThreshold("0.9"), "threshold must be a number, got '0.9'"),
        (lambda: EntropyThreshold(-1), "threshold must be a finite number >= 0, got -1"),
        (lambda: Threshold(0.9, NegativeEntropy()), r"by: NegativeEntropy\(\) is never above 0.*Entropy"),
        (lambda: DynamicThreshold(0.9, AsSampled(NegativeEntropy())), "by: AsSampled.* is never above 0"),
        (lambda: Factor(0), "factor must be a finite number > 0, got 0"),
        (lambda: ReleasedFactor(-2.0), "factor must be a finite number > 0, got -2.0"),
        (lambda: LocalLeap(radius=-1), "radius must be a whole number >= 0 .*, got -1"),
        (lambda: LocalLeap(threshold=0.7), r"relaxed=0.75 must not exceed threshold=0.7"),
        (lambda: Hierarchy(low=-1.0), "low must be a finite number >= 0, got -1.0"),
        (lambda: EntropyBounded(-0.1), "bound must be a finite number >= 0, got -0.1"),
        (lambda: CreditDecoding(decay=1.5), "decay must be a finite number >= 0 and <= 1, got 1.5"),
        (lambda: CreditDecoding(then=CreditDecoding()), "then: CreditDecoding has a memory of its own"),
        (lambda: CreditDecoding(then=Threshold), r"then must be one such as Threshold\(0.9\), got <class"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        (Threshold(0.1), Threshold(0.9)),
        (StrictThreshold(0.1), StrictThreshold(0.9)),
        (DynamicThreshold(0.1), DynamicThreshold(0.9)),
        (Factor(0.1), Factor(2.0)),
        (EntropyThreshold(0.1), EntropyThreshold(0.9)),
        (EntropyBounded(0.1), EntropyBounded(0.9)),
        (Hierarchy(low=0.1), Hierarchy(threshold=0.8)),
        (LocalLeap(radius=1), LocalLeap(radius=3, relaxed=0.1)),
        (CreditDecoding(decay=0.1), CreditDecoding(weight=0.9)),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_numbers_are_data(rule, other):
    assert jax.tree.structure(rule) == jax.tree.structure(other)
