"""What early exits go by, each written out, and learned ones with their parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, peek_scored, random_params
from strategy_helpers import architecture, decode

from jaxmodels.decoding import EarlyExit
from jaxmodels.decoding.depth import (
    AmongTokens,
    Certainty,
    LinearConfidence,
    MaxProbability,
    MLPConfidence,
    Patience,
    ProbabilityGap,
    Similarity,
    UntilConfident,
)
from jaxmodels.layers.spec import abstract_params

CONFIG = ARCHITECTURES["attention"]
WIDTH, BLOCKS = CONFIG.d_model, len(CONFIG.blocks)
THREE = dataclasses.replace(CONFIG, blocks=(*CONFIG.blocks, CONFIG.blocks[0]))
PARAMS = random_params(THREE.spec())
TOKENS = draw_tokens(2, 5)
RNG = np.random.default_rng(0)
LINEAR = LinearConfidence(
    weight=jnp.asarray(RNG.standard_normal((3, WIDTH)), jnp.float32),
    bias=jnp.asarray(RNG.standard_normal(3), jnp.float32),
)
MLP = MLPConfidence(
    w_in=jnp.asarray(RNG.standard_normal((3, WIDTH, 5)), jnp.float32),
    b_in=jnp.asarray(RNG.standard_normal((3, 5)), jnp.float32),
    w_out=jnp.asarray(RNG.standard_normal((3, 5)), jnp.float32),
    b_out=jnp.asarray(RNG.standard_normal(3), jnp.float32),
)
SOME = np.asarray([3, 20, 7, 11])


def logits_by_hand(stream):
    """float[B, S, V] of a stream, in numpy."""
    scale = PARAMS["final_norm"]["scale"]
    normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6) * scale
    head = PARAMS["embed" if THREE.tie_embeddings else "head"]["weight"]
    return normed @ np.asarray(head).T


def by_hand(confidence, index, before, after):
    """float[B, S] in numpy."""
    if isinstance(confidence, Similarity):
        products = (before * after).sum(-1)
        return products / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
    if isinstance(confidence, LinearConfidence):
        return 1 / (1 + np.exp(-(after @ confidence.weight[index] + confidence.bias[index])))
    if isinstance(confidence, MLPConfidence):
        w_in, b_in, w_out, b_out = (np.asarray(part)[index] for part in jax.tree.leaves(confidence))
        unit = after / np.sqrt((after**2).mean(-1, keepdims=True) + 1e-6)
        inside = np.maximum(unit @ w_in + b_in, 0)
        return 1 / (1 + np.exp(-(inside @ w_out + b_out)))
    logits = logits_by_hand(after)
    if isinstance(confidence, AmongTokens):
        logits, confidence = logits[..., SOME], confidence.confidence
    p = np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=-1)
    if isinstance(confidence, Certainty):
        return 1 + (p * np.log(p)).sum(-1) / np.log(p.shape[-1])
    return p[..., -1] if isinstance(confidence, MaxProbability) else p[..., -1] - p[..., -2]


CONFIDENCES = {
    "max_probability": MaxProbability(),
    "probability_gap": ProbabilityGap(),
    "certainty": Certainty(),
    "similarity": Similarity(),
    "among_tokens": AmongTokens(tokens=SOME, confidence=ProbabilityGap()),
    "linear": LINEAR,
    "mlp": MLP,
}


@pytest.mark.parametrize("confidence", CONFIDENCES.values(), ids=CONFIDENCES)
def test_tokens_leave_where_the_confidence_says(confidence):
    """At a threshold between the tokens' confidences behind block 0, some leave and some go on."""
    cache, taps = THREE.init_cache(2, 5), THREE.stream_names
    streams, _ = peek_scored(THREE, PARAMS, TOKENS, cache, taps=taps)
    before, after = (np.asarray(streams.taps[name]) for name in taps[:2])
    sure = by_hand(confidence, 0, before, after)
    ranked = np.sort(sure.ravel())
    threshold = float(ranked[4:6].mean())
    depth = UntilConfident(confidence=confidence, threshold=threshold, min_layers=1)
    scored, pending = jax.jit(lambda p: THREE.peek(p, TOKENS, cache, depth=depth, taps=taps))(PARAMS)
    leaves = sure >= threshold
    assert 0 < leaves.sum() < leaves.size
    np.testing.assert_array_equal(pending.depth == 1, leaves)
    np.testing.assert_array_equal((scored.taps["blocks/2"] == scored.taps["blocks/0"]).all(-1), leaves)


def test_a_learned_exit_decodes_and_is_data():
    config, params = architecture("attention")
    width, blocks = config.d_model, len(config.blocks)
    weight = np.zeros((blocks, width), np.float32)
    for bias, depth in ((9.0, 1), (-9.0, blocks)):
        confidence = LinearConfidence(weight=jnp.asarray(weight), bias=jnp.full((blocks,), bias))
        ours = decode(config, params, EarlyExit(threshold=0.5, confidence=confidence))
        assert (ours.counters["layers"] == depth * ours.counters["calls"]).all()
    other = EarlyExit(confidence=dataclasses.replace(confidence, bias=confidence.bias + 1))
    assert jax.tree.structure(other) == jax.tree.structure(EarlyExit(confidence=confidence))


def test_a_classifier_of_another_model_is_refused_before_compilation():
    cache = CONFIG.init_cache(2, 9)
    depth = UntilConfident(confidence=LINEAR, threshold=0.5, min_layers=1)
    message = rf"weight \[3, {WIDTH}\] is for another model: this one has {BLOCKS} blocks of width {WIDTH}"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: CONFIG.peek(p, TOKENS, cache, depth=depth), abstract_params(CONFIG.spec()))
    narrow = LinearConfidence(weight=LINEAR.weight[:BLOCKS, 1:], bias=LINEAR.bias[:BLOCKS])
    with pytest.raises(ValueError, match=rf"weight \[{BLOCKS}, {WIDTH - 1}\] is for another model"):
        decode(*architecture("attention"), EarlyExit(confidence=narrow))


def test_a_classifier_has_a_bias_per_block():
    with pytest.raises(ValueError, match=r"weight must be \[L, D\] and bias \[L\].*got \[3, 16\] and \[2\]"):
        LinearConfidence(weight=LINEAR.weight, bias=LINEAR.bias[:2])


@pytest.mark.sweep
def test_patience_counts_blocks_that_changed_nothing():
    """With a patience of one, a token leaves behind the first block that says what the one before it said."""
    four = dataclasses.replace(THREE, blocks=(*THREE.blocks, THREE.blocks[1]))
    params = random_params(four.spec())
    cache, tokens = four.init_cache(12, 4), draw_tokens(12, 1)
    streams, _ = peek_scored(four, params, tokens, cache, taps=four.stream_names)
    # The norm divides by a length, which changes no choice.
    said = [
        (np.asarray(streams.taps[f"blocks/{i}"]) * params["final_norm"]["scale"] @ params["head"]["weight"].T)
        for i in range(3)
    ]
    first, second, third = (scores.argmax(-1) for scores in said)
    expected = np.where(second == first, 2, np.where(third == second, 3, 4))
    assert set(np.unique(expected)) == {2, 3, 4}
    for patience, depths in ((1, expected), (3, 4)):
        depth = UntilConfident(confidence=Patience(blocks=patience), threshold=1.0)
        _, pending = peek_scored(four, params, tokens, cache, depth=depth)
        np.testing.assert_array_equal(pending.depth, depths)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AmongTokens(tokens=np.asarray([3]), confidence=Certainty()), "at least two whole numbers"),
        (lambda: AmongTokens(tokens=np.asarray([3, 3]), confidence=Certainty()), "none twice"),
        (lambda: Patience(blocks=0.5), "Patience: blocks must be a finite number >= 1, got 0.5"),
        (lambda: dataclasses.replace(MLP, b_in=MLP.b_in[:2]), r"got \[3, 16, 5\], \[2, 5\], \[3, 5\], \[3\]"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tokens_of_another_vocabulary_are_refused_before_compilation():
    among = AmongTokens(tokens=np.asarray([3, 29]), confidence=MaxProbability())
    with pytest.raises(ValueError, match=r"AmongTokens names token 29, .* outside the vocabulary 0 to 28"):
        decode(*architecture("attention"), EarlyExit(confidence=among))
