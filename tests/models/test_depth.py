"""A depth policy decides what is read; what is written is complete whatever it decides."""

from dataclasses import dataclass, replace

import jax
import numpy as np
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, random_params

from jaxmodels.models.depth import ALL_LAYERS

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 6)


@dataclass(frozen=True)
class First:
    """The first `layers` blocks, decided while tracing; the others are written."""

    layers: int

    def begin(self, walk):
        assert walk.blocks == len(CONFIG.blocks)
        return walk

    def through(self, offered, stream, walk):
        read, written = offered.write(stream)
        if offered.index >= self.layers:
            return stream, written, walk
        return read(stream), written, replace(walk, depth=walk.depth + 1)


def test_all_layers_are_the_default():
    cache = CONFIG.init_cache(2, 9)
    logits, pending = peek(CONFIG, PARAMS, TOKENS, cache)
    same, _ = peek(CONFIG, PARAMS, TOKENS, cache, depth=ALL_LAYERS)
    np.testing.assert_array_equal(logits, same)
    assert (pending.depth == len(CONFIG.blocks)).all()


def test_a_shallow_peek_is_the_shallow_model():
    shallow = replace(CONFIG, blocks=CONFIG.blocks[:2])
    logits, pending = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(2, 9), depth=First(2))
    expected, _ = peek(shallow, PARAMS, TOKENS, shallow.init_cache(2, 9))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert (pending.depth == 2).all()


def test_skipped_blocks_have_a_history():
    """The last block was never read, and still knows all tokens, as the stream stood in front of it."""
    cache = CONFIG.init_cache(2, 9)
    _, pending = peek(CONFIG, PARAMS, TOKENS[:, :5], cache, depth=First(2))
    shallow, full = commit(CONFIG, pending), commit(CONFIG, peek(CONFIG, PARAMS, TOKENS[:, :5], cache)[1])
    for ours, expected in zip(jax.tree.leaves(shallow.layers), jax.tree.leaves(full.layers), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    logits, _ = peek(CONFIG, PARAMS, TOKENS[:, 5:], shallow)
    np.testing.assert_allclose(logits, peek(CONFIG, PARAMS, TOKENS[:, 5:], full)[0], atol=1e-4)
