import numpy as np
import pytest
import torch
from seen_cases import VOCAB, edit, remember, seen_case
from transformers.models.diffusion_gemma.generation_diffusion_gemma import StableAndConfidentStoppingCriteria

from jaxmodels.decoding.masked.stop import StableAndConfident

BATCH, LENGTH = 60, 5


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_it_ends_when_transformers_does(steps):
    """A block's steps in turn, sharper and calmer from one to the next."""
    rng, rule = np.random.default_rng(steps), StableAndConfident(steps=steps, entropy=0.2)
    criteria = StableAndConfidentStoppingCriteria(steps, 0.2)
    memory, ends = rule.begin(BATCH, LENGTH, VOCAB), []
    base = 3 * rng.standard_normal((BATCH, LENGTH, VOCAB))
    for step in range(7):
        logits = (1 + step) * (base + rng.standard_normal(base.shape) / (1 + step) ** 2)
        seen = seen_case(step, logits=logits, masked=np.ones((BATCH, LENGTH), bool), memory=memory)
        same, memory = remember(rule, seen)
        np.testing.assert_array_equal(same, seen.logits)
        ours = edit(rule, seen.replace(memory=memory), seen.tokens)
        given = torch.tensor(np.array(seen.logits))
        np.testing.assert_array_equal(ours, criteria(given.argmax(-1), given).numpy())
        ends.append(np.asarray(ours).mean())
    assert min(ends) < 0.5 < max(ends)


@pytest.mark.parametrize("options", [{"steps": -1}, {"entropy": 0.0}, {"steps": 1.5}])
def test_what_it_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        StableAndConfident(**options)
