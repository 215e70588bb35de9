"""D2F's pipeline of blocks against its loop written out, without a cache, around a Llama of transformers."""

import dataclasses

import numpy as np
import pytest
from masked_loops import MASK, models, prompts
from model_helpers import ARCHITECTURES
from seen_cases import softmax
from strategy_helpers import decode

from jaxmodels.decoding import StreamingDiffusion
from jaxmodels.decoding.masked.readings import InBlocks
from jaxmodels.decoding.masked.unmask import Pipelined
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL, BlockCausal
from jaxmodels.models.filling import MaskFilling

INNER, NEW = 4, 16
PIPELINED = Pipelined(inner=INNER, threshold=0.6, begin=0.25, force=0.75)


def published(peer, prompt):
    """(the answer, how many passes it took, how many blocks were in flight at most)"""
    canvas, start = np.concatenate([prompt, np.full(NEW, MASK)]), len(prompt)
    groups = np.concatenate([np.zeros(start, int), 1 + np.arange(NEW) // INNER])
    begun, passes, in_flight = 0, 0, 0
    while (canvas == MASK).any():
        full = [1.0, *(1 - (canvas[start:].reshape(-1, INNER) == MASK).mean(1))]
        begun += begun < NEW // INNER and full[begun] >= PIPELINED.begin
        end = start + begun * INNER
        logits = peer.logits(canvas[:end], groups[:end])  # blocks that have not begun are not there
        confidence, proposed = softmax(logits).max(-1), logits.argmax(-1)
        in_flight = max(in_flight, sum(full[block] < 1 for block in range(1, begun + 1)))
        for block in range(begun):
            places = range(start + block * INNER, start + (block + 1) * INNER)
            unknown = [i for i in places if canvas[i] == MASK]
            above = [i for i in unknown if confidence[i] > PIPELINED.threshold]
            if unknown and not above and full[block] >= PIPELINED.force:
                above = [max(unknown, key=confidence.__getitem__)]
            canvas[above] = proposed[above]
        passes += 1
    return canvas[start:].tolist(), passes, in_flight


def test_blocks_in_flight_are_those_of_the_published_loop():
    peer, config, params = models()
    strategy = StreamingDiffusion(window=NEW, unmask=PIPELINED, reading=InBlocks(INNER))
    rows = [row.tolist() for row in prompts(5, 9, 2)]
    ours = decode(config, params, strategy, rows, new=NEW)
    most = 0
    for b, prompt in enumerate(rows):
        answer, passes, in_flight = published(peer, prompt)
        assert ours.tokens[b, :NEW].tolist() == answer
        assert ours.counters["calls"][b] == passes < NEW
        most = max(most, in_flight)
    assert most > 1
    assert (ours.tokens != MASK).all()


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (CAUSAL, {}, "InBlocks: the model was not made of one that sees both ways .*KnownFirst"),
        (BlockCausal(4), {}, r"InBlocks: .*use MaskedDiffusion\(\) for models of block diffusion"),
        (BIDIRECTIONAL, {"window": 10}, "window=10 is no multiple of the blocks of 4 tokens"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(mask, options, message):
    filling = MaskFilling(mask_token=MASK)
    config = dataclasses.replace(ARCHITECTURES["attention"], mask=mask, filling=filling)
    strategy = StreamingDiffusion(**{"window": 8, "unmask": PIPELINED, "reading": InBlocks(4), **options})
    with pytest.raises(ValueError, match=message):
        strategy.check_model(config, NEW)


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"InBlocks: length must be a whole number >= 1 .*, got 0"):
        InBlocks(0)
    with pytest.raises(ValueError, match=r"reading must be one such as KnownFirst\(\), got <class"):
        StreamingDiffusion(reading=InBlocks)


def test_prompts_that_are_not_fed_at_once_are_refused():
    _, config, params = models()
    strategy = StreamingDiffusion(window=8, unmask=PIPELINED, reading=InBlocks(4), prefill_window=8)
    with pytest.raises(ValueError, match="prefill_window=8 must hold the whole prompt"):
        decode(config, params, strategy, [list(range(12))], new=NEW)
