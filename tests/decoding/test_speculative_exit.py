"""Exits by a draft's candidates, against the predictor written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, peek_scored, random_params
from strategy_helpers import PROMPTS, architecture, assert_same_generation, decode, expected, nearby

from jaxmodels.decoding import Autoregressive, Draft, SpeculativeExit
from jaxmodels.decoding.depth import CandidateConfidence, MaxProbability, UntilConfident

RNG = np.random.default_rng(0)
K, HIDDEN = 3, 5


def predictor(blocks, bias=0.0):
    def noise(*shape):
        return jnp.asarray(RNG.standard_normal(shape), jnp.float32)

    return CandidateConfidence(
        w_in=noise(blocks, 3 * K, HIDDEN),
        b_in=noise(blocks, HIDDEN),
        w_out=noise(blocks, HIDDEN),
        b_out=jnp.full((blocks,), bias),
    )


def strategy(name, threshold, bias=0.0):
    config, params = architecture(name)
    return SpeculativeExit(
        draft=Draft(config, nearby(params, 0.3)),
        depth=UntilConfident(confidence=predictor(len(config.blocks), bias), threshold=threshold),
        decode=Autoregressive(top_logprobs=2),
    )


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["hybrid", "attention", "ssd", "latent", "delta"])
def test_a_threshold_that_is_never_reached_equals_autoregressive_decoding(name):
    ours = decode(*architecture(name), strategy(name, 2.0))
    assert_same_generation(ours, expected(name))


@pytest.mark.sweep
def test_a_row_alone_leaves_as_in_a_batch():
    given = strategy("hybrid", 0.5, bias=1.0)
    together = decode(*architecture("hybrid"), given)
    alone = decode(*architecture("hybrid"), given, PROMPTS[2:3])
    np.testing.assert_array_equal(together.tokens[2], alone.tokens[0])
    assert together.counters["layers"][2] == alone.counters["layers"][0]
    assert (together.counters["layers"] < 3 * together.counters["calls"]).any()


@pytest.mark.sweep
def test_tokens_leave_where_the_predictor_is_sure_and_the_head_says_a_candidate():
    config = ARCHITECTURES["hybrid"]
    params, tokens = random_params(config.spec()), draw_tokens(24, 1)
    cache = config.init_cache(24, 2)
    streams, _ = peek_scored(config, params, tokens, cache, taps=config.stream_names)
    scores = []
    for i in range(2):
        stream = np.asarray(streams.taps[f"blocks/{i}"])
        normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6) * params["final_norm"]["scale"]
        scores.append(np.asarray(normed @ params["head"]["weight"].T))
    # Of some rows what the first exit finds best, of some what the second does, of some what neither does.
    best = [one.argsort(-1)[..., -K:] for one in (*scores, -scores[0] - scores[1])]
    candidates = jnp.asarray(np.concatenate([best[0][:8], best[1][8:16], best[2][16:]]), jnp.int32)
    bias = jnp.asarray([0.0, 5.0, 0.0])  # the second exit trusts most candidates
    confidence = dataclasses.replace(predictor(3), candidates=candidates, b_out=bias)
    before, sure, said = 0.0, [], []
    for i, logits in enumerate(scores):
        few = np.take_along_axis(logits, np.asarray(candidates), axis=-1)
        p = np.asarray(jax.nn.softmax(few, axis=-1))
        shown = np.concatenate([few, p, p - before], axis=-1)
        inside = np.maximum(shown @ confidence.w_in[i] + confidence.b_in[i], 0)
        sure.append(1 / (1 + np.exp(-(inside @ confidence.w_out[i] + confidence.b_out[i])))[:, 0])
        said.append((logits.argmax(-1)[..., None] == candidates).any(-1)[:, 0])
        before = p
    leaves = [(one >= 0.2) & np.asarray(told) for one, told in zip(sure, said, strict=True)]
    expected_depth = np.where(leaves[0], 1, np.where(leaves[1], 2, 3))
    assert set(expected_depth) == {1, 2, 3}
    policy = UntilConfident(confidence=confidence, threshold=0.2)
    _, pending = peek_scored(config, params, tokens, cache, depth=policy)
    np.testing.assert_array_equal(pending.depth[:, 0], expected_depth)


def test_what_does_not_fit_is_refused_before_compilation():
    config, params = architecture("hybrid")
    policy = UntilConfident(confidence=MaxProbability(), threshold=0.5)
    with pytest.raises(ValueError, match=r"depth must be an UntilConfident whose .* CandidateConfidence"):
        SpeculativeExit(draft=Draft(config, params), depth=policy)
    with pytest.raises(ValueError, match=r"w_in must be \[L, 3 K, H\].*got \[3, 9, 5\], \[2, 5\]"):
        dataclasses.replace(predictor(3), b_in=jnp.zeros((2, 5)))
    other = dataclasses.replace(config, vocab_size=31)
    given = dataclasses.replace(strategy("hybrid", 0.5), draft=Draft(other, random_params(other.spec())))
    with pytest.raises(ValueError, match="its vocabulary has 31 tokens and the model's 29"):
        decode(config, params, given)
    depth = UntilConfident(confidence=predictor(4), threshold=0.5)
    given = dataclasses.replace(strategy("hybrid", 0.5), depth=depth)
    with pytest.raises(ValueError, match="w_in is for a model of 4 blocks, and this one has 3"):
        decode(config, params, given)
