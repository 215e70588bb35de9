"""Every way of decoding gives the same tokens whether states are written with each token or once in many."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import attention, decoder, delta, random_params, ssd
from strategy_helpers import decode, nearby

from benchmarks.state_writes import bytes_written
from jaxmodels.decoding import (
    Autoregressive,
    Draft,
    Jacobi,
    ModelDrafter,
    PromptLookup,
    Speculative,
    TreeDrafter,
    driver,
)
from jaxmodels.decoding.generation import plan
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.state.replay import Replay
from jaxmodels.models.cache_policies import with_state_policy

PLAIN = decoder(ssd(), attention(), delta())
REPLAYED = with_state_policy(PLAIN, Replay(ring=7, window=5))
PARAMS = random_params(PLAIN.spec())
DRAFT = Draft(config=REPLAYED, params=nearby(PARAMS, 0.3))
STRATEGIES = {
    "autoregressive": Autoregressive(top_logprobs=0),
    "in_windows": Autoregressive(top_logprobs=0, prefill_window=2),
    "model": Speculative(draft=ModelDrafter(draft=DRAFT, size=3), top_logprobs=0),
    "tree": Speculative(draft=TreeDrafter(draft=DRAFT, siblings=(2, 1, 1)), top_logprobs=0),
    "lookup": Speculative(draft=PromptLookup(size=4), top_logprobs=0),
    "windows_beyond_the_ring": Speculative(draft=PromptLookup(size=6), top_logprobs=0),
    "jacobi": Jacobi(window=4, top_logprobs=0),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_tokens_are_those_of_states_written_with_each_token(name):
    """Rows of different lengths, one of which ends early; rings are folded several times."""
    expected = decode(PLAIN, PARAMS, Autoregressive(top_logprobs=0), new=24)
    stop = [int(expected.tokens[2, 8])]
    expected = decode(PLAIN, PARAMS, Autoregressive(top_logprobs=0), new=24, stop=stop)
    ours = decode(REPLAYED, PARAMS, STRATEGIES[name], new=24, stop=stop)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    np.testing.assert_array_equal(ours.lengths, expected.lengths)
    np.testing.assert_allclose(ours.log_probs.chosen, expected.log_probs.chosen, atol=3e-5)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "mixer",
    [
        ssd(num_heads=6, head_dim=36, state_dim=44, num_groups=3, norm=None),
        delta(num_heads=6, head_dim=36, key_dim=44, num_key_heads=3, norm=GatedRMSNorm(dim=36, axis=None)),
    ],
    ids=["ssd", "delta"],
)
def test_a_loop_writes_little_of_the_states(mixer):
    """Bytes of states and rings in the compiled loop, at a size at which no other array is as large."""
    plain = decoder(mixer)
    written = {}
    for config in (plain, with_state_policy(plain, Replay(ring=16, window=8))):
        params = random_params(config.spec())
        strategy = Autoregressive()
        made = plan(
            config, params, encode_prompts([[1, 2]] * 8, None, config.vocab_size), strategy,
            max_new_tokens=9, stop_tokens=(), pad_token=0, seed=0, capacity=None,
        )  # fmt: skip
        static = {"config": config}
        carry = jax.eval_shape(
            lambda p, r, c: driver.start(p, r, c, strategy, config=config, max_new=16),  # noqa: B023
            params, made.request, made.cache,
        )  # fmt: skip
        loop = driver.advance.lower(params, made.request, carry, strategy, jnp.int32(9), **static).compile()
        state = dataclasses.replace(carry.cache.layers[0], conv=None)
        shapes = {leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim > 1}
        written[config] = bytes_written(loop.as_text(), shapes, turns=1 / 16)
    every_token, replayed = written.values()
    assert every_token == 4 * 8 * 6 * 36 * 44
    assert 0 < replayed <= 0.3 * every_token
