"""Dream's schedule and rules against `diffusion_generate` written out."""

import numpy as np
import pytest
import torch
from seen_cases import LENGTH, ROWS, VOCAB, agrees, choose, highest, seen_case

from jaxmodels.decoding.masked.unmask import Dream, DreamOrigin, Margin, NegativeEntropy, Probability
from jaxmodels.decoding.masked.unmask.dream import revealed_share


def share(step, steps, eps=1e-3):
    """1 - s / t as the released program computes it."""
    times = torch.linspace(1, eps, steps + 1)
    return float(1 - times[step + 1] / times[step])


def count(unknown, step, steps, eps=1e-3):
    return int(unknown * share(step, steps, eps)) if step < steps - 1 else unknown


@pytest.mark.parametrize(
    ("masks", "steps", "counts"),
    [(16, 8, [1, 2, 2, 2, 2, 2, 2, 3]), (32, 8, [3, 4, 4, 4, 4, 4, 4, 5]), (5, 7, None), (32, 32, None)],
)
def test_a_block_is_filled_in_by_the_schedule(masks, steps, counts):
    unknown = np.ones((1, masks), bool)
    filled = []
    for step in range(steps):
        seen = seen_case(step, length=masks, masked=unknown, step=[step], steps=[steps])
        chosen = np.asarray(choose(Dream(), seen))
        filled.append(int(chosen.sum()))
        assert filled[-1] == count(int(unknown.sum()), step, steps)
        unknown = unknown & ~chosen
    assert not unknown.any()
    assert counts in (None, filled)
    assert (0 in filled) == (steps >= masks)  # a step may fill in none


def test_shares_are_of_all_unknown_places():
    """Of 16 unknown places half can be filled in now: the second of 8 steps takes 2 of these."""
    masked = np.arange(16)[None] < 8
    seen = seen_case(0, length=16, masked=masked, step=[1], steps=[8], unknown=np.ones((1, 16), bool))
    chosen = np.asarray(choose(Dream(), seen))
    assert chosen.sum() == count(16, 1, 8) == 2 != count(8, 1, 8)
    assert not chosen[:, 8:].any()


def margin(p):
    first, second = np.sort(p, axis=-1)[..., [-1, -2]].T
    return first - second


@pytest.mark.parametrize("temperature", [None, 0.4])
@pytest.mark.parametrize(
    ("by", "value"),
    [
        (Probability(), lambda p, tokens: p[np.arange(LENGTH), tokens]),
        (Margin(), lambda p, tokens: margin(p)),
        (NegativeEntropy(), lambda p, tokens: (p * np.log(p + 1e-10)).sum(-1)),
    ],
    ids=["maskgit_plus", "topk_margin", "entropy"],
)
def test_the_surest_places_come_first(by, value, temperature):
    # No certainties, which single precision could not tell apart.
    def by_hand(row):
        number = count(len(row.unknown), int(row.step), int(row.steps))
        return highest(value(row.distribution.astype(np.float64), row.proposed), row.unknown, number)

    rng = np.random.default_rng(3)
    logits = rng.standard_normal((ROWS, LENGTH, VOCAB)) * np.exp(rng.uniform(-1, 0.5, (ROWS, LENGTH, 1)))
    assert len(set(agrees(Dream(by=by), by_hand, temperature=temperature, logits=logits))) > 3


def test_a_temperature_draws_places_without_replacement():
    """How often each place is among those drawn, against torch's multinomial on the same probabilities."""
    confidence = np.linspace(0.51, 0.9, 4)
    logits = np.full((500, 4, VOCAB), -np.inf)
    logits[..., 0], logits[..., 1] = 0.0, np.log(1 / confidence - 1)
    ours, theirs = np.zeros(4), np.zeros(4)
    for seed in range(4):
        masked = np.ones((500, 4), bool)
        seen = seen_case(seed, length=4, masked=masked, logits=logits, step=[1] * 500, steps=[3] * 500)
        chosen = np.asarray(choose(Dream(temperature=0.2), seen))
        assert (chosen.sum(1) == count(4, 1, 3)).all() and 0 < count(4, 1, 3) < 4
        ours += chosen.sum(0)
        weights = torch.softmax(torch.tensor(confidence / 0.2), -1).expand(500, 4)
        drawn = torch.multinomial(
            weights, count(4, 1, 3), generator=torch.Generator().manual_seed(seed)
        ).numpy()
        theirs += np.bincount(drawn.ravel(), minlength=4)
    np.testing.assert_allclose(ours / 2000, theirs / 2000, atol=0.05)


def test_origin_draws_every_place_by_itself():
    for step in range(8):
        seen = seen_case(step, masked=np.ones((ROWS, LENGTH), bool), steps=[8] * ROWS, step=[step] * ROWS)
        filled = np.asarray(choose(DreamOrigin(), seen)).sum(1)
        chance = share(step, 8) if step < 7 else 1
        assert abs(filled.mean() / LENGTH - chance) < 0.04
        assert abs(filled.var() / LENGTH - chance * (1 - chance)) < 0.08


def test_the_share_is_that_of_the_released_program():
    for steps in (1, 2, 7, 512):
        seen = seen_case(0, masked=np.ones((steps, 2), bool), length=2, step=np.arange(steps))
        seen = seen.replace(steps=np.full(steps, steps))
        ours = np.asarray(revealed_share(seen, 0.02))
        theirs = [share(step, steps, 0.02) for step in range(steps - 1)]
        np.testing.assert_allclose(ours[:-1], theirs, rtol=1e-3, atol=1e-6)
        assert ours[-1] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dream(temperature=-1), "temperature must be a finite number >= 0, got -1"),
        (lambda: Dream(eps=0), "eps must be a finite number > 0 and <= 1, got 0"),
        (lambda: DreamOrigin(eps=2), "eps must be a finite number > 0 and <= 1, got 2"),
        (lambda: Dream(by="entropy"), r"by must be one such as Probability\(\), got 'entropy'"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
