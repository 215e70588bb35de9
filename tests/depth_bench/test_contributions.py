"""What blocks contribute to a text, against models whose blocks are really exchanged."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import forward
from scipy.special import log_softmax
from strategy_helpers import architecture

from jaxmodels.decoding.depth import speed_up_of
from jaxmodels.depth_bench.contributions import blocks_to_skip, contributions

TOKENS = np.asarray([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]], np.int32)


def without(config, params, skipped):
    """The model without some of its blocks."""
    kept = [i for i in range(len(config.blocks)) if i not in skipped]
    blocks = tuple(config.blocks[i] for i in kept)
    return replace(config, blocks=blocks), {
        **params,
        "blocks": {str(place): params["blocks"][str(i)] for place, i in enumerate(kept)},
    }


def log_p(config, params):
    return log_softmax(np.asarray(forward(config, params, TOKENS)), axis=-1)


@pytest.mark.parametrize("kind", ["attention", pytest.param("hybrid", marks=pytest.mark.sweep)])
def test_a_block_that_is_skipped_is_as_good_as_gone(kind):
    config, params = architecture(kind)
    found = contributions(config, params, TOKENS)
    assert len(found) == len(config.blocks)
    full, short = log_p(config, params), log_p(*without(config, params, {1}))
    effect = found[1].skipped
    assert effect.agreement == pytest.approx((full.argmax(-1) == short.argmax(-1)).mean())
    assert effect.divergence == pytest.approx((np.exp(full) * (full - short)).sum(-1).mean(), rel=1e-3)
    nats = [-np.take_along_axis(one[:, :-1], TOKENS[:, 1:, None], axis=-1).mean() for one in (short, full)]
    assert effect.nats == pytest.approx(nats[0] - nats[1], rel=1e-3, abs=1e-6)


@pytest.mark.sweep
def test_what_a_block_adds_is_measured_against_its_stream():
    config, params = architecture("attention")
    found = contributions(config, params, TOKENS)
    before, after = (
        np.asarray(
            without(config, params, set(range(depth, len(config.blocks))))[0]
            .forward_scored(params, jnp.asarray(TOKENS), taps=[name])
            .taps[name]
        )
        for depth, name in ((1, "blocks/0"), (2, "blocks/1"))
    )
    added = after - before
    norms = np.linalg.norm(added, axis=-1), np.linalg.norm(before, axis=-1)
    assert found[1].norm_ratio == pytest.approx((norms[0] / norms[1]).mean(), rel=1e-4)
    cosine = (added * before).sum(-1) / (norms[0] * norms[1])
    assert found[1].cosine == pytest.approx(cosine.mean(), rel=1e-3)


def doubled():
    """A model whose third block adds nothing, so that it is the one to skip."""
    config, params = architecture("attention")
    blocks = (config.blocks[0],) * 4
    params = {**params, "blocks": {str(i): params["blocks"]["0"] for i in range(4)}}
    silent = jax.tree.map(jnp.zeros_like, params["blocks"]["2"])
    params["blocks"]["2"] = silent
    return replace(config, blocks=blocks), params


def test_the_block_that_does_nothing_is_skipped_first():
    config, params = doubled()
    plan, effect = blocks_to_skip(config, params, TOKENS, 1.05)
    assert plan.passes == (1, 1, 0, 1)
    assert effect.agreement == 1.0 and effect.divergence == pytest.approx(0, abs=1e-6)
    assert speed_up_of(config, plan) >= 1.05
    faster, _ = blocks_to_skip(config, params, TOKENS, 1.4)
    assert faster.passes == (1, 0, 0, 1)


def test_what_cannot_be_proposed():
    config, params = doubled()
    with pytest.raises(ValueError, match=r"speed_up=9 is more .* it is"):
        blocks_to_skip(config, params, TOKENS, 9)
    with pytest.raises(ValueError, match="a text of 1 token has no next token"):
        contributions(config, params, TOKENS[:, :1])
