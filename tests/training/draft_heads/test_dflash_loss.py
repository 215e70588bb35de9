"""The loss of a DFlash head against its sums written out, and what training does to it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dflash_heads import HEADS, by_hand, params_of
from model_helpers import quick_jit, random_params
from scipy.special import expit, log_softmax, softmax
from strategy_helpers import MODELS, architecture, decode, expected

import jaxmodels as jm
from jaxmodels.decoding import Speculative
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.dflash import DFlashTraining
from jaxmodels.training.draft_heads.objective import Pupil
from jaxmodels.training.draft_heads.run import see

TARGET = Target(MODELS["attention"], architecture("attention")[1])
TOKENS = np.random.default_rng(0).integers(29, size=(2, 9), dtype=np.int32)
KEY = jax.random.key(0)
SIZES = {"layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "d_ff": 20, "block_size": 4}


def pupil_of(one, params, target_params=TARGET.params, token_ids=None):
    return Pupil(one, params, Target(TARGET.config, target_params), token_ids)


def cost(training, pupil):
    return training.loss(pupil, see(pupil, jnp.asarray(TOKENS)), KEY)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", ["plain", "confident"])
def test_it_is_the_weighted_cost_of_the_models_own_opinion(name):
    """All blocks that there are room for, so that chance has no part in it."""
    one, params = HEADS[name], params_of(name)
    slots = one.slots(one.size)
    anchors = range(1, 9 - slots + (not one.from_anchor))
    seen = quick_jit(functools.partial(TARGET.config.forward_scored, taps=one.taps))(TARGET.params, TOKENS)
    streams = np.concatenate([seen.taps[tap] for tap in one.taps], axis=-1)
    opinions = softmax(np.asarray(seen.logits), axis=-1)
    embed = quick_jit(lambda block: one.embed(params, TARGET, block))
    logits_of = quick_jit(lambda hidden: one.logits(params, TARGET, hidden))
    confidence = quick_jit(lambda *given: one.confidence_logits(params, *given))
    costs, agreed = [], []
    for row, text in enumerate(TOKENS):
        for anchor in anchors:
            block = np.asarray([[text[anchor], *[one.mask_token] * (slots - 1)]], np.int32)
            embedded = np.asarray(embed(block))[0]
            hidden = by_hand(one, params, embedded, streams[row], anchor)
            hidden = hidden[slots - one.size :].astype(np.float32)
            logits = np.asarray(logits_of(hidden))
            told = text[anchor : anchor + one.size]
            if one.choice is not None:
                before, w_bias = (np.asarray(params["choice"][name]) for name in ("before", "w_bias"))
                logits = logits + before[told] @ w_bias.T
            p, log_q = opinions[row, anchor : anchor + one.size], log_softmax(logits, axis=-1)
            nats = -(p * log_q).sum(-1)
            if one.confidence is not None:
                share = np.minimum(p, np.exp(log_q)).sum(-1)
                sure = expit(np.asarray(confidence(hidden, told)))
                nats = nats - share * np.log(sure) - (1 - share) * np.log(1 - sure)
            costs.append(nats)
            agreed.append(np.argmax(log_q, -1) == np.argmax(p, -1))
    weights = np.exp(-np.arange(one.size) / 4)
    training = DFlashTraining(**SIZES, anchors=20)
    loss, right = quick_jit(lambda params: cost(training, pupil_of(one, params)))(params)
    np.testing.assert_allclose(loss, (np.mean(costs, 0) * weights).sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(right, np.mean(agreed, 0)[0], atol=1e-6)


@pytest.mark.sweep
@pytest.mark.parametrize("name", HEADS)
def test_a_step_downhill_makes_it_less_and_leaves_the_target_alone(name):
    one, params, training = HEADS[name], params_of(name), DFlashTraining(**SIZES, anchors=3)

    def of(params, target_params):
        return cost(training, pupil_of(one, params, target_params))[0]

    slope = quick_jit(jax.value_and_grad(of, argnums=(0, 1)))
    before, (gradient, of_target) = slope(params, TARGET.params)
    after = quick_jit(of)(
        optax.apply_updates(params, jax.tree.map(lambda g: -0.01 * g, gradient)), TARGET.params
    )
    assert after < before
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    # The streams that it reads pass no gradient on.
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(of_target["blocks"]))


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"draft_vocab_size": 7, "markov_rank": 4},
        pytest.param({"selector_rank": 4}, marks=pytest.mark.sweep),
        pytest.param({"markov_rank": 4, "target_layers": [0, 1]}, marks=pytest.mark.sweep),
    ],
    ids=["DFlash", "few tokens", "DFlash2", "DSpark"],
)
def test_a_trained_head_drafts_for_its_target(kind, tmp_path):
    """From the head that a recipe describes to a drafter that is saved, loaded and exact."""
    training = DFlashTraining(**SIZES, anchors=2, **{"target_layers": [1], **kind})
    one = training.head(TARGET.config)
    ids = jnp.asarray([0, 3, 4, 9, 11, 20, 28]) if "draft_vocab_size" in kind else None
    pupil = pupil_of(one, random_params(one.spec()), token_ids=ids)
    pupil = dataclasses.replace(pupil, params=training.start(pupil))
    loss, _ = quick_jit(lambda params: cost(training, dataclasses.replace(pupil, params=params)))(
        pupil.params
    )
    assert np.isfinite(loss)
    jm.save_drafter(training.drafter(pupil), tmp_path)
    drafter = jm.load_drafter(tmp_path, TARGET.config)
    assert drafter.head.blocks == one.blocks and drafter.size == one.size
    out = decode(TARGET.config, TARGET.params, Speculative(draft=drafter))
    np.testing.assert_array_equal(out.tokens, expected("attention").tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors": 0}, "DFlashTraining: anchors must be a whole number >= 1"),
        ({"decay": 0}, "DFlashTraining: decay must be a finite number > 0"),
        ({"block_size": 1}, "DFlashTraining: block_size must be a whole number >= 2"),
        ({"target_layers": []}, "DFlashTraining: target_layers must name blocks"),
        ({"selector_rank": 2, "markov_rank": 2}, "selector_rank=2 goes with neither .* nor markov_rank=2"),
    ],
)
def test_values_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DFlashTraining(**{**SIZES, **changes})


def test_texts_must_hold_a_block():
    pupil = pupil_of(HEADS["plain"], params_of("plain"))
    training = DFlashTraining(**SIZES)
    with pytest.raises(ValueError, match="texts of 5 tokens hold no block of 5 slots"):
        jax.eval_shape(lambda tokens: training.loss(pupil, see(pupil, tokens), KEY), TOKENS[:, :5])
