"""MaskGIT's and MAGE's rules against their written-out forms, and against the scheduler of `diffusers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AmusedScheduler
from diffusers.schedulers import scheduling_amused
from seen_cases import MASK, choose, seen_case

from jaxmodels.decoding.masked.unmask.maskgit import MAGE, MaskGIT, left_unknown
from jaxmodels.decoding.masked.unmask.schedules import Cosine, FromTo, Power, ToZero


def noise(seen):
    """The Gumbel noise that a rule draws in each row."""
    return np.stack([jax.random.gumbel(key, seen.masked.shape[1:]) for key in seen.keys])


def by_hand(seen, b, temperature, is_unknown):
    """The places of row b that are filled in; is_unknown(certainty, sorted, m) says which stay."""
    masked, step, steps = (np.asarray(getattr(seen, name)[b]) for name in ("masked", "step", "steps"))
    if step == steps - 1:
        return masked
    ratio = (step + 1) / steps
    count = max(1, min(masked.sum() - 1, np.floor(int(seen.initial[b]) * np.cos(np.pi / 2 * ratio) + 1e-4)))
    certainty = np.log(np.asarray(seen.probability[b])) + temperature * (1 - ratio) * noise(seen)[b]
    certainty = np.where(masked, certainty, np.inf)
    return masked & ~is_unknown(certainty, np.sort(certainty), int(count))


RULES = [
    pytest.param(MaskGIT, lambda value, ordered, m: value < ordered[m], id="maskgit"),
    pytest.param(MAGE, lambda value, ordered, m: value <= ordered[m - 1], id="mage"),
]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("rule", "is_unknown"), RULES)
def test_the_rule_is_the_one_written_out(rule, is_unknown):
    counts = set()
    for seed in range(8):
        seen = seen_case(seed, temperature=1.0)
        chosen = np.asarray(choose(rule(temperature=ToZero(1.5)), seen))
        for b in range(len(chosen)):
            np.testing.assert_array_equal(chosen[b], by_hand(seen, b, 1.5, is_unknown))
            counts.add(int(chosen[b].sum()))
    assert len(counts) > 6


def test_places_that_are_equally_certain():
    """With m = 3: MaskGIT fills in all that are as certain as the fourth place, MAGE none like the third."""
    step = {"steps": [3] * 3, "step": [0] * 3, "initial": [4] * 3, "masked": [[True] * 4] * 3}
    seen = seen_case(0, logits=np.zeros((3, 4, MASK + 1)), **step).replace(
        probability=jnp.asarray([[0.2, 0.2, 0.2, 0.2], [0.1, 0.4, 0.4, 0.4], [0.3, 0.1, 0.2, 0.4]])
    )
    assert left_unknown(seen, Cosine()).tolist() == [3, 3, 3]
    still = ToZero(0.0)
    assert choose(MaskGIT(temperature=still), seen).sum(1).tolist() == [4, 3, 1]
    assert choose(MAGE(temperature=still), seen).sum(1).tolist() == [0, 0, 1]


def test_places_left_unknown_are_those_of_the_published_schedule():
    unknown, counts = 256, []
    for step in range(12):
        of_row = {"step": [step], "steps": [12], "initial": [256], "masked": [np.arange(256) < unknown]}
        seen = seen_case(0, length=256, logits=np.zeros((1, 256, MASK + 1)), **of_row)
        unknown = int(left_unknown(seen, Cosine())[0])
        counts.append(unknown)
    assert counts == [253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33, 1]


@pytest.mark.parametrize(("name", "schedule"), [("cosine", Cosine()), ("linear", Power(1.0))])
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_a_whole_run_is_that_of_the_scheduler_of_diffusers(name, schedule, steps, monkeypatch):
    """Step for step on the same logits, draws and noise, with a temperature that falls from 2 to 0.

    Where the schedule leaves a whole number of places, as it never does of 37, float32 may lose one of them.
    """
    length, vocab, rng = 37, MASK, np.random.default_rng(steps)
    theirs = AmusedScheduler(mask_token_id=MASK, masking_schedule=name)
    theirs.set_timesteps(steps)
    rule = MaskGIT(temperature=FromTo(2.0, 0.0), schedule=schedule)
    tokens = np.full((2, length), MASK)
    for step in range(steps):
        logits = 2 * rng.standard_normal((2, length, vocab)).astype(np.float32)
        proposed = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        probability = np.take_along_axis(np.asarray(jax.nn.softmax(logits)), proposed[..., None], 2)[..., 0]
        masked = tokens == MASK
        fields = {"masked": masked, "step": [step] * 2, "steps": [steps] * 2, "initial": [length] * 2}
        seen = seen_case(step, length=length, logits=np.pad(logits, ((0, 0), (0, 0), (0, 1))), **fields)
        seen = seen.replace(proposed=jnp.asarray(proposed), probability=jnp.asarray(probability))
        draws = torch.tensor(proposed).reshape(-1, 1)
        monkeypatch.setattr(torch, "multinomial", lambda *given, draws=draws, **options: draws)
        drawn = torch.tensor(noise(seen))
        monkeypatch.setattr(scheduling_amused, "gumbel_noise", lambda *given, drawn=drawn, **options: drawn)
        wanted = theirs.step(torch.tensor(logits), steps - 1 - step, torch.tensor(tokens), return_dict=False)
        tokens = np.where(np.asarray(choose(rule, seen)), proposed, tokens)
        np.testing.assert_array_equal(tokens, wanted[0].numpy())
    assert (tokens != MASK).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToZero(-1.0), "start must be a finite number >= 0, got -1.0"),
        (lambda: FromTo(2.0, float("nan")), "last must be a finite number"),
        (lambda: Power(0.0), "exponent must be a finite number > 0, got 0.0"),
        (lambda: MaskGIT(temperature=4.5), "temperature must be one such as ToZero"),
        (lambda: MAGE(schedule="cosine"), "schedule must be one such as Cosine"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
