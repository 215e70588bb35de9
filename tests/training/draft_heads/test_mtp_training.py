"""The loss of a module for multi-token prediction against its sums written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params
from scipy.special import log_softmax, softmax
from strategy_helpers import MODELS

from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.mtp import MTPTraining
from jaxmodels.training.draft_heads.objective import Pupil, Seen

CONFIG = MODELS["ssd"]
TARGET = Target(CONFIG, random_params(CONFIG.spec()))
TOKENS = np.random.default_rng(0).integers(CONFIG.vocab_size, size=(2, 9), dtype=np.int32)
SIZES = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "d_ff": 12}


def test_each_step_learns_what_the_model_says_behind_the_same_tokens():
    training = MTPTraining(**SIZES, steps=3, decay=0.5)
    head = training.head(CONFIG)
    params = random_params(head.spec())
    scored = quick_jit(CONFIG.forward_scored)(TARGET.params, TOKENS)
    pupil, seen = Pupil(head, params, TARGET, None), Seen(tokens=jnp.asarray(TOKENS), scored=scored)
    loss, right = quick_jit(functools.partial(training.loss, pupil))(seen, jax.random.key(0))

    opinions = softmax(np.asarray(scored.logits), axis=-1)
    hidden, total = scored.hidden, 0.0
    read = quick_jit(lambda given, *inputs: head.modules[0].forward(given, TARGET, *inputs))
    for step in range(3):
        # Place i has read token i + 1 + step; the last places have none to read.
        known = TOKENS.shape[1] - 1 - step
        following = np.pad(TOKENS[:, 1 + step :], ((0, 0), (0, 1 + step)))
        said = read(params["modules"]["0"], following, hidden)
        log_q = log_softmax(np.asarray(said.logits), axis=-1)[:, :known]
        costs = -(opinions[:, 1 + step :] * log_q).sum(-1)
        total += 0.5**step * costs.mean()
        hidden = said.features
        if step == 0:
            share = np.mean(opinions[:, 1:].argmax(-1) == log_q.argmax(-1))
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    np.testing.assert_allclose(right, share, atol=1e-6)


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="MTPTraining: steps must be a whole number >= 1"):
        MTPTraining(**SIZES, steps=0)
    with pytest.raises(ValueError, match=r"MTPTraining: decay must be a .*number"):
        MTPTraining(**SIZES, decay=-1)
