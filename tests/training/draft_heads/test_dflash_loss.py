"""The loss of a DFlash head against its sums written out, and what training does to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dflash_heads import HEADS, by_hand, params_of
from model_helpers import random_params
from strategy_helpers import MODELS

from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.dflash import DFlashLoss

TARGET = Target(MODELS["attention"], random_params(MODELS["attention"].spec()))
TOKENS = np.random.default_rng(0).integers(29, size=(2, 9))
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["plain", "confident"])
def test_it_is_the_weighted_cost_of_the_models_own_opinion(name):
    """All blocks that there are room for, so that chance has no part in it."""
    one, params = HEADS[name], params_of(name)
    slots = one.slots(one.size)
    anchors = range(1, 9 - slots + (not one.from_anchor))
    seen = TARGET.config.forward_scored(TARGET.params, jnp.asarray(TOKENS), taps=one.taps)
    streams = np.concatenate([seen.taps[tap] for tap in one.taps], axis=-1)
    opinions = np.asarray(jax.nn.softmax(seen.logits, axis=-1))
    costs, agreed = [], []
    for row, text in enumerate(TOKENS):
        for anchor in anchors:
            block = jnp.asarray([[text[anchor], *[one.mask_token] * (slots - 1)]])
            embedded = one.embed(params, TARGET, block)[0]
            hidden = by_hand(one, params, np.asarray(embedded), streams[row], anchor)
            hidden = jnp.asarray(hidden[slots - one.size :], jnp.float32)
            logits = one.logits(params, TARGET, hidden)
            told = jnp.asarray(text[anchor : anchor + one.size])
            if one.choice is not None:
                logits = logits + params["choice"]["before"][told] @ params["choice"]["w_bias"].T
            p, log_q = opinions[row, anchor : anchor + one.size], jax.nn.log_softmax(logits, axis=-1)
            cost = -(p * log_q).sum(-1)
            if one.confidence is not None:
                share = np.minimum(p, np.exp(log_q)).sum(-1)
                sure = jax.nn.sigmoid(one.confidence_logits(params, hidden, told))
                cost = cost - share * np.log(sure) - (1 - share) * np.log(1 - sure)
            costs.append(cost)
            agreed.append(np.argmax(log_q, -1) == np.argmax(p, -1))
    weights = np.exp(-np.arange(one.size) / 4)
    loss, metrics = DFlashLoss(anchors=20)(one, params, TARGET, jnp.asarray(TOKENS), KEY)
    np.testing.assert_allclose(loss, (np.mean(costs, 0) * weights).sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["agreement"], np.mean(agreed, 0), atol=1e-6)
    np.testing.assert_allclose(metrics["accepted"], np.cumprod(agreed, 1).sum(1).mean(), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "convolved" else pytest.mark.sweep) for name in HEADS],
)
def test_a_step_downhill_makes_it_less_and_leaves_the_target_alone(name):
    one, params = HEADS[name], params_of(name)
    loss = DFlashLoss(anchors=3)

    def cost(params, target_params):
        return loss(one, params, Target(TARGET.config, target_params), jnp.asarray(TOKENS), KEY)[0]

    before, (gradient, of_target) = jax.value_and_grad(cost, argnums=(0, 1))(params, TARGET.params)
    after = cost(optax.apply_updates(params, jax.tree.map(lambda g: -0.01 * g, gradient)), TARGET.params)
    assert after < before
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    # The streams it reads have no gradient; those through its embedding and head have.
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(of_target["blocks"]))


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="DFlashLoss: anchors must be a whole number >= 1"):
        DFlashLoss(anchors=0)
    with pytest.raises(ValueError, match="DFlashLoss: decay must be a finite number > 0"):
        DFlashLoss(decay=0)
    with pytest.raises(ValueError, match="texts of 5 tokens hold no block of 5 slots"):
        DFlashLoss()(HEADS["plain"], params_of("plain"), TARGET, jnp.asarray(TOKENS[:, :5]), KEY)
