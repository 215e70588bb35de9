"""Block denoising against a loop on the host that feeds every window anew, one row at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB, quick_jit
from strategy_helpers import MODELS, PROMPTS, architecture, decode, stop_inside

from jaxmodels.decoding import BlockDenoiser, Sample
from jaxmodels.layers.masks import BIDIRECTIONAL

MASK, LENGTH, NEW = VOCAB - 1, 4, 10
CAPACITY = 3 * LENGTH + max(map(len, PROMPTS))
STRATEGY = BlockDenoiser(mask_token=MASK, block_length=LENGTH, threshold=0.2)


class Reference:
    """A row's blocks, with the history built up again for every look at a block."""

    def __init__(self, config, params):
        def feed(window, cache):
            scored, pending = config.peek(params, window, cache, mask=BIDIRECTIONAL)
            return scored.logits, config.commit(pending)

        self.empty, self.feed = config.init_cache(1, CAPACITY), quick_jit(feed)

    def probabilities(self, windows):
        cache = self.empty
        for window in windows:
            logits, cache = self.feed(window, cache)
        logits = np.asarray(logits, np.float64)[0]
        logits[:, MASK] = -np.inf
        probability = np.exp(logits - logits.max(-1, keepdims=True))
        return probability / probability.sum(-1, keepdims=True)

    def middle_probability(self, prompt):
        """Between the best tokens' probabilities in a first block."""
        windows = [np.asarray([prompt], np.int32), np.full((1, LENGTH), MASK, np.int32)]
        return float(np.median(self.probabilities(windows).max(-1)))

    def blocks(self, prompt, threshold, new):
        """(tokens, looks, how many tokens each look unmasked)"""
        windows, tokens, looks, unmasked = [np.asarray([prompt], np.int32)], [], 0, []
        while len(tokens) < new:
            block = np.full(LENGTH, MASK, np.int32)
            while (block == MASK).any():
                probability = self.probabilities([*windows, block[None]])
                best = np.where(block == MASK, probability.max(-1), -1)
                chosen = (best >= threshold) | (np.arange(LENGTH) == best.argmax())
                block = np.where(chosen & (block == MASK), probability.argmax(-1), block)
                looks += 1
                unmasked.append(int((best >= threshold).sum()) or 1)
            windows, tokens, looks = [*windows, block[None]], [*tokens, *block.tolist()], looks + 1
        return tokens[:new], looks - 1, unmasked  # the last block is not looked at again


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_those_of_feeding_everything_anew(name):
    config, params = architecture(name)
    reference = Reference(config, params)
    threshold = reference.middle_probability(PROMPTS[0])
    ours = decode(config, params, replace(STRATEGY, threshold=threshold), new=NEW)
    counts = []
    for b, prompt in enumerate(PROMPTS[:2]):
        tokens, looks, unmasked = reference.blocks(prompt, threshold, NEW)
        assert ours.tokens[b, :NEW].tolist() == tokens
        assert ours.counters["calls"][b] == looks
        assert ours.counters["unmasked"][b] == sum(unmasked) == 3 * LENGTH
        counts += unmasked
    assert max(counts) > 1 and len(counts) > 6  # neither one by one nor block by block
    assert ours.lengths.tolist() == [NEW] * 4
    assert (ours.tokens[:, NEW:] == 0).all()


def test_a_row_alone_gives_what_it_gives_in_a_batch():
    config, params = architecture("hybrid")
    together = decode(config, params, STRATEGY, new=NEW)
    for b in (1, 2):
        alone = decode(config, params, STRATEGY, PROMPTS[b : b + 1], new=NEW)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[b])
        assert alone.counters["calls"][0] == together.counters["calls"][b]


def test_a_stop_token_ends_its_row_inside_a_block():
    config, params = architecture("attention")
    free = decode(config, params, STRATEGY, new=NEW)
    stop = stop_inside(free.tokens[:, :NEW])
    ours = decode(config, params, STRATEGY, new=NEW, stop=[stop])
    for row, length, whole in zip(ours.tokens, ours.lengths, free.tokens, strict=True):
        at = np.flatnonzero(whole[:NEW] == stop)
        assert length == (at[0] + 1 if at.size else NEW)
        assert row[:length].tolist() == whole[:length].tolist()
    assert ours.lengths.min() < NEW


@pytest.mark.parametrize(("threshold", "looks"), [(0.0, 5), (2.0, 14)])
def test_thresholds_bound_the_looks(threshold, looks):
    """All at once, or one by one; then one look to settle each of three blocks but the last."""
    strategy = BlockDenoiser(mask_token=MASK, block_length=LENGTH, threshold=threshold)
    ours = decode(*architecture("attention"), strategy, new=NEW)
    assert ours.counters["calls"].tolist() == [looks] * 4
    assert ours.steps == looks


def test_samples_follow_the_seed_and_the_row_and_never_are_masks():
    config, params = architecture("attention")
    strategy = BlockDenoiser(
        mask_token=MASK, block_length=LENGTH, threshold=0.2, sampler=Sample(temperature=1.5)
    )
    together = decode(config, params, strategy, new=NEW, seed=1)
    shuffled = decode(config, params, strategy, [PROMPTS[0], *reversed(PROMPTS[1:])], new=NEW, seed=1)
    other = decode(config, params, strategy, new=NEW, seed=2)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])
    assert (together.tokens != other.tokens).any()
    assert not (together.tokens == MASK).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_length": 0}, "block_length must be a whole number >= 1 .*, got 0"),
        ({"mask_token": -1}, "mask_token must be a whole number >= 0 .*, got -1"),
        ({"threshold": float("inf")}, "threshold .* got inf"),
        ({"prefill_window": 0}, "prefill_window must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockDenoiser(**{"mask_token": MASK, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_token": VOCAB}, f"mask_token={VOCAB} lies outside the vocabulary 0 to {VOCAB - 1}"),
        ({"mask_token": MASK, "prefill_window": 8}, "prefill_window=8 must hold the whole prompt.* 16 slots"),
    ],
)
def test_what_a_model_cannot_run_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        decode(*architecture("ssd"), BlockDenoiser(**arguments))


def test_the_mask_token_is_static_and_the_threshold_is_data():
    trees = {
        jax.tree.structure(BlockDenoiser(mask_token=token, threshold=threshold))
        for token, threshold in ((1, 0.1), (1, 0.9), (2, 0.9))
    }
    assert len(trees) == 2
    assert float(jnp.asarray(jax.tree.leaves(STRATEGY)[0])) == pytest.approx(0.2)
