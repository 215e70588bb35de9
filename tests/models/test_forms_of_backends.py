"""What accelerators get in place of the forms for CPUs computes the same: whole models, run here."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from backend_forms import forms_of
from model_helpers import ARCHITECTURES, draw_tokens, forward, quick_jit, random_params

SIZE, CAPACITY = 9, 16
LONGEST_WINDOW = 4  # of the architecture with a ring
QUICK = ("ssd", "latent")


def logits_of(config, params, tokens):
    """Those of the full forward, and of two windows of several tokens and single steps."""
    outputs = [config.forward(params, tokens)]
    cache = config.init_cache(tokens.shape[0], CAPACITY)
    for start, stop in itertools.pairwise([0, LONGEST_WINDOW, *range(SIZE - 3, SIZE + 1)]):
        scored, pending = config.peek(params, tokens[:, start:stop], cache)
        outputs.append(scored.logits)
        cache = config.commit(pending)
    return outputs[0], jnp.concatenate(outputs[1:], axis=1)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("name", "batch"),
    [
        pytest.param(name, 2 - number % 2, marks=() if name in QUICK else pytest.mark.sweep)
        for number, name in enumerate(ARCHITECTURES)
    ],
)
def test_an_accelerators_forms_give_the_logits_of_the_forms_for_cpus(name, batch):
    config = ARCHITECTURES[name]
    params, tokens = random_params(config.spec()), draw_tokens(batch, SIZE)
    expected = forward(config, params, tokens)
    with forms_of("tpu"):
        found = quick_jit(lambda params, tokens: logits_of(config, params, tokens))(params, tokens)
    for ours in found:
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
