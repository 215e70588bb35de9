"""What the history of a block holds of tokens that left in front of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek_scored, quick_jit, random_params

from jaxmodels.decoding.depth import MaxProbability, PerRow, UntilConfident
from jaxmodels.layers.window import next_window

CONFIG = ARCHITECTURES["hybrid"]
SSD, ATTENTION, _ = CONFIG.blocks
TOKENS = draw_tokens(2, 5)
FIRST_LEAVES = PerRow(np.asarray([0.0, np.inf]))


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("last", [SSD, ATTENTION], ids=["mamba2", "attention"])
def test_held_blocks_see_nothing_of_rows_that_left(last):
    """Row 0 leaves behind block 0, so that the last block is as it was; row 1 is read in full."""
    config = dataclasses.replace(CONFIG, blocks=(SSD, ATTENTION, last))
    params = random_params(config.spec())
    depth = UntilConfident(confidence=MaxProbability(), threshold=FIRST_LEAVES, unread="hold")
    cache = config.init_cache(2, 9)
    cache = commit(config, peek_scored(config, params, TOKENS[:, :3], cache)[1])
    _, pending = peek_scored(config, params, TOKENS[:, 3:4], cache, depth=depth)
    ours = commit(config, pending)
    full = commit(config, peek_scored(config, params, TOKENS[:, 3:4], cache)[1])
    assert pending.depth.tolist() == [[1], [3]]
    if last is ATTENTION:
        np.testing.assert_array_equal(ours.layers[2].positions[0], cache.layers[2].positions[0])
        np.testing.assert_array_equal(ours.layers[2].positions[1], full.layers[2].positions[1])
    else:
        for leaf, before, after in zip(
            *(jax.tree.leaves(c.layers[2]) for c in (ours, cache, full)), strict=True
        ):
            np.testing.assert_allclose(leaf[0], before[0], atol=1e-6)
            np.testing.assert_allclose(leaf[1], after[1], atol=1e-6)


@pytest.mark.parametrize("last", [SSD, ATTENTION], ids=["mamba2", "attention"])
def test_propagated_blocks_are_written_with_the_stream_of_the_exit(last):
    """The next token, read in full, sees what a block shown the exit's stream would have kept."""
    config = dataclasses.replace(CONFIG, blocks=(SSD, ATTENTION, last))
    params = random_params(config.spec())
    depth = UntilConfident(confidence=MaxProbability(), threshold=0.0)
    cache = config.init_cache(2, 9)
    scored, pending = peek_scored(config, params, TOKENS[:, :1], cache, depth=depth, taps=("blocks/0",))
    ours = commit(config, pending)

    @quick_jit
    def shown(hidden, state):
        window = next_window(TOKENS[:, :1], jnp.zeros((2,), jnp.int32)).with_rotations(config.ropes)
        stream = config.embed(params, TOKENS[:, :1], window)
        stream = dataclasses.replace(stream, hidden=hidden)
        return last.commit(last.write(params["blocks"]["2"], stream, state, window)[1])

    expected = shown(scored.taps["blocks/0"], cache.layers[2])
    for leaf, wanted in zip(jax.tree.leaves(ours.layers[2]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, wanted, atol=1e-6)
