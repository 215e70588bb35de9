"""Insertions and deletions against the published program written out, and the published example."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from levenshtein_by_hand import DELETE, SPLIT, TOKENS, Levenshtein
from model_helpers import ARCHITECTURES
from seen_cases import LENGTH, MASK, VOCAB, choose, edit, remember, rows_of, seen_case

from jaxmodels.decoding.masked import FixedBlocks, MaskedDiffusion
from jaxmodels.decoding.masked.remask import LevenshteinEdits
from jaxmodels.decoding.masked.stop import SchED
from jaxmodels.decoding.masked.unmask import StrictThreshold
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.filling import MaskFilling


def advance(rule, unmask, seen):
    """(block behind the step, memory, rows that go on) of our rules."""
    _, memory = remember(rule, seen)
    tokens = np.where(choose(unmask, seen), seen.proposed, seen.tokens)
    ours = edit(rule, seen.replace(memory=memory), tokens)
    return np.asarray(ours.tokens), ours.memory, np.asarray(ours.unfinished)


@pytest.mark.parametrize(("passes", "edit_threshold"), [(0, 0.5), (2, 0.0), (5, 0.3), (9, 0.0)])
def test_blocks_go_the_way_of_the_published_program(passes, edit_threshold):
    """Logits that depend on the block alone, so that blocks may go round in circles, among them deletions
    and splits. Rows have prompts of different lengths in their block."""
    rows, prompts = 24, np.arange(24) % 5
    rng = np.random.default_rng(passes)
    table = rng.standard_normal((VOCAB, LENGTH, VOCAB)) * 2
    table[..., [DELETE, SPLIT]] += 0.7
    rule = LevenshteinEdits(threshold=edit_threshold, passes=passes, **TOKENS)
    unmask = StrictThreshold(0.6)
    tokens = rng.integers(0, SPLIT, (rows, LENGTH))
    tokens[np.arange(LENGTH) >= prompts[:, None]] = MASK
    by_hand = [
        Levenshtein(row, prompt, 0.6, edit_threshold, passes)
        for row, prompt in zip(tokens, prompts, strict=True)
    ]
    memory, done, moved, returned = rule.begin(rows, LENGTH, VOCAB), np.zeros(rows, bool), 0, 0
    for step in range(LENGTH + passes + 2):
        masked = tokens == MASK
        logits = table[tokens, np.arange(LENGTH)] + np.roll(table[tokens, 0], 1, axis=1)
        seen = seen_case(
            step,
            logits=logits,
            masked=masked,
            tokens=tokens,
            editable=~masked & (np.arange(LENGTH) >= prompts[:, None]),
            memory=memory,
        )
        after, memory, unfinished = advance(rule, unmask, seen)
        for b, row in enumerate(rows_of(seen)):
            if done[b]:
                continue
            returned += tuple(tokens[b]) in by_hand[b].texts
            by_hand[b].step(row.logits)
            assert after[b].tolist() == by_hand[b].tokens, (step, b)
            assert memory.original[b].tolist() == by_hand[b].original, (step, b)
            moved += bool((memory.original[b] != (np.arange(LENGTH) >= prompts[b])).any())
            done[b] = not unfinished[b] and MASK not in after[b]
            assert done[b] == by_hand[b].is_done, (step, b)
        tokens = np.where(done[:, None], tokens, after)
    assert done.all()
    assert moved
    assert returned or passes < 9


def logits_of(proposed, probabilities):
    logits = np.full((1, len(proposed), VOCAB), -np.inf)
    for place, (token, p) in enumerate(zip(proposed, probabilities, strict=True)):
        others = [other for other in range(MASK) if other != token]
        logits[0, place, others] = np.log((1 - p) / len(others))
        logits[0, place, token] = np.log(p)
    return logits


def test_the_published_example():
    """Of a block of six places the first is of the prompt; .7 unmasks and .5 edits."""
    rule = LevenshteinEdits(threshold=0.5, **TOKENS)
    tokens = np.array([[1, 2, 3, MASK, MASK, MASK]])
    memory = rule.begin(1, 6, VOCAB)
    steps = [
        ([1, DELETE, 3, 4, 5, 6], [0.9, 0.9, 0.9, 0.8, 0.8, 0.3], [1, 3, 4, 5, MASK, MASK], "001110"),
        ([1, 3, 4, 5, SPLIT, 6], [0.9, 0.9, 0.9, 0.9, 0.9, 0.2], [1, 3, 4, 5, MASK, MASK], "001101"),
        ([1, 3, 4, 5, 2, 6], [0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [1, 3, 4, 5, 2, 6], "001101"),
    ]
    for proposed, probabilities, expected, original in steps:
        masked = tokens == MASK
        seen = seen_case(
            0,
            length=6,
            logits=logits_of(proposed, probabilities),
            masked=masked,
            tokens=tokens,
            editable=~masked & (np.arange(6) > 0),
            memory=memory,
        )
        tokens, memory, _ = advance(rule, StrictThreshold(0.7), seen)
        assert tokens[0].tolist() == expected
        assert "".join(map(str, memory.original[0].astype(int))) == original


def test_places_behind_a_short_block_stay():
    """The block's last places are beyond the answer: nothing moves into them."""
    answer = (np.arange(6) > 0) & (np.arange(6) < 4)
    tokens = np.array([[1, 2, 3, MASK, 9, 9]])
    rule = LevenshteinEdits(**TOKENS)
    seen = seen_case(
        0,
        length=6,
        logits=logits_of([0, SPLIT, 3, 4, 5, 6], [0.9] * 6),
        masked=(tokens == MASK) & answer,
        tokens=tokens,
        editable=(tokens != MASK) & answer,
        memory=rule.begin(1, 6, VOCAB),
    )
    tokens, _, _ = advance(rule, StrictThreshold(0.7), seen)
    assert tokens[0].tolist() == [1, MASK, 2, 3, 9, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_token": DELETE}, "must be three tokens, got 15, 15, 14"),
        ({"split_token": -1}, "split_token must be a whole number >= 0 .*, got -1"),
        ({"passes": 1.5}, "passes must be a whole number, got 1.5"),
        ({"threshold": -1}, "threshold must be a finite number >= 0, got -1"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LevenshteinEdits(**{**TOKENS, **arguments})


@pytest.mark.parametrize(
    ("filling", "stop", "message"),
    [
        (MaskFilling(mask_token=3), None, f"has mask_token={MASK}, but the model's is 3"),
        (MaskFilling(mask_token=None), None, "edits tokens that are known, but the model has no mask token"),
        (MaskFilling(mask_token=MASK), SchED(), "stop: an exit fills in the most probable tokens"),
    ],
)
def test_what_it_does_not_fit_is_refused(filling, stop, message):
    config = dataclasses.replace(ARCHITECTURES["attention"], mask=BIDIRECTIONAL, filling=filling)
    strategy = MaskedDiffusion(blocks=FixedBlocks(4), remask=LevenshteinEdits(**TOKENS), stop=stop)
    with pytest.raises(ValueError, match=message):
        strategy.check_model(config, 8)


def test_thresholds_are_data_and_its_tokens_are_named():
    rule = LevenshteinEdits(threshold=0.5, **TOKENS)
    assert jax.tree.leaves(rule) == [0.5]
    assert sorted(rule.named_tokens()) == [SPLIT, DELETE, MASK]
    assert jnp.shape(rule.begin(2, 3, 5).texts) == (2, 21, 3)
