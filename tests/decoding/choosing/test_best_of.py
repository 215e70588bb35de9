"""The answer of several samples is that of as many generations of their own, chosen on the host."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB, decoder, quick_jit, random_params, ssd
from strategy_helpers import PROMPTS, architecture, decode, ready

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, BestOf, FirstFinish, Greedy, MostProbable, Sample, driver
from jaxmodels.decoding.choosing.choice import Candidates
from jaxmodels.decoding.choosing.samples import sample_keys
from jaxmodels.decoding.processors import PerRow, Suppress
from jaxmodels.layers.spec import abstract_params

SAMPLES, NEW = 3, 12
SAMPLER = Sample(temperature=1.5)
STOP = (5, 7, 11)
_generate = quick_jit(
    lambda *arrays, **static: driver.generate(*arrays, **static)[0], static_argnames=("config", "max_new")
)


@functools.cache
def independent(name):
    """What `Autoregressive` draws with the keys of the samples, each prompt fed for each of them."""
    config, params = architecture(name)
    strategy = Autoregressive(sampler=SAMPLER, top_logprobs=0)
    keys = sample_keys(ready(config, params, strategy, new=NEW, seed=4).request.keys, SAMPLES)
    prompts = [prompt for prompt in PROMPTS for _ in range(SAMPLES)]
    made = ready(config, params, strategy, prompts, NEW, STOP)
    request = dataclasses.replace(made.request, keys=keys)
    out = _generate(params, request, made.cache, strategy, config=config, max_new=made.new_slots)
    return jax.device_get(out)


def choose(out, score):
    """Of each prompt's samples the number of the row with the greatest score, the first of equals."""
    by_prompt = np.asarray(score).reshape(-1, SAMPLES)
    return np.arange(len(PROMPTS)) * SAMPLES + by_prompt.argmax(1)


def assert_rows(ours, all_, rows):
    np.testing.assert_array_equal(ours.tokens, all_.tokens[rows])
    np.testing.assert_array_equal(ours.lengths, all_.lengths[rows])
    np.testing.assert_allclose(ours.log_probs.chosen, all_.log_probs.chosen[rows], atol=2e-5)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("name", "penalty"), [("ssd", 0.0), ("ssd", 1.0), pytest.param("hybrid", 1.0, marks=pytest.mark.sweep)]
)
def test_the_most_probable_of_independent_samples(name, penalty):
    out = independent(name)
    total = np.where(np.arange(out.tokens.shape[1]) < out.lengths[:, None], out.log_probs.chosen, 0).sum(1)
    strategy = BestOf(
        samples=SAMPLES, by=MostProbable(length_penalty=penalty), sampler=SAMPLER, top_logprobs=0
    )
    ours = decode(*architecture(name), strategy, new=NEW, stop=STOP, seed=4)
    assert_rows(ours, out, choose(out, total / out.lengths**penalty))
    np.testing.assert_array_equal(ours.counters["sampled"], out.lengths.reshape(-1, SAMPLES).sum(1))
    np.testing.assert_array_equal(ours.counters["calls"], out.lengths.reshape(-1, SAMPLES).max(1) - 1)
    assert (ours.counters["saved"] == 0).all()


@pytest.mark.parametrize("name", ["ssd", pytest.param("ring", marks=pytest.mark.sweep)])
def test_the_first_that_ends_is_the_shortest_and_stops_the_others(name):
    out = independent(name)
    strategy = BestOf(samples=SAMPLES, by=FirstFinish(), sampler=SAMPLER, top_logprobs=0)
    ours = decode(*architecture(name), strategy, new=NEW, stop=STOP, seed=4)
    assert_rows(ours, out, choose(out, -out.lengths))
    shortest = out.lengths.reshape(-1, SAMPLES).min(1)
    assert len(set(out.lengths)) > 2
    np.testing.assert_array_equal(ours.counters["calls"], shortest - 1)
    np.testing.assert_array_equal(ours.counters["sampled"], shortest * SAMPLES)
    unfinished = (out.lengths.reshape(-1, SAMPLES) > shortest[:, None]).sum(1)
    np.testing.assert_array_equal(ours.counters["saved"], unfinished * (NEW - shortest))
    assert ours.steps == shortest.max() - 1


def test_samples_without_a_token_to_choose_do_not_win():
    candidates = Candidates(
        lengths=jnp.asarray([[0, 4], [2, 4]]),
        done=jnp.asarray([[True, False], [True, True]]),
        stuck=jnp.asarray([[True, False], [True, False]]),
        log_prob=jnp.asarray([[0.0, -9.0], [-1.0, -9.0]]),
    )
    assert FirstFinish().decided(candidates).tolist() == [False, True]
    for choice in (FirstFinish(), MostProbable()):
        assert int(choice.best(candidates)[1]) == 1


def test_prompts_are_fed_once():
    """The FLOPs of the prefill, beside those of one sample, grow by nothing but the samples' tokens."""
    config = decoder(ssd())
    params = abstract_params(config.spec())

    def flops(samples):
        strategy = BestOf(samples=samples, sampler=SAMPLER)
        request = ready(config, random_params(config.spec()), strategy, [[1] * 200] * 2).request
        cache = jax.eval_shape(lambda: config.init_cache(2, 512))
        started = driver.start.lower(params, request, cache, strategy, config=config, max_new=16)
        return started.compile().cost_analysis()["flops"]

    once, four = flops(1), flops(4)
    prompt = 2 * 200 * config.flops_per_token(1)
    assert once > prompt
    assert four - once < 0.1 * prompt


def test_rows_have_processors_of_their_own():
    config, params = architecture("attention")
    only = [Suppress([token for token in range(VOCAB) if token != kept]) for kept in (3, 4)]
    strategy = BestOf(samples=2, sampler=SAMPLER, processors=PerRow(only))
    out = decode(config, params, strategy, PROMPTS[:2], new=3)
    assert out.tokens[:, :3].tolist() == [[3] * 3, [4] * 3]


@pytest.mark.sweep
def test_by_the_public_verb():
    model = jm.load("tiny-mamba2")
    strategy = BestOf(samples=3, by=FirstFinish(), sampler=Sample(top_k=20), top_logprobs=0)
    out = model.generate(["def add(a, b):", "import os"], 8, strategy)
    assert (out.tokens.shape, out.log_probs.chosen.shape) == ((2, 8), (2, 8))
    assert list(out.stats.counters) == ["calls", "sampled", "saved"]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be a whole number >= 1"),
        ({"sampler": Greedy()}, r"samples=4 with sampler=Greedy\(\) would all be the same"),
        ({"by": "first"}, r"by must be one such as MostProbable\(\) or FirstFinish\(\), got 'first'"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BestOf(**options)
    with pytest.raises(ValueError, match="length_penalty"):
        MostProbable(length_penalty=-1.0)
