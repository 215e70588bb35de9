"""Contests of policies of depth, on a model small enough to be asked everything."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import forward
from scipy.special import log_softmax
from strategy_helpers import architecture

import jaxmodels as jm
from jaxmodels.checkpoints import Tokenizer
from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.decoding.depth import MaxProbability, Plan, UntilConfident
from jaxmodels.depth_bench.contestants import KINDS, PLAIN, Contestant, contestants, exits_of
from jaxmodels.depth_bench.measure import sit
from jaxmodels.depth_bench.report import as_json, plot, table
from jaxmodels.training.tokenizer import train_tokenizer

TEXT = "the cat sat on the mat, that is that; "
SHAPE = {
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.from_backend(train_tokenizer([TEXT] * 3, SHAPE["vocab_size"]))
    return dataclasses.replace(jm.init(jm.config_from_hf(SHAPE), seed=3), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def texts(model):
    ids = model.tokenizer.encode(TEXT * 9)
    return np.asarray([ids[i : i + 14] for i in (0, 5)], np.int32)


def leaving(threshold):
    return AdaptiveDepth(depth=UntilConfident(confidence=MaxProbability(), threshold=jnp.float32(threshold)))


@pytest.mark.sweep
def test_policies_are_compared_with_all_blocks(model, texts):
    field = (
        contestants(model.decoder, kinds=())[0],
        Contestant(kind="exit", value=2.0, strategy=leaving(2.0)),
        Contestant(kind="exit", value=0.0, strategy=leaving(0.0)),
        Contestant(kind="skip", value=None, strategy=AdaptiveDepth(depth=Plan((1, 0, 1)))),
    )
    plain, never, at_once, skipping = sit(model, field, texts, prompt=4, rounds=1)
    assert (plain.speed, plain.same_text, plain.agreement, plain.accuracy_lost) == (1, 1, 1, 0)
    assert (never.same_text, never.agreement, never.held_out_agreement) == (1, 1, 1)
    assert [it.blocks for it in (plain, never, at_once, skipping)] == [3, 3, 1, 2]
    assert at_once.held_out_blocks == 1

    full = np.asarray(forward(model.decoder, model.params, jnp.asarray(texts)))[:, 4:-1]
    nats = -np.take_along_axis(log_softmax(full, axis=-1), texts[:, 5:, None], axis=-1).sum()
    size = sum(len(model.tokenizer.decode(row.tolist())) for row in texts[:, 5:])
    assert plain.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-4)


def test_usual_policies_fit_any_model_of_several_blocks():
    for kind in ("hybrid", "attention"):
        decoder, _ = architecture(kind)
        found = contestants(decoder)
        assert found[0].kind == PLAIN
        assert len({one.name for one in found}) == len(found)
        assert {one.kind for one in found[1:]} >= set(KINDS) - {"reused updates", "layer skipping"}


def test_exits_stand_between_the_thirds(model):
    def of(blocks):
        return exits_of(dataclasses.replace(model.decoder, blocks=model.decoder.blocks[:1] * blocks))

    assert [of(blocks) for blocks in (2, 3, 5, 12)] == [(0,), (0, 1), (0, 2), (3, 7)]


def test_trained_exits_are_tried_at_several_thresholds(model):
    trained = UntilConfident(confidence=MaxProbability(), threshold=0.3, asked=(1,))
    found = contestants(model.decoder, {"mine": trained, "plan": Plan((1, 1, 0))}, kinds=())
    assert [one.name for one in found] == [PLAIN, "mine", "mine, 0.5", "mine, 0.7", "mine, 0.9", "plan"]
    assert all(one.strategy.depth.asked == (1,) for one in found[1:-1])


@pytest.mark.sweep
def test_trials_are_shown(model, texts, tmp_path):
    pytest.importorskip("matplotlib")
    field = contestants(model.decoder, kinds=("parallel filling", "layer skipping"))
    trials = list(sit(model, field, texts, prompt=4, rounds=1))
    assert table(trials).row_count == len(field) == len(as_json(trials))
    filled = [trial for trial in trials if trial.kind == "parallel filling"]
    assert filled and all(trial.bits_per_byte is None and trial.agreement is not None for trial in filled)
    plot(trials, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 1}, "one block"),
        ({"kinds": ("maximal",)}, "'maximal' is no kind of policy; there are max probability"),
    ],
)
def test_what_cannot_be_tried(model, change, message):
    decoder = dataclasses.replace(model.decoder, blocks=model.decoder.blocks[: change.pop("blocks", 3)])
    with pytest.raises(ValueError, match=message):
        contestants(decoder, **change)


def test_models_that_fill_in_masks_are_not_measured():
    with pytest.raises(ValueError, match="fills in masks"):
        contestants(jm.load("tiny-llada").decoder)


def test_texts_that_end_with_their_prompt(model, texts):
    with pytest.raises(ValueError, match="prompt must lie from 1 to 12 for these texts, got 13"):
        next(sit(model, contestants(model.decoder, kinds=()), texts, prompt=13))
