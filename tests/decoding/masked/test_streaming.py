"""The streaming window against a loop on the host that reads prompt, known tokens and masks anew."""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB, quick_jit
from strategy_helpers import PROMPTS, architecture, decode, in_tiers, stop_inside

from jaxmodels.decoding import Sample, StreamingDiffusion
from jaxmodels.decoding.masked.unmask import EntropyThreshold, Threshold
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.filling import MaskFilling

MASK, WINDOW, NEW, WIDEST = VOCAB - 1, 4, 10, 32
PER_PLACE = 0.05


@functools.cache
def streaming_model(name):
    config, params = architecture(name)
    return replace(config, filling=MaskFilling(mask_token=MASK)), params


def strategy(threshold, **options):
    return StreamingDiffusion(window=WINDOW, unmask=EntropyThreshold(threshold, PER_PLACE), **options)


def leading(these):
    return int(np.cumprod(these).sum())


class Reference:
    """A row's answer, without a cache."""

    def __init__(self, config, params):
        def forward(tokens, positions, size):
            cache = config.init_cache(1, WIDEST)
            order = jnp.tri(WIDEST, dtype=bool)
            scored, _ = config.peek(params, tokens, cache, positions=positions, mask=order, valid=size)
            return scored.logits

        self._forward = quick_jit(forward)

    def forward(self, tokens, positions):
        """Logits [S, V], of texts of all sizes in one program."""
        behind = (0, WIDEST - len(tokens))
        padded = (np.pad(array, behind)[None] for array in (tokens, positions))
        return np.asarray(self._forward(*padded, np.asarray([len(tokens)])), np.float64)[0, : len(tokens)]

    def scores(self, text, window):
        """Log-probabilities of the window's places behind `text`."""
        order = np.argsort(window == MASK, kind="stable")
        tokens = np.concatenate([text, window[order]])
        positions = np.concatenate([np.arange(len(text)), len(text) + order])
        logits = self.forward(tokens, positions)[len(text) :]
        logits = logits[np.argsort(order)]
        logits[:, MASK] = -np.inf
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def uncertainty(self, text, window):
        scores = self.scores(text, window)
        possible = np.where(np.isinf(scores), 0.0, scores)  # 0 times infinity is no number
        return -(np.exp(scores) * possible).sum(-1), scores.argmax(-1)

    def answer(self, prompt, threshold):
        """(tokens, steps)"""
        text, window, steps = np.asarray(prompt), np.full(WINDOW, MASK), 0
        while True:
            entropy, proposed = self.uncertainty(text, window)
            unknown = window == MASK
            settled = leading(~unknown)
            entropy = entropy + PER_PLACE * (np.arange(WINDOW) - settled)
            entropy[~unknown] = np.inf
            chosen = (entropy < threshold) | (np.arange(WINDOW) == entropy.argmin())
            window = np.where(chosen & unknown, proposed, window)
            text = np.concatenate([text, window[:settled]])
            window = np.concatenate([window[settled:], np.full(settled, MASK)])
            steps += 1
            known = leading(window != MASK)
            if len(text) + known - len(prompt) >= NEW:
                return np.concatenate([text, window[:known]])[len(prompt) :][:NEW].tolist(), steps


@pytest.mark.parametrize("name", in_tiers(["attention"], ["latent", "hybrid"]))
def test_answers_are_those_of_reading_everything_anew(name):
    config, params = streaming_model(name)
    reference = Reference(config, params)
    entropies, _ = reference.uncertainty(np.asarray(PROMPTS[0]), np.full(WINDOW, MASK))
    threshold = float(np.median(entropies)) + PER_PLACE
    ours = decode(config, params, strategy(threshold), new=NEW)
    steps = []
    for row, prompt in enumerate(PROMPTS):
        tokens, taken = reference.answer(prompt, threshold)
        assert ours.tokens[row, :NEW].tolist() == tokens
        assert ours.counters["calls"][row] == taken
        steps.append(taken)
    assert min(steps) < NEW
    assert (ours.tokens[:, NEW:] == 0).all()


@pytest.mark.parametrize(("threshold", "steps"), [(100.0, 5), (0.0, None)])
def test_thresholds_bound_the_steps(threshold, steps):
    """A window full of tokens in each step but those that read it once it is known, or one token."""
    ours = decode(*streaming_model("attention"), strategy(threshold), new=NEW)
    assert ours.lengths.tolist() == [NEW] * 4
    if steps is None:
        assert (ours.counters["calls"] >= NEW).all()
    else:
        assert ours.counters["calls"].tolist() == [steps] * 4


def test_a_row_alone_gives_what_it_gives_in_a_batch():
    config, params = streaming_model("attention")
    sampled = strategy(2.0, sampler=Sample(temperature=0.8))
    together = decode(config, params, sampled, new=NEW)
    reordered = decode(config, params, sampled, [PROMPTS[0], *reversed(PROMPTS[1:])], new=NEW)
    np.testing.assert_array_equal(together.tokens[0], reordered.tokens[0])
    assert not (together.tokens == MASK).any()


def test_a_stop_token_ends_its_row():
    config, params = streaming_model("attention")
    free = decode(config, params, strategy(2.0), new=NEW)
    stop = stop_inside(free.tokens[:, :NEW])
    ours = decode(config, params, strategy(2.0), new=NEW, stop=[stop])
    for row, length, whole in zip(ours.tokens, ours.lengths, free.tokens, strict=True):
        at = np.flatnonzero(whole[:NEW] == stop)
        assert length == (at[0] + 1 if at.size else NEW)
        assert row[:length].tolist() == whole[:length].tolist()


def test_log_probabilities_are_those_of_the_step_that_filled_a_place():
    """With a high threshold that is the step which finds the whole window unknown."""
    config, params = streaming_model("attention")
    ours = decode(config, params, strategy(100.0, top_logprobs=1), new=NEW)
    reference = Reference(config, params)
    for row, prompt in enumerate(PROMPTS):
        text, window = np.asarray(prompt), np.full(WINDOW, MASK)
        tokens = np.concatenate([text, window])
        scores = reference.forward(tokens, np.arange(len(tokens)))[len(text) :]
        scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        for place in range(WINDOW):
            token = ours.tokens[row, place]
            assert ours.log_probs.chosen[row, place] == pytest.approx(scores[place, token], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filling": None}, "was not trained to fill in mask tokens .*Autoregressive"),
        ({"filling": MaskFilling(mask_token=MASK, offset=1)}, "in their own places"),
        ({"mask": BIDIRECTIONAL}, "tokens see later ones.*MaskedDiffusion"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(changes, message):
    config, params = streaming_model("attention")
    with pytest.raises(ValueError, match=message):
        decode(replace(config, **changes), params, strategy(1.0), new=NEW)


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"window must be a whole number >= 1 .*, got 0"):
        StreamingDiffusion(window=0)
    with pytest.raises(ValueError, match="unmask must be one such as"):
        StreamingDiffusion(unmask=Threshold)
