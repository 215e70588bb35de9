"""What DiffusionGemma accepts in a step, against transformers and diffusers on the same logits."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import EntropyBoundScheduler
from seen_cases import VOCAB, choose, remember, seen_case, softmax
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
)

from jaxmodels.decoding.masked.unmask import CreditDecoding, EntropyBounded, Tempered, Towards

STEPS, LENGTH, BOUND = 6, 9, 0.4


def view(step, scale=6.0):
    """A step of blocks all of whose places are unknown."""
    logits = scale * np.random.default_rng(step).standard_normal((40, LENGTH, VOCAB))
    return seen_case(
        step,
        logits=logits,
        masked=np.ones(logits.shape[:2], bool),
        step=np.full(40, step),
        steps=np.full(40, STEPS),
        memory=(),
    )


@pytest.mark.parametrize("step", range(STEPS))
def test_a_step_is_that_of_transformers_and_diffusers(step):
    seen, rule = view(step), Tempered(EntropyBounded(BOUND), Towards(0.8, 0.4))
    logits, memory = remember(rule, seen)
    chosen = np.asarray(choose(rule, seen.replace(logits=logits, memory=memory)))

    raw, canvas = torch.tensor(np.array(seen.logits)), torch.zeros(40, LENGTH, dtype=torch.long)
    temper = LinearTemperatureScheduleLogitsProcessor(t_min=0.4, t_max=0.8, max_denoising_steps=STEPS)
    tempered = temper(None, raw, cur_step=STEPS - step)
    np.testing.assert_allclose(logits, tempered.numpy(), rtol=1e-6)
    sampler = EntropyBoundSampler(EntropyBoundSamplerConfig(BOUND), LENGTH, VOCAB, STEPS)
    sampler.accept_canvas(canvas, canvas, tempered, STEPS - step)
    np.testing.assert_array_equal(chosen, sampler.accepted_token_mask.numpy())

    scheduler = EntropyBoundScheduler(entropy_bound=BOUND, t_max=0.8, t_min=0.4, num_inference_steps=STEPS)
    theirs = scheduler.step(raw, step, canvas)
    np.testing.assert_array_equal(chosen, theirs.accepted_index.numpy())
    np.testing.assert_allclose(logits, theirs.pred_logits.numpy(), rtol=1e-6)
    assert 1 < chosen.sum(1).mean() < LENGTH - 1


def test_all_but_one_of_five_places():
    """Entropies of .01, .05, .03, .2 and .04 nats: the sum without the greatest must stay within .1."""
    share = np.zeros(5)
    for i, wanted in enumerate((0.01, 0.05, 0.03, 0.2, 0.04)):
        low, high = 0.0, 0.5
        for _ in range(60):
            share[i] = (low + high) / 2
            found = -share[i] * np.log(share[i]) - (1 - share[i]) * np.log1p(-share[i])
            low, high = (share[i], high) if found < wanted else (low, share[i])
    logits = np.full((1, 5, VOCAB), -np.inf)
    logits[0, :, 0], logits[0, :, 1] = np.log1p(-share), np.log(share)
    seen = seen_case(0, logits=np.tile(logits, (3, 1, 1)), masked=np.ones((3, 5), bool))
    chosen = np.asarray(choose(EntropyBounded(0.1), seen))
    np.testing.assert_array_equal(chosen, np.tile([[True, True, True, False, True]], (3, 1)))


def test_a_rule_with_a_memory_is_shown_the_tempered_logits():
    seen, inner = view(2), CreditDecoding()
    rule = Tempered(inner, Towards(0.8, 0.4))
    memory = rule.begin(40, LENGTH, VOCAB)
    ours, kept = remember(rule, seen.replace(memory=memory))
    temperature = 0.4 + 0.4 * (STEPS - 2) / STEPS
    tempered = seen.replace(logits=seen.logits / temperature, memory=inner.begin(40, LENGTH, VOCAB))
    expected, also = remember(inner, tempered)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(softmax(ours), softmax(expected), atol=1e-6)
    for a, b in zip(jnp.atleast_1d(kept), jnp.atleast_1d(also), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_temperatures_are_not_negative():
    with pytest.raises(ValueError, match="last"):
        Towards(0.8, -0.1)
    with pytest.raises(ValueError, match="temperature must be one such as"):
        Tempered(EntropyBounded(), 0.8)
