"""Masked generation against a loop on the host that reads one row's whole canvas anew in every step."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from model_helpers import VOCAB, quick_jit, random_params
from strategy_helpers import PROMPTS, architecture, decode, stop_inside

from jaxmodels.decoding import MaskedDiffusion, Sample
from jaxmodels.decoding.masked import (
    DLLMCache,
    Dual,
    FinishedBlocks,
    FixedBlocks,
    PrefixCache,
    Recompute,
    Threshold,
)
from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.models.filling import MaskFilling

MASK, LENGTH, NEW, WIDEST = VOCAB - 1, 4, 12, 24
BOTH_WAYS, BY_BLOCK = BIDIRECTIONAL, BlockCausal(LENGTH)
RECOMPUTE = Recompute()


@functools.cache
def masked_model(name, mask, offset=0):
    """(config, params)"""
    config, params = architecture(name)
    return replace(config, mask=mask, filling=MaskFilling(mask_token=MASK, offset=offset)), params


def strategy(cache=RECOMPUTE, threshold=0.2, **options):
    return MaskedDiffusion(blocks=FixedBlocks(LENGTH), unmask=Threshold(threshold), cache=cache, **options)


class Reference:
    """A row's answer by reading prompt and answer anew, and the median of the first proposals."""

    def __init__(self, config, params):
        self.config = config
        self._forward = quick_jit(lambda tokens, size: config.forward(params, tokens, valid=size))

    def forward(self, canvas):
        """Logits [S, V], of canvases of all sizes in one program."""
        padded = np.pad(canvas, (0, WIDEST - len(canvas)))
        logits = self._forward(padded[None], np.asarray([len(canvas)]))
        return np.asarray(logits, np.float64)[0, : len(canvas)]

    def probabilities(self, canvas):
        logits = self.forward(canvas)
        if self.config.filling.offset:
            logits = np.concatenate([logits[:1], logits[:-1]])
        logits[:, MASK] = -np.inf
        probability = np.exp(logits - logits.max(-1, keepdims=True))
        return probability / probability.sum(-1, keepdims=True)

    def canvas(self, prompt):
        """(tokens, where the first block begins)"""
        aligned = isinstance(self.config.mask, BlockCausal)
        end = len(prompt) + NEW
        end = -(-end // LENGTH) * LENGTH if aligned else end
        canvas = np.full(end, MASK, np.int32)
        canvas[: len(prompt)] = prompt
        return canvas, len(prompt) // LENGTH * LENGTH if aligned else len(prompt)

    def middle_probability(self, prompt):
        canvas, start = self.canvas(prompt)
        best = self.probabilities(canvas).max(-1)[start : start + LENGTH]
        # A little less, so that rounding does not decide whether the place in the middle reaches it.
        return 0.999 * float(np.median(best[canvas[start : start + LENGTH] == MASK]))

    def answer(self, prompt, threshold):
        """(tokens, steps)"""
        canvas, start = self.canvas(prompt)
        steps = 0
        while start < len(prompt) + NEW:
            block = canvas[start : start + LENGTH]
            while (block == MASK).any():
                probability = self.probabilities(canvas)[start : start + LENGTH]
                best = np.where(block == MASK, probability.max(-1), -1)
                chosen = (best >= threshold) | (np.arange(LENGTH) == best.argmax())
                block[:] = np.where(chosen & (block == MASK), probability.argmax(-1), block)
                steps += 1
            start += LENGTH
        return canvas[len(prompt) : len(prompt) + NEW].tolist(), steps


@functools.cache
def reference_of(name, mask, offset):
    return Reference(*masked_model(name, mask, offset))


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("name", "mask", "cache", "offset"),
    [
        ("attention", BOTH_WAYS, Recompute(), 0),
        pytest.param("hybrid", BOTH_WAYS, Recompute(), 0, marks=pytest.mark.sweep),
        ("attention", BOTH_WAYS, Dual(interval=1), 1),
        pytest.param("latent", BOTH_WAYS, PrefixCache(interval=1), 0, marks=pytest.mark.sweep),
        ("attention", BOTH_WAYS, PrefixCache(interval=1), 1),
        ("attention", BOTH_WAYS, DLLMCache(prompt_interval=1, answer_interval=1), 0),
        ("attention", BY_BLOCK, FinishedBlocks(), 1),
        ("hybrid", BY_BLOCK, FinishedBlocks(), 0),
        pytest.param("delta", BY_BLOCK, FinishedBlocks(), 1, marks=pytest.mark.sweep),
        pytest.param("attention", BY_BLOCK, Dual(interval=1), 0, marks=pytest.mark.sweep),
    ],
    ids=str,
)
def test_answers_are_those_of_reading_everything_anew(name, mask, cache, offset):
    config, params = masked_model(name, mask, offset)
    reference = reference_of(name, mask, offset)
    threshold = reference.middle_probability(PROMPTS[0])
    ours = decode(config, params, strategy(cache, threshold), new=NEW)
    steps = []
    for row, prompt in enumerate(PROMPTS):
        tokens, taken = reference.answer(prompt, threshold)
        assert ours.tokens[row, :NEW].tolist() == tokens
        assert ours.counters["calls"][row] == taken
        steps.append(taken)
    assert max(steps) > 3 and min(steps) < NEW  # neither block by block nor token by token
    assert ours.lengths.tolist() == [NEW] * 4
    assert (ours.tokens[:, NEW:] == 0).all()


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("cache", [Dual(), PrefixCache()])
def test_a_cache_is_brought_up_to_date_once_per_block(cache):
    ours = decode(*masked_model("attention", BOTH_WAYS), strategy(cache), new=NEW)
    assert ours.counters["refreshes"].tolist() == [NEW // LENGTH] * 4
    assert ours.counters["unmasked"].tolist() == [NEW] * 4
    assert ours.lengths.tolist() == [NEW] * 4


def test_intervals_say_when_prompt_and_answer_are_computed_anew():
    """One place per step: 12 steps, before those numbered 4 and 8 the answer, before 6 everything."""
    cache = DLLMCache(prompt_interval=6, answer_interval=4)
    ours = decode(*masked_model("attention", BOTH_WAYS), strategy(cache, threshold=2.0), new=NEW)
    assert ours.counters["calls"].tolist() == [NEW] * 4
    assert ours.counters["refreshes"].tolist() == [1 + 3] * 4


def test_one_step_per_block_needs_no_cache_anew():
    """What a step reads was computed right before it: no rule can tell the caches apart."""
    config, params = masked_model("attention", BOTH_WAYS)
    answers = [
        decode(config, params, strategy(cache, threshold=0.0), new=NEW).tokens
        for cache in (Recompute(), Dual(), PrefixCache())
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("mask", "cache"),
    [
        (BOTH_WAYS, Recompute()),
        (BOTH_WAYS, Dual()),
        (BY_BLOCK, FinishedBlocks()),
    ],
)
def test_a_row_alone_gives_what_it_gives_in_a_batch(mask, cache):
    config, params = masked_model("attention", mask)
    together = decode(config, params, strategy(cache), new=NEW)
    for row in (1, 2):
        alone = decode(config, params, strategy(cache), PROMPTS[row : row + 1], new=NEW)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        for name, counts in alone.counters.items():
            assert counts[0] == together.counters[name][row]


@pytest.mark.parametrize(("mask", "cache"), [(BOTH_WAYS, Dual()), (BY_BLOCK, FinishedBlocks())])
def test_a_stop_token_ends_its_row_inside_a_block(mask, cache):
    config, params = masked_model("attention", mask)
    free = decode(config, params, strategy(cache), new=NEW)
    stop = stop_inside(free.tokens[:, :NEW])
    ours = decode(config, params, strategy(cache), new=NEW, stop=[stop])
    for row, length, whole in zip(ours.tokens, ours.lengths, free.tokens, strict=True):
        at = np.flatnonzero(whole[:NEW] == stop)
        assert length == (at[0] + 1 if at.size else NEW)
        assert row[:length].tolist() == whole[:length].tolist()
    assert ours.lengths.min() < NEW


@pytest.mark.parametrize(("threshold", "steps"), [(0.0, 3), (2.0, 12)])
def test_thresholds_bound_the_steps(threshold, steps):
    ours = decode(*masked_model("attention", BOTH_WAYS), strategy(threshold=threshold), new=NEW)
    assert ours.counters["calls"].tolist() == [steps] * 4
    assert ours.steps == steps


def test_samples_follow_the_seed_and_the_row_and_never_are_masks():
    config, params = masked_model("attention", BOTH_WAYS)
    sampled = strategy(sampler=Sample(temperature=1.5))
    together = decode(config, params, sampled, new=NEW, seed=1)
    shuffled = decode(config, params, sampled, [PROMPTS[0], *reversed(PROMPTS[1:])], new=NEW, seed=1)
    other = decode(config, params, sampled, new=NEW, seed=2)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])
    assert (together.tokens != other.tokens).any()
    assert not (together.tokens == MASK).any()


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("mask", "offset"), [(BOTH_WAYS, 0), (BY_BLOCK, 1)])
def test_log_probabilities_are_those_of_the_step_that_filled_a_place(mask, offset):
    """With a threshold of 0 that is the step which finds the whole block unknown."""
    config, params = masked_model("attention", mask, offset)
    ours = decode(config, params, strategy(threshold=0.0, top_logprobs=2), new=NEW)
    reference = reference_of("attention", mask, offset)
    for row, prompt in enumerate(PROMPTS):
        canvas, start = reference.canvas(prompt)
        for first in range(start, len(prompt) + NEW, LENGTH):
            logits = reference.forward(canvas)
            logits = np.concatenate([logits[:1], logits[:-1]]) if offset else logits
            scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            for place in range(max(first, len(prompt)), min(first + LENGTH, len(prompt) + NEW)):
                new = place - len(prompt)
                canvas[place] = ours.tokens[row, new]
                assert ours.log_probs.chosen[row, new] == pytest.approx(
                    scores[place, canvas[place]], abs=1e-4
                )
                np.testing.assert_allclose(
                    ours.log_probs.top[row, new], np.sort(scores[place])[-2:][::-1], atol=1e-4
                )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedBlocks(0), "FixedBlocks: length must be a whole number >= 1 .*, got 0"),
        (lambda: Dual(interval=0), "interval must be a whole number >= 1 .*, got 0"),
        (lambda: Threshold(float("inf")), "threshold .* got inf"),
        (lambda: strategy(steps=5), "steps must be a whole number .*4.*, got 5"),
        (lambda: MaskedDiffusion(cache="dual"), r"cache must be one such as Dual\(\), got 'dual'"),
        (lambda: MaskedDiffusion(unmask=Threshold), "unmask must be one such as Threshold"),
        (lambda: MaskedDiffusion(prefill_window=0), "prefill_window must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "cache", "new", "message"),
    [
        ({"filling": None}, Recompute(), NEW, "predicts the next token .* no mask token.*Autoregressive"),
        ({"filling": MaskFilling(mask_token=VOCAB)}, Recompute(), NEW, f"mask_token={VOCAB} lies outside"),
        ({"mask": BIDIRECTIONAL}, FinishedBlocks(), NEW, "see no later ones.*use Recompute.*Dual"),
        ({"mask": BIDIRECTIONAL}, Recompute(), 10, "max_new_tokens=10 is no multiple of the blocks of 4.*12"),
        ({"mask": BlockCausal(3)}, Recompute(), NEW, r"sees blocks of 3; use FixedBlocks\(3\)"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(changes, cache, new, message):
    config, params = masked_model("attention", BY_BLOCK)
    with pytest.raises(ValueError, match=message):
        decode(replace(config, **changes), params, strategy(cache), new=new)


def test_the_last_token_of_an_answer_needs_a_position_too():
    config, _ = masked_model("attention", BOTH_WAYS)
    longest = max(map(len, PROMPTS))
    short = replace(config, learned_positions=longest + NEW - 1)
    with pytest.raises(ValueError, match=f"need {longest + NEW} positions, .* learned {longest + NEW - 1}"):
        decode(short, random_params(short.spec()), strategy(), new=NEW)
    fits = replace(config, learned_positions=longest + NEW)
    assert decode(fits, random_params(fits.spec()), strategy(), new=NEW).lengths.tolist() == [NEW] * 4


def test_a_cache_that_recomputes_tokens_is_refused_by_recurrent_layers():
    with pytest.raises(ValueError, match=r"refresh: layer 0 .* keeps one state for all tokens"):
        decode(*masked_model("ssd", BOTH_WAYS), strategy(Dual()), new=NEW)
