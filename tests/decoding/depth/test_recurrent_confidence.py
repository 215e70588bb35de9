"""Exits by classifiers that remember the tokens before: any split into windows is the whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek_scored, quick_jit, random_params

from jaxmodels.decoding.depth import RecurrentConfidence, UntilConfident, trace_exits
from jaxmodels.decoding.depth.confidence.recurrent import exit_spec, mixer_of
from jaxmodels.layers.spec import abstract_params
from jaxmodels.layers.window import fresh_window

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 9)
WIDTH, STATE = 6, 4
CONFIDENCE = RecurrentConfidence(
    params=random_params({exit: exit_spec(CONFIG.d_model, WIDTH, STATE) for exit in "01"}),
    width=WIDTH,
    state_dim=STATE,
)
NEVER = UntilConfident(confidence=CONFIDENCE, threshold=2.0)


def by_hand(stream, params):
    """float[B, S] over whole sequences, by the mixer's own forward pass."""
    normed = stream / jnp.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6) * params["norm"]["scale"]
    x = normed @ params["w_in"].T
    inner = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["mixer_norm"]["scale"]
    mixed = mixer_of(WIDTH, STATE).forward(params["mixer"], inner, fresh_window(TOKENS, None, CONFIG.mask))
    return jax.nn.sigmoid((x + mixed) @ params["w_out"] + params["b_out"])


def test_a_trace_is_the_classifier_over_the_whole_sequence():
    taps = CONFIG.stream_names
    scored = quick_jit(lambda *given: CONFIG.forward_scored(*given, taps=taps))(PARAMS, TOKENS)
    trace = trace_exits(CONFIG, PARAMS, [np.asarray(TOKENS)], NEVER)
    for k, exit in enumerate("01"):
        expected = quick_jit(by_hand)(scored.taps[f"blocks/{exit}"], CONFIDENCE.params[exit])
        np.testing.assert_allclose(trace.confidence[:, k], expected.ravel(), atol=1e-5)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("cuts", [(4, 5, 9), (1, 2, 9)])
def test_any_split_into_windows_is_the_whole(cuts):
    """Where tokens leave, and what is remembered, with histories that end inside windows, too."""
    trace = trace_exits(CONFIG, PARAMS, [np.asarray(TOKENS)], NEVER)
    policy = dataclasses.replace(NEVER, threshold=float(np.median(trace.confidence[:, 0])))
    whole, pending = peek_scored(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(2, 12, depth=policy), depth=policy)
    assert len(np.unique(pending.depth)) > 1
    cache, logits, depths, start = CONFIG.init_cache(2, 12, depth=policy), [], [], 0
    for stop in cuts:
        window = jnp.pad(TOKENS[:, start:stop], [(0, 0), (0, 2)])
        scored, part = peek_scored(CONFIG, PARAMS, window, cache, depth=policy)
        cache = commit(CONFIG, part, jnp.full((2,), stop - start))
        logits.append(scored.logits[:, : stop - start])
        depths.append(part.depth[:, : stop - start])
        start = stop
    np.testing.assert_array_equal(np.concatenate(depths, 1), pending.depth)
    np.testing.assert_allclose(np.concatenate(logits, 1), whole.logits, atol=1e-4)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
        cache.memory,
        commit(CONFIG, pending).memory,
    )


@pytest.mark.parametrize(
    ("confidence", "message"),
    [
        (
            RecurrentConfidence(params={"1": CONFIDENCE.params["1"]}, width=WIDTH, state_dim=STATE),
            "no classifier behind block 0, only behind 1",
        ),
        (
            RecurrentConfidence(
                params=random_params({exit: exit_spec(15, WIDTH, STATE) for exit in "01"}),
                width=WIDTH,
                state_dim=STATE,
            ),
            r"w_in \[6, 15\] is for another model: this one's stream has a width of 16",
        ),
    ],
    ids=["block", "width"],
)
def test_classifiers_of_another_model_are_refused_before_compilation(confidence, message):
    policy = dataclasses.replace(NEVER, confidence=confidence)
    cache = CONFIG.init_cache(2, 9, depth=policy)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: CONFIG.peek(p, TOKENS, cache, depth=policy), abstract_params(CONFIG.spec()))


def test_sizes_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="RecurrentConfidence: width must be a whole number >= 1"):
        dataclasses.replace(CONFIDENCE, width=0)
    with pytest.raises(ValueError, match="params must be a mapping from numbers of blocks"):
        RecurrentConfidence(params={"last": {}})
