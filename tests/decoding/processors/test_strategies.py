"""Strategies under processors: whole generations are those of `transformers`, and of one another."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import transformers
from model_helpers import VOCAB
from strategy_helpers import (
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    nearby,
)

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Draft, EarlyExit, Jacobi, MaskedDiffusion, Sample, Speculative
from jaxmodels.decoding.masked import FinishedBlocks, FixedBlocks, Threshold
from jaxmodels.decoding.processors import (
    BadWords,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNGram,
    RepetitionPenalty,
    Suppress,
    SuppressAtBegin,
)
from jaxmodels.layers.masks import BlockCausal
from jaxmodels.models.filling import MaskFilling

PROMPT = [3, 1, 4, 5, 10, 1, 5]  # behind which the model repeats itself
SETTINGS = {
    "plain": {},
    "repetition": {"repetition_penalty": 1.4},
    "n-grams": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": "said"},
    "suppressed": {"suppress_tokens": "said", "begin_suppress_tokens": "first"},
    "lengths": {"eos_token_id": "first", "min_new_tokens": 5, "forced_eos_token_id": 7},
    "least length": {"eos_token_id": "first", "min_length": 9, "sequence_bias": [[[3], 2.5], [[4, 1], -3.0]]},
    "together": {
        "sequence_bias": [[[5], 1.5]],
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": "said",
        "min_length": 8,
        "suppress_tokens": "first",
    },
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(their model, ours, the tokens that it says by itself)"""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        initializer_range=0.25,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    path = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(path)
    return theirs, jm.load(path)


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("name", SETTINGS)
def test_generations_are_those_of_transformers(pair, name, tmp_path):
    """`transformers` writes the settings and obeys them; we read them and do as recommended."""
    theirs, ours = pair
    prompt, new = PROMPT, 16

    def generated(settings):
        config = transformers.GenerationConfig(**settings, max_new_tokens=new, pad_token_id=0)
        config.save_pretrained(tmp_path)
        out = theirs.generate(torch.tensor([prompt]), generation_config=config)
        return out[0, len(prompt) :].tolist()

    free = generated({})
    said = {"first": [free[0]], "said": [[free[3]], free[5:7], free[8:11]]}
    flat = {"first": [free[0]], "said": [free[1], free[4]]}
    settings = {
        key: (said if key == "bad_words_ids" else flat)[value] if isinstance(value, str) else value
        for key, value in SETTINGS[name].items()
    }
    expected = generated(settings)
    assert (expected != free) == bool(settings)
    defaults = jm.checkpoints.GenerationDefaults.load(tmp_path)
    model = dataclasses.replace(ours, generation=defaults)
    stop = defaults.eos_token_ids
    got = decode(model.config, model.params, model.recommended_strategy(), [prompt], new, stop)
    assert got.tokens[0, : got.lengths[0]].tolist() == expected


def chain(name):
    """Processors of every kind, some of which forbid what the model says by itself."""
    free = decode(*architecture(name), Autoregressive()).tokens
    return (
        LogitBias({3: 0.5, 4: -0.5}),
        RepetitionPenalty(1.2),
        FrequencyPenalty(0.3),
        NoRepeatNGram(2),
        BadWords([free[0, 3:5], [free[1, 2]]]),
        MinNewTokens(4),
        Suppress([free[2, 4]]),
        SuppressAtBegin([free[3, 0]]),
    )


@pytest.fixture(scope="module", params=["attention", "hybrid"])
def processed(request):
    """(name, processors, what sequential greedy decoding gives with them)"""
    processors = chain(request.param)
    plain = decode(*architecture(request.param), Autoregressive(processors=processors, top_logprobs=2))
    assert (plain.tokens != decode(*architecture(request.param), Autoregressive()).tokens).any(1).all()
    return request.param, processors, plain


@pytest.mark.sweep
def test_greedy_strategies_equal_autoregressive_decoding(processed):
    name, processors, plain = processed
    config, params = architecture(name)
    inner = Autoregressive(processors=processors, top_logprobs=2)
    draft = Draft(config, nearby(params, 0.15))
    for strategy in (
        Speculative(draft=draft, gamma=3, processors=processors, top_logprobs=2),
        Jacobi(window=5, processors=processors, top_logprobs=2),
        EarlyExit(threshold=1.5, decode=inner),
    ):
        ours = decode(config, params, strategy)
        assert_same_generation(ours, plain)
        assert ours.counters.get("accepted", np.ones(1)).sum() > 0


@pytest.mark.sweep
def test_rows_do_not_depend_on_their_neighbours(processed):
    name, processors, plain = processed
    alone = decode(*architecture(name), Autoregressive(processors=processors, top_logprobs=2), PROMPTS[2:3])
    assert_same_generation(alone, plain, row=2)


@pytest.mark.sweep
def test_masked_diffusion_takes_those_that_go_by_the_place():
    config, params = architecture("attention")
    filling = MaskFilling(mask_token=VOCAB - 1)
    config = dataclasses.replace(config, mask=BlockCausal(4), filling=filling)
    strategy = MaskedDiffusion(blocks=FixedBlocks(4), unmask=Threshold(0.2), cache=FinishedBlocks())
    free = decode(config, params, strategy).tokens
    banned, first = int(free[0, 2]), int(free[1, 0])
    stop = int(free[2, 1])
    processors = (Suppress([banned]), SuppressAtBegin([first]), MinNewTokens(6), LogitBias({5: 3.0}))
    ours = decode(config, params, dataclasses.replace(strategy, processors=processors), stop=[stop])
    assert not (ours.tokens == banned).any()
    assert ours.tokens[1, 0] != first
    assert not (ours.tokens[:, :6] == stop).any() and ours.lengths.min() > 6
    assert (ours.tokens == 5).sum() > (free == 5).sum()
    for processor in (RepetitionPenalty(1.1), NoRepeatNGram(3), BadWords([[1]]), FrequencyPenalty(0.1)):
        with pytest.raises(ValueError, match=f"processors: {type(processor).__name__}.* goes by the text"):
            MaskedDiffusion(processors=(processor,))


def test_samples_are_drawn_among_what_is_left():
    config, params = architecture("attention")
    allowed = (2, 3, 5, 7, 11, 13)
    rest = Suppress([token for token in range(VOCAB) if token not in allowed])
    strategy = Autoregressive(sampler=Sample(temperature=2.0), processors=(rest, NoRepeatNGram(2)))
    tokens = decode(config, params, strategy, new=6, seed=3).tokens[:, :6]
    assert set(tokens.ravel().tolist()) <= set(allowed)
    for row in tokens.tolist():
        pairs = list(itertools.pairwise(row))
        assert len(set(pairs)) == len(pairs)


def test_tokens_that_the_vocabulary_lacks_are_refused():
    config, params = architecture("attention")
    strategy = EarlyExit(decode=Autoregressive(processors=(BadWords([[1], [2, VOCAB]]),)))
    with pytest.raises(ValueError, match=f"BadWords names token {VOCAB}, .* vocabulary 0 to {VOCAB - 1}"):
        decode(config, params, strategy)


def test_one_processor_or_a_list_will_do_and_anything_else_is_refused():
    one = NoRepeatNGram(3)
    for given in (one, [one], (one,)):
        assert Autoregressive(processors=given) == Autoregressive(processors=(one,))
    for given in (NoRepeatNGram, "no_repeat_ngram", (one, 3), 3):
        with pytest.raises(ValueError, match=r"^processors.* must be (a sequence|one) .* got"):
            Jacobi(processors=given)
