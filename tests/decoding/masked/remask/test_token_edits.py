"""Edits of single tokens against diffusers, and against the published programs written out."""

import jax
import numpy as np
import pytest
import torch
from diffusers import BlockRefinementScheduler
from seen_cases import LENGTH, MASK, ROWS, VOCAB, choose, edit, remember, rows_of, seen_case

from jaxmodels.decoding.masked.remask import JointThreshold, TokenEdits
from jaxmodels.decoding.masked.unmask import AsSampled, DynamicThreshold, StrictThreshold
from jaxmodels.models.filling import MaskFilling


def stepped(seen, unmask, remask):
    """The block behind a step of both rules."""
    tokens = np.where(choose(unmask, seen), seen.proposed, seen.tokens)
    return edit(remask, seen, tokens)


@pytest.mark.parametrize("threshold", [0.05, 0.7])
def test_edits_are_those_of_diffusers(threshold):
    scheduler = BlockRefinementScheduler(block_length=LENGTH)
    scheduler.set_timesteps(4)
    prompt = np.arange(LENGTH) < 3
    drawn = np.asarray(seen_case(4).masked)
    seen = seen_case(4, masked=drawn & ~prompt, editable=~drawn & ~prompt, steps=[4] * ROWS, step=[1] * ROWS)
    theirs = scheduler.step(
        torch.tensor(np.asarray(seen.logits)),
        1,
        torch.tensor(np.asarray(seen.tokens, np.int64)),
        mask_token_id=MASK,
        threshold=0.6,
        editing_threshold=threshold,
        prompt_mask=torch.tensor(prompt),
    )
    ours = stepped(seen, DynamicThreshold(0.6), TokenEdits(threshold=threshold))
    np.testing.assert_array_equal(ours.tokens, theirs.prev_sample.numpy())
    edits = theirs.editing_transfer_index.numpy()
    assert 50 < edits.sum() < (seen.editable).sum()


@pytest.mark.parametrize("temperature", [None, 1.3])
def test_edits_go_by_their_confidence(temperature):
    seen = seen_case(5, temperature=temperature)
    for by in (AsSampled(), None):
        rule = TokenEdits(threshold=0.5) if by is None else TokenEdits(threshold=0.5, by=by)
        ours = edit(rule, seen, seen.tokens)
        for b, row in enumerate(rows_of(seen)):
            confidence = row.c if by is None else row.distribution[np.arange(LENGTH), row.proposed]
            edits = row.editable & (confidence > 0.5)
            np.testing.assert_array_equal(ours.tokens[b], np.where(edits, row.proposed, row.tokens))


def test_a_threshold_of_zero_edits_every_change():
    seen = seen_case(6)
    ours = edit(TokenEdits(threshold=0.0), seen, seen.tokens)
    np.testing.assert_array_equal(ours.tokens, np.where(seen.editable, seen.proposed, seen.tokens))


def released_steps(changes, most):
    """How many steps the released loop of LLaDA2.1 takes: `changes` says of each step whether it begins with
    unknown places, and whether it edits."""
    full = 0
    for step, (has_masks, edits) in enumerate(changes):
        if not has_masks:
            full += 1
        if full > most:
            return step
        if not has_masks and not edits:
            return step + 1
    raise AssertionError("too few steps were drawn")


def diffusers_steps(changes, most):
    """The same of `LLaDA2Pipeline`, asked of its scheduler."""
    scheduler, full = BlockRefinementScheduler(), 0
    for step, (has_masks, edits) in enumerate(changes):
        full += not has_masks
        if not scheduler.check_block_should_continue(
            step_idx=0,
            masks_remaining=has_masks,
            editing_enabled=True,
            editing_transfer_index=torch.tensor([edits]),
            post_steps=full,
            max_post_steps=most,
            finished=torch.tensor([False]),
        ):
            return step + 1
    raise AssertionError("too few steps were drawn")


def our_steps(changes, passes):
    idle = 0
    for step, (has_masks, edits) in enumerate(changes):
        masked = np.zeros((1, LENGTH), bool)
        masked[:, 0] = has_masks
        seen = seen_case(0, masked=masked, idle=[idle], editable=~masked)
        same = np.where(masked, MASK, seen.proposed)
        seen = seen.replace(tokens=np.where(edits, (same + 1) % MASK, same))
        ours = edit(TokenEdits(threshold=0.0, passes=passes), seen, seen.tokens)
        idle += not has_masks
        if not has_masks and not ours.unfinished[0]:
            return step + 1
        if has_masks and not ours.unfinished[0]:  # full behind this step, and nothing more to do
            return step + 1
    raise AssertionError("too few steps were drawn")


@pytest.mark.parametrize("edits", [[], [True], [True, True, False, True], [True] * 9])
@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_block_is_looked_at_as_often_as_in_the_published_loops(edits, most):
    changes = [(True, False), *((False, edit) for edit in edits), (False, False)]
    assert our_steps(changes, most) == released_steps([*changes, (False, False)], most)
    assert our_steps(changes, most + 1) == diffusers_steps(changes, most)


def test_the_published_example_of_joint_thresholds():
    """1 is of the prompt; .7 unmasks and .5 edits."""
    logits = np.full((1, 6, VOCAB), -np.inf)
    for place, (token, p) in enumerate(
        zip([3, 4, 5, 6, 1, 2], [0.9, 0.6, 0.8, 0.69, 0.75, 0.3], strict=True)
    ):
        logits[0, place, 7:13] = np.log((1 - p) / 6)  # none of them above p
        logits[0, place, token] = np.log(p)
    masked = np.array([[False, False, True, True, True, True]])
    tokens = np.array([[1, 2, MASK, MASK, MASK, MASK]])
    seen = seen_case(
        0, length=6, logits=logits, masked=masked, tokens=tokens, editable=[[False, True] + [False] * 4]
    )
    ours = stepped(seen, StrictThreshold(0.7), JointThreshold(threshold=0.5))
    assert ours.tokens[0].tolist() == [1, 4, 5, MASK, 1, MASK]


def test_a_penalty_is_taken_off_the_token_before():
    seen = seen_case(7, memory=())
    fused, memory = remember(JointThreshold(penalty=3.0), seen)
    expected = np.array(seen.logits)
    for b in range(ROWS):
        for place in range(1, LENGTH):
            expected[b, place, seen.tokens[b, place - 1]] -= 3.0
    np.testing.assert_array_equal(fused, expected)
    assert memory == ()


@pytest.mark.parametrize("rule", [TokenEdits, JointThreshold])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, "threshold must be a finite number >= 0, got -0.1"),
        ({"passes": -1}, "passes must be a whole number >= 0 .*, got -1"),
    ],
)
def test_values_outside_their_range_are_refused(rule, arguments, message):
    with pytest.raises(ValueError, match=message):
        rule(**arguments)
    with pytest.raises(ValueError, match="penalty must be a finite number >= 0, got -1"):
        JointThreshold(penalty=-1)


@pytest.mark.parametrize("rule", [TokenEdits(), JointThreshold()], ids=lambda rule: type(rule).__name__)
def test_models_without_known_places_are_refused(rule):
    with pytest.raises(ValueError, match=f"{type(rule).__name__} edits tokens that are known"):
        rule.check(MaskFilling(mask_token=None), None)


def test_numbers_are_data():
    assert jax.tree.structure(TokenEdits(passes=3)) == jax.tree.structure(TokenEdits(threshold=0.1))
    assert jax.tree.structure(JointThreshold(passes=3)) == jax.tree.structure(JointThreshold(penalty=0.1))
