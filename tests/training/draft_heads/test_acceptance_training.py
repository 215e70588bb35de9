"""An acceptance head learns which of a draft's tokens the target accepts, by the published loss."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Speculative
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.acceptance import AcceptanceTraining
from jaxmodels.training.draft_heads.export import export_draft_head
from jaxmodels.training.draft_heads.objective import Pupil
from jaxmodels.training.draft_heads.recipe import DRAFT_HEAD_RECIPES
from jaxmodels.training.draft_heads.run import see, train_draft_head
from jaxmodels.training.fitting import Fit
from jaxmodels.training.optimizer import AdamW, WarmupCosine

TARGET, DRAFT = "tiny-llama-lists", "tiny-llama-lists-jacobi"
TOKENS = jax.random.randint(jax.random.key(1), (3, 12), 0, 64)


@functools.cache
def models():
    return tuple(jm.load(name, "float32") for name in (TARGET, DRAFT))


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_tokens_are_accepted_as_verification_does(temperature):
    rng = np.random.default_rng(0)
    target, draft = (2 * rng.standard_normal((40, 30, 5)) for _ in range(2))
    training = AcceptanceTraining(draft=DRAFT, temperature=temperature)
    token, accepted = training.drafted(jnp.asarray(target), jnp.asarray(draft), jax.random.key(0))
    if temperature == 0:
        assert token.tolist() == draft.argmax(-1).tolist()
        assert accepted.tolist() == (draft.argmax(-1) == target.argmax(-1)).tolist()
        return
    p, q = (
        np.take_along_axis(softmax(logits / temperature), np.asarray(token)[..., None], -1)[..., 0]
        for logits in (target, draft)
    )
    np.testing.assert_allclose(accepted, np.minimum(1, p / q), rtol=1e-5)
    # The mean acceptance of tokens that are the draft's own is the overlap of both distributions.
    overlap = np.minimum(softmax(target / temperature), softmax(draft / temperature)).sum(-1)
    assert abs(float(accepted.mean()) - overlap.mean()) < 0.03


def test_the_loss_is_that_of_the_definition():
    training = AcceptanceTraining(draft=DRAFT, layers=2, reject_weight=4.0, text_share=0.3)
    target, draft = models()
    head = training.head(target.decoder)
    pupil = Pupil(
        head=head,
        params=random_params(head.spec()),
        target=Target(target.config, target.params),
        token_ids=None,
    )
    seen, key = quick_jit(functools.partial(see, pupil))(TOKENS), jax.random.key(7)
    loss, divergence = quick_jit(functools.partial(training.loss, pupil))(seen, key)

    draw, mix = jax.random.split(key)
    behind = draft(TOKENS)[:, :-1]
    token, accepted = training.drafted(seen.scored.logits[:, :-1], behind, draw)
    is_text = np.asarray(jax.random.bernoulli(mix, 0.3, (3, 11)))
    assert 0 < is_text.sum() < is_text.size
    read = np.concatenate([TOKENS[:, :1], np.where(is_text, TOKENS[:, 1:], token)], axis=1)
    hidden = quick_jit(draft.config.forward_scored)(draft.params, jnp.asarray(read)).hidden
    log_p = np.log(softmax(np.asarray(head(pupil.params, hidden), np.float64)))
    costs, weights, kl = [], [], []
    for row, place in zip(*np.nonzero(~is_text), strict=True):
        right, (reject, accept) = float(accepted[row, place]), log_p[row, place + 1]
        costs.append(-(4 * (1 - right) * reject + right * accept))
        weights.append(4 * (1 - right) + right)
        both = np.asarray([1 - right, right])
        kl.append(sum(b * (np.log(b) - c) for b, c in zip(both, (reject, accept), strict=True) if b > 0))
    np.testing.assert_allclose(loss, sum(costs) / sum(weights), rtol=1e-4)
    np.testing.assert_allclose(divergence, np.mean(kl), rtol=1e-3)


@pytest.mark.sweep
def test_a_run_ends_with_a_length_for_the_draft(tmp_path):
    tokens = np.tile(np.random.default_rng(0).integers(0, 64, 16), 36)
    np.save(tmp_path / "text.npy", tokens.astype(np.int32))
    recipe = dataclasses.replace(
        DRAFT_HEAD_RECIPES.load("tiny_qwen3_draft_acceptance"),
        target=TARGET,
        head=AcceptanceTraining(draft=DRAFT, layers=1, temperature=0.0),
        train_files=(str(tmp_path / "text.npy"),),
        held_out_files=(str(tmp_path / "text.npy"),),
        fit=Fit(
            schedule=WarmupCosine(peak=0.01, warmup_steps=1, total_steps=4),
            optimizer=AdamW(),
            batch_size=8,
        ),
        sequence_length=16,
        log_every=1,
        checkpoint_every=4,
    )
    run = train_draft_head(recipe, tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/head/metrics.jsonl").open()]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "run/result.json").read_text())["kl_of_acceptance"] > 0
    export_draft_head(run, tmp_path / "head", "float32")
    target, _ = models()
    prompt = [[3, 5, 7, 9]]
    strategy = Speculative(draft=DRAFT, length=jm.load_draft_length(tmp_path / "head"))
    plain = target.generate(prompt, 12, Autoregressive())
    np.testing.assert_array_equal(target.generate(prompt, 12, strategy).tokens, plain.tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_share": 1.0}, "text_share must be below 1"),
        ({"reject_weight": 0.0}, "reject_weight must be a finite number > 0"),
        ({"temperature": -1.0}, "temperature must be a finite number >= 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AcceptanceTraining(draft=DRAFT, **arguments)


def test_a_draft_of_another_vocabulary_is_refused():
    target, _ = models()
    with pytest.raises(ValueError, match="its vocabulary has 4096 tokens and the target's 64"):
        AcceptanceTraining(draft="tiny-qwen3-draft").head(target.decoder)
