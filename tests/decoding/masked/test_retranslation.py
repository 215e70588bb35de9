"""An answer in one pass over prompt, previous answer and unknown places, by hand."""

import dataclasses

import numpy as np
import pytest
from model_helpers import VOCAB, attention, decoder, forward, random_params
from scipy.special import softmax
from strategy_helpers import PROMPTS, decode

from jaxmodels.decoding import Retranslation
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.filling import MaskFilling

NEW, MASK = 6, VOCAB - 1
PREVIOUS = [[4, 9, 2], [], [7, 7, 7, 7, 7, 7, 7, 7], [1]]


def model(offset=0):
    filling = MaskFilling(mask_token=MASK, offset=offset)
    config = dataclasses.replace(decoder(attention(), attention()), mask=BIDIRECTIONAL, filling=filling)
    return config, random_params(config.spec())


def by_hand(config, params, prompt, previous, keep):
    """(tokens, how many of the previous ones stay)"""
    old = previous[:NEW]
    canvas = prompt + old + [MASK] * (NEW - len(old))
    logits = np.array(forward(config, params, np.asarray([canvas], np.int32))[0])
    logits[:, MASK] = -np.inf
    places = len(prompt) + np.arange(NEW) - config.filling.offset
    probabilities = softmax(logits[places], axis=-1)
    stays = [probabilities[i, token] >= keep for i, token in enumerate(old)]
    tokens = [old[i] if i < len(old) and stays[i] else int(probabilities[i].argmax()) for i in range(NEW)]
    return tokens, sum(stays)


@pytest.mark.sweep
@pytest.mark.parametrize(("offset", "keep"), [(0, 0.03), (1, 0.03), (0, 0.0), (0, 1.1)])
def test_the_pass_by_hand(offset, keep):
    config, params = model(offset)
    out = decode(config, params, Retranslation(previous=PREVIOUS, keep=keep), new=NEW)
    kept = 0
    for row, (prompt, previous) in enumerate(zip(PROMPTS, PREVIOUS, strict=True)):
        tokens, stays = by_hand(config, params, prompt, previous, keep)
        assert out.tokens[row, :NEW].tolist() == tokens
        assert out.counters["kept"][row] == stays
        assert out.counters["kept"][row] + out.counters["changed"][row] == min(len(previous), NEW)
        kept += stays
    assert out.counters["calls"].tolist() == [1] * 4
    assert out.steps == 0
    assert kept in {0.0: [10], 0.03: range(1, 10), 1.1: [0]}[keep]


def test_an_answer_ends_behind_its_stop_token_and_needs_none_before():
    config, params = model()
    plain = decode(config, params, Retranslation(top_logprobs=0), new=NEW)
    assert (plain.lengths == NEW).all()
    stop = [int(plain.tokens[0, 2])]
    out = decode(config, params, Retranslation(top_logprobs=0), new=NEW, stop=stop)
    first = [[*row[:NEW].tolist(), *stop].index(stop[0]) + 1 for row in plain.tokens]
    assert out.lengths.tolist() == [min(length, NEW) for length in first]
    assert (out.log_probs.chosen[:, 0] < 0).all()


def test_what_is_refused():
    config, params = model()
    with pytest.raises(ValueError, match="previous has 2 rows and the prompts are 4"):
        decode(config, params, Retranslation(previous=[[1], [2]]), new=NEW)
    with pytest.raises(ValueError, match="was not: its filling is None"):
        decode(decoder(attention()), params, Retranslation(), new=NEW)
    with pytest.raises(ValueError, match="previous must be token ids, a sequence for each row, got 'abc'"):
        Retranslation(previous="abc")
    with pytest.raises(ValueError, match="goes by the text before a token"):
        Retranslation(processors=(RepetitionPenalty(1.2),))
