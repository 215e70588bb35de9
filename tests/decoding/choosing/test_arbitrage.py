"""Steps of two models in turns: each is the draft's or the target's own, as the router decided."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import decoder, quick_jit, random_params, ssd
from strategy_helpers import PROMPTS, architecture, decode, nearby

import jaxmodels as jm
from jaxmodels.decoding import Arbitrage, Autoregressive, Draft, LinearRouter, Regret, Sample
from jaxmodels.decoding.choosing.routers import DraftedStep, features, fit_router
from jaxmodels.decoding.processors import RepetitionPenalty

NEW, LONGEST = 14, 5
DELIMITERS = (2, 3, 19, 23)
NEVER, ALWAYS = 1e9, -1.0  # thresholds of a regret, which is never negative


@functools.cache
def two_models(name):
    """(configuration, the target's parameters, a draft that often disagrees)"""
    config, params = architecture(name)
    return config, params, Draft(config, nearby(params, 0.5))


def strategy(draft, **options):
    return Arbitrage(draft=draft, delimiters=DELIMITERS, longest=LONGEST, top_logprobs=0, **options)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssd", {}),
        ("hybrid", {}),
        ("ring", {}),
        ("delta", {"sampler": Sample(temperature=1.3), "processors": (RepetitionPenalty(1.4),)}),
    ],
)
def test_routers_without_a_choice_leave_one_model(name, options):
    """Never the target: the draft's most probable text. Always: the target's, sampled with the same keys."""
    config, params, draft = two_models(name)
    of_the_draft = [] if "sampler" in options else [(NEVER, draft.params)]
    for threshold, of in (*of_the_draft, (ALWAYS, params)):
        plain = Autoregressive(top_logprobs=0, **options)
        stop = [int(decode(config, of, plain, new=NEW, seed=3).tokens[1, 6])]
        expected = decode(config, of, plain, new=NEW, stop=stop, seed=3)
        ours = decode(
            config, params, strategy(draft, threshold=threshold, **options), new=NEW, stop=stop, seed=3
        )
        np.testing.assert_array_equal(ours.tokens, expected.tokens)
        np.testing.assert_array_equal(ours.lengths, expected.lengths)
        all_or_none = ours.counters["steps"] if threshold == ALWAYS else 0
        np.testing.assert_array_equal(ours.counters["routed"], all_or_none)
        if threshold == ALWAYS:
            np.testing.assert_allclose(ours.log_probs.chosen, expected.log_probs.chosen, atol=3e-5)


@pytest.mark.sweep
def test_the_target_samples_independently_of_the_dropped_step():
    """A draft that is the target itself: with the same keys, every step would be written twice alike."""
    config, params = architecture("ssd")
    sampler = Sample(temperature=1.5)
    own, rewritten = (
        decode(
            config,
            params,
            strategy(Draft(config, params), threshold=threshold, sampler=sampler),
            new=NEW,
            seed=3,
        )
        for threshold in (NEVER, ALWAYS)
    )
    assert (own.tokens[:, 0] != rewritten.tokens[:, 0]).any()
    again = decode(config, params, Autoregressive(sampler=sampler), new=NEW, seed=3)
    np.testing.assert_array_equal(rewritten.tokens, again.tokens)


def by_hand(config, target, draft, prompt, threshold):
    """(tokens, which steps the target wrote), text by text from whole sequences."""
    forward = quick_jit(lambda params, tokens: jax.nn.log_softmax(config.forward(params, tokens)))

    def scores(params, text):
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(text)] = text
        return np.asarray(forward(params, jnp.asarray(padded)))[0, len(text) - 1]

    def write(params, text, new):
        step = []
        while len(step) < LONGEST and new + len(step) < NEW and not (step and step[-1] in DELIMITERS):
            step.append(int(scores(params, text + step).argmax()))
        return step

    tokens, routed = [], []
    while len(tokens) < NEW:
        text = prompt + tokens
        step = write(draft, text, len(tokens))
        found = [scores(target, text + step[:i]) for i in range(len(step))]
        regret = np.mean([row.max() - row[token] for row, token in zip(found, step, strict=True)])
        routed.append(bool(regret > threshold))
        tokens += write(target, text, len(tokens)) if routed[-1] else step
    return tokens, routed


@pytest.mark.sweep
def test_each_step_goes_by_the_router():
    config = decoder(ssd())
    params = random_params(config.spec())
    draft = Draft(config, nearby(params, 0.7))
    threshold = 0.3
    out = decode(config, params, strategy(draft, threshold=threshold), PROMPTS, new=NEW)
    turns = []
    for row, prompt in enumerate(PROMPTS):
        tokens, routed = by_hand(config, params, draft.params, prompt, threshold)
        assert out.tokens[row, :NEW].tolist() == tokens
        assert (out.counters["steps"][row], out.counters["routed"][row]) == (len(routed), sum(routed))
        turns += routed
    assert {True, False} == set(turns)


def drafted(seed=0, rows=64):
    rng = np.random.default_rng(seed)
    draft, target = -rng.exponential(size=(2, rows, 4)).astype(np.float32)
    return DraftedStep(
        tokens=jnp.zeros((rows, 4), jnp.int32),
        count=jnp.asarray(rng.integers(1, 5, rows)),
        draft=jnp.asarray(draft),
        target=jnp.asarray(target),
        best=jnp.asarray(target / 3),
        hidden=jnp.zeros((rows, 2)),
    )


def test_a_router_is_fitted_to_an_oracle():
    """Steps whose advantage is linear in the features: those of the oracle, on steps it has not seen."""
    step, other = drafted(), drafted(seed=1)

    def oracle(step):
        return 2.0 * Regret().advantage(step) - 0.1 * step.count + 0.5

    router = fit_router(np.asarray(features(step)), np.asarray(oracle(step)), ridge=1e-6)
    np.testing.assert_allclose(router.advantage(other), oracle(other), atol=0.02)
    chosen = np.arange(4) < np.asarray(other.count)[:, None]
    by_hand = [np.mean((other.best - other.target)[row][chosen[row]]) for row in range(len(chosen))]
    np.testing.assert_allclose(Regret().advantage(other), by_hand, rtol=1e-5)


@pytest.mark.sweep
def test_a_draft_by_name():
    model = jm.load("tiny-qwen3")
    newline = model.tokenizer.encode("\n")[-1]
    router = LinearRouter(weights=jnp.zeros(6), bias=-1.0)
    text = "def add(a, b):"
    out = model.generate(text, 8, Arbitrage(draft="tiny-qwen3", delimiters=[newline], router=router))
    assert out.text == model.generate(text, 8).text


def test_what_is_refused():
    config, params, draft = two_models("hybrid")
    for options, message in (
        ({"delimiters": ()}, "delimiters must be a sequence of at least one token id"),
        ({"longest": 0}, "longest must be a whole number >= 1"),
        ({"router": 0.5}, r"router must be one such as Regret\(\), got 0.5"),
        ({"threshold": float("nan")}, "threshold"),
        ({"draft": 7}, "draft must be a model"),
    ):
        with pytest.raises(ValueError, match=message):
            Arbitrage(**{"draft": draft, "delimiters": DELIMITERS, **options})
    with pytest.raises(ValueError, match="names token 99, which lies outside the vocabulary 0 to 28"):
        decode(config, params, Arbitrage(draft=draft, delimiters=(99,)))
    with pytest.raises(ValueError, match=r"features must be \[M, 6\] and advantages \[M\]"):
        fit_router(np.zeros((3, 2)), np.zeros(3))
