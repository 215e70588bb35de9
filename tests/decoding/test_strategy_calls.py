"""Strategies through `Model`: counters in the statistics, streaming, and no compilation for other numbers."""

import dataclasses

import numpy as np
import pytest
from model_helpers import VOCAB, decoder, random_params, ssd
from strategy_helpers import PROMPTS, bigram_draft

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, EarlyExit, Jacobi, MaskedDiffusion, Sample, Speculative, driver
from jaxmodels.decoding.generation import plan, stream
from jaxmodels.decoding.masked import FixedBlocks, Threshold
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.filling import MaskFilling

CONFIG = decoder(ssd())
DRAFT = bigram_draft([np.arange(VOCAB)], VOCAB)


@pytest.fixture(scope="module")
def model():
    return jm.Model(config=CONFIG, params=random_params(CONFIG.spec()))


def test_statistics_hold_the_counters(model):
    plain = model.generate(PROMPTS, 10)
    assert plain.stats.counters == plain.stats.per_call == {}
    stats = model.generate(PROMPTS, 10, Jacobi(window=3), stop_tokens=[]).stats
    assert stats.counters["drafted"] == 2 * stats.counters["calls"]
    assert stats.per_call["drafted"] == 2
    assert stats.per_call["accepted"] == stats.counters["accepted"] / stats.counters["calls"]
    # One token per row comes from the prefill, and one from each call beside the accepted ones.
    assert stats.new_tokens == 40
    assert 4 + stats.counters["calls"] + stats.counters["accepted"] >= 40
    assert stats.steps <= stats.counters["calls"]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "strategy",
    [
        Speculative(draft=DRAFT, gamma=2, sampler=Sample(temperature=1.3), top_logprobs=0),
        Jacobi(window=3),
        EarlyExit(threshold=0.1),
        MaskedDiffusion(blocks=FixedBlocks(3), unmask=Threshold(0.1)),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_streaming_is_the_same_generation_in_pieces(model, strategy):
    if isinstance(strategy, MaskedDiffusion):
        filling = MaskFilling(mask_token=0)
        masked = dataclasses.replace(CONFIG, mask=BIDIRECTIONAL, filling=filling)
        model = dataclasses.replace(model, config=masked)
    expected = model.generate(PROMPTS, 9, strategy, stop_tokens=[4], seed=3)
    ready = plan(
        model.config,
        model.params,
        encode_prompts(PROMPTS, None, VOCAB),
        strategy,
        max_new_tokens=9,
        stop_tokens=[4],
        pad_token=4,
        seed=3,
        capacity=None,
    )
    results = list(stream(model.config, model.params, strategy, ready, 2))
    assert results[-1].tokens.tolist() == expected.tokens.tolist()
    assert {name: int(n.sum()) for name, n in results[-1].counters.items()} == expected.stats.counters
    assert len(results) == 1 + -(-expected.stats.steps // 2)
    lengths = np.asarray([result.lengths for result in results])
    assert (np.diff(lengths, axis=0) >= 0).all()


@pytest.mark.sweep
def test_other_numbers_and_other_drafts_compile_nothing(model):
    def run(seed, temperature, scale):
        params = {**DRAFT.params, "embed": {"weight": scale * DRAFT.params["embed"]["weight"]}}
        draft = dataclasses.replace(DRAFT, params=params)
        strategy = Speculative(draft=draft, gamma=2, sampler=Sample(temperature=temperature))
        model.generate(PROMPTS[:1], 5, strategy, seed=seed)

    run(0, 1.0, 1.0)
    size = driver.generate.count()
    run(1, 0.5, 2.0)
    assert driver.generate.count() == size


def test_every_strategy_says_what_room_it_needs():
    assert Autoregressive().lookahead == EarlyExit().lookahead == 0
    assert Jacobi(window=5).lookahead == 3
    assert Speculative(draft=DRAFT, gamma=4).lookahead == 3
    assert MaskedDiffusion(blocks=FixedBlocks(8)).lookahead == 7
