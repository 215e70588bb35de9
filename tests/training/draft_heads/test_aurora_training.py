"""A draft head learns from what was accepted and rejected of its drafts while it served."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draft_heads import known_tokens
from model_helpers import quick_jit, random_params
from strategy_helpers import architecture

import jaxmodels as jm
from jaxmodels.decoding import Speculative
from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.aurora import AuroraTraining, discarded_branch
from jaxmodels.training.draft_heads.dflash import DFlashTraining
from jaxmodels.training.draft_heads.eagle3 import Eagle3Training
from jaxmodels.training.draft_heads.export import export_draft_head
from jaxmodels.training.draft_heads.medusa import MedusaTraining
from jaxmodels.training.draft_heads.objective import Pupil, see
from jaxmodels.training.draft_heads.recipe import DRAFT_HEAD_RECIPES, DraftHeadRecipe
from jaxmodels.training.draft_heads.run import train_draft_head
from jaxmodels.training.draft_heads.traces import save_traces, traces_of
from jaxmodels.training.fitting import Fit
from jaxmodels.training.optimizer import AdamW, WarmupCosine

MEDUSA = MedusaTraining(heads=2, draft_vocab_size=22)
TOKENS = np.random.default_rng(1).integers(0, 29, (3, 9)).astype(np.int32)


def record():
    """In the first text one draft was rejected at its second token; in the third one at its first. The others
    were accepted, or none."""
    drafted, accepted = np.zeros((3, 9), np.int32), np.zeros((3, 9), np.int32)
    drafted[0, [1, 4]], accepted[0, [1, 4]] = [3, 3], [3, 1]
    drafted[1, 2], accepted[1, 2] = 2, 2
    drafted[2, 7] = 3
    tokens = np.random.default_rng(2).integers(0, 29, (3, 9, 3)).astype(np.int32)
    return DraftRecord(
        tokens=jnp.asarray(tokens), drafted=jnp.asarray(drafted), accepted=jnp.asarray(accepted)
    )


def pupil_and_seen():
    config, params = architecture("ssd")
    head = MEDUSA.head(config)
    pupil = Pupil(
        head=head,
        params=random_params(head.spec()),
        target=Target(config, params),
        token_ids=known_tokens(22),
    )
    seen = quick_jit(functools.partial(see, pupil))(jnp.asarray(TOKENS))
    weights = jnp.asarray([[0.0] * 3 + [1.0] * 6] * 3)
    return pupil, dataclasses.replace(seen, weights=weights, drafts=record())


def test_the_branch_of_a_text_is_a_draft_that_was_rejected():
    pupil, seen = pupil_and_seen()
    branch = quick_jit(functools.partial(discarded_branch, pupil))(seen, jax.random.key(0))
    drafts = np.asarray(seen.drafts.tokens)
    assert branch.tokens[0, :8].tolist() == [*TOKENS[0, :5], *drafts[0, 4]]
    assert branch.tokens[2].tolist() == [*TOKENS[2, :8], drafts[2, 7, 0]]  # the rest lies beyond the window
    assert np.flatnonzero(branch.weights[0]).tolist() == [6, 7]
    assert np.flatnonzero(branch.weights[2]).tolist() == [8]
    assert not branch.weights[1].any()
    expected = quick_jit(functools.partial(see, pupil))(branch.tokens)
    np.testing.assert_allclose(branch.scored.logits, expected.scored.logits, atol=1e-5)


def by_hand(pupil, seen):
    """The loss of Medusa's heads over the tokens with weights, in NumPy."""
    known, weights = np.asarray(pupil.token_ids), np.asarray(seen.weights)
    teacher = np.asarray(seen.scored.logits, np.float64)
    logits = np.asarray(quick_jit(pupil.head)(pupil.params, seen.scored.hidden), np.float64)
    total = 0.0
    for k in range(2):
        nats = [0.0]
        for row, token in np.argwhere(weights):
            place = token - 2 - k
            scores = teacher[row, token - 1]
            if place >= 0 and scores.argmax() in known:
                p = np.exp(scores[known]) / np.exp(scores[known]).sum()
                q = logits[row, place, k]
                nats.append(-(p * (q - np.log(np.exp(q).sum()))).sum())
        total += 0.8**k * sum(nats) / max(len(nats) - 1, 1)
    return total


@pytest.mark.sweep
def test_the_loss_is_that_of_the_definition():
    pupil, seen = pupil_and_seen()
    training, key = AuroraTraining(of=MEDUSA, discard_weight=0.3), jax.random.key(0)
    loss, _ = quick_jit(functools.partial(training.loss, pupil))(seen, key)
    branch = quick_jit(functools.partial(discarded_branch, pupil))(seen, key)
    accepted, discarded = by_hand(pupil, seen), by_hand(pupil, branch)
    assert accepted > 0
    assert discarded > 0
    np.testing.assert_allclose(loss, accepted + 0.3 * discarded, rtol=1e-5)


TARGET = "tiny-llama-lists"


@pytest.mark.sweep
def test_acceptance_rises_with_the_traces_of_serving(tmp_path):
    """A head that knows nothing serves, learns from its traces, and serves again."""
    model = jm.load(TARGET)
    of = Eagle3Training(layers=(1, 3), num_heads=2, num_kv_heads=1, head_dim=16, d_ff=32, steps=3, drafted=3)
    prompts = np.random.default_rng(0).integers(0, 64, (48, 6)).astype(np.int32)
    recipe = DraftHeadRecipe(
        target=TARGET,
        head=AuroraTraining(of=of),
        train_files=(str(tmp_path / "traces.npz"),),
        held_out_files=(str(tmp_path / "traces.npz"),),
        fit=Fit(
            schedule=WarmupCosine(peak=0.003, warmup_steps=2, total_steps=30),
            optimizer=AdamW(),
            batch_size=16,
        ),
        sequence_length=30,
        log_every=10,
        checkpoint_every=30,
    )
    target, head = Target(model.config, model.params), of.head(model.decoder)
    first = random_params(head.spec())
    drafter = of.drafter(Pupil(head=head, params=first, target=target, token_ids=None))
    jm.save_drafter(drafter, tmp_path / "first")

    def accepted(draft, rows):
        out = model.generate(rows, 24, Speculative(draft=str(draft), record_drafts=3), stop_tokens=[])
        return out, out.stats.per_call["accepted"]

    out, before = accepted(tmp_path / "first", prompts[:32])
    save_traces(traces_of(prompts[:32].tolist(), out), tmp_path / "traces.npz")
    recipe = dataclasses.replace(recipe, start_from=str(tmp_path / "first"))
    run = train_draft_head(recipe, tmp_path / "run")
    export_draft_head(run, tmp_path / "second", "float32")
    _, unseen = accepted(tmp_path / "first", prompts[32:])
    _, after = accepted(tmp_path / "second", prompts[32:])
    assert before < 0.3
    assert after > unseen + 0.3


def test_recipes_hold_the_head_that_learns():
    values = DRAFT_HEAD_RECIPES.to_dict(
        dataclasses.replace(DRAFT_HEAD_RECIPES.load("tiny_qwen3_medusa"), head=AuroraTraining(of=MEDUSA))
    )
    assert values["head"]["kind"] == "aurora"
    assert values["head"]["of"]["kind"] == "medusa"
    assert DRAFT_HEAD_RECIPES.from_dict(values).head == AuroraTraining(of=MEDUSA)


def test_heads_that_do_not_weigh_tokens_are_refused():
    of = DFlashTraining(layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16)
    with pytest.raises(ValueError, match="of must be a kind of head, such as eagle3, got DFlashTraining"):
        AuroraTraining(of=of)
    with pytest.raises(ValueError, match="discard_weight must be a finite number >= 0, got -1"):
        AuroraTraining(of=MEDUSA, discard_weight=-1)
