"""Padding whose embedding is no number does not reach the tokens beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, quick_jit, random_params

BAD, CAPACITY = 0, 24
PROMPTS = [[3, 1, 4, 1], [6, 5], [3]]
WINDOW = [[7, 9, 3], [5, 2, 8], [1, 6, 4]]
KEPT = [3, 1, 0]


def logits_of(config, params):
    """Logits of three windows in rows of different lengths, padded with `BAD`."""
    width = max(map(len, PROMPTS))
    prompts = jnp.asarray([row + [BAD] * (width - len(row)) for row in PROMPTS])
    windows = jnp.asarray([row[:n] + [BAD] * (3 - n) for row, n in zip(WINDOW, KEPT, strict=True)])
    lengths, kept = jnp.asarray([len(row) for row in PROMPTS]), jnp.asarray(KEPT)

    def run(params, prompts, windows):
        cache = config.init_cache(3, CAPACITY)
        first, pending = config.peek(params, prompts, cache, valid=lengths)
        cache = config.commit(pending)
        second, pending = config.peek(params, windows, cache, valid=kept)
        cache = config.commit(pending, jnp.minimum(kept, 2))
        third, _ = config.peek(params, jnp.asarray(WINDOW), cache)
        return first.logits, second.logits, third.logits

    first, second, third = jax.device_get(quick_jit(run)(params, prompts, windows))
    return [
        *(row[:n] for row, n in zip(first, map(len, PROMPTS), strict=True)),
        *(row[:n] for row, n in zip(second, KEPT, strict=True)),
        *third,
    ]


# One for each kind of mixer and cache; the others are of the same ones.
KINDS = ("attention", "ring", "latent", "ssd", "mamba", "rglru", "short_conv", "delta", "lightning")


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", KINDS)
def test_padding_does_not_spoil_tokens(name):
    config = ARCHITECTURES[name]
    params = random_params(config.spec())
    weight = params["embed"]["weight"]
    bad = {**params, "embed": {"weight": weight.at[BAD].set(jnp.nan)}}
    expected, ours = logits_of(config, params), logits_of(config, bad)
    assert np.isnan(bad["embed"]["weight"]).any() and np.isfinite(np.concatenate(expected)).all()
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(np.delete(one, BAD, axis=-1), np.delete(other, BAD, axis=-1))
