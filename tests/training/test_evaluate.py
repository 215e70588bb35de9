import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_language_model import ToyModel

from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.layers.spec import init_params
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.data import Batches
from jaxmodels.training.evaluate import bits_per_byte, estimator_of, make_held_out_loss, score_files
from jaxmodels.training.objectives.block_diffusion import BlockDiffusion
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.tokenizer import train_tokenizer

MODEL = ToyModel(vocab_size=270)
PARAMS = init_params(MODEL.spec(), jax.random.key(0))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def add(a, b):\n    return a + b\n" * 3], 270)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["", "a", "é" * 30, "".join(rng.choice(list("ab(): \n"), 100)), "x" * 15, "y" * 14]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text, newline="")
    return sorted(tmp_path.iterdir())


def reference_nats(ids):
    """One forward over the whole document, which the toy model's context of two tokens allows."""
    logits = MODEL.forward(PARAMS, jnp.asarray([ids]))[0]
    logp = jax.nn.log_softmax(logits)
    return -float(sum(logp[i, ids[i + 1]] for i in range(len(ids) - 1)))


@pytest.mark.parametrize(("window", "overlap"), [(16, 8), (16, 1), (8, 7), (200, 100), (3, 2)])
def test_every_token_is_scored_once_with_context(tokenizer, files, window, overlap):
    documents = [[0, *tokenizer.encode(f.read_bytes().decode()).ids, 0] for f in files if f.stat().st_size]
    score = score_files(MODEL, PARAMS, tokenizer, files, window=window, overlap=overlap, batch_size=3)
    assert score.num_tokens == sum(len(ids) - 1 for ids in documents)
    assert score.num_bytes == sum(f.stat().st_size for f in files)
    if overlap >= 2:  # all the context that the toy model has
        expected = sum(map(reference_nats, documents))
        np.testing.assert_allclose(score.nats, expected, rtol=1e-5)
        assert score.bits_per_byte == pytest.approx(expected / math.log(2) / score.num_bytes, rel=1e-5)
        assert score.nats_per_token == pytest.approx(expected / score.num_tokens, rel=1e-5)
    assert score.bits_per_byte == bits_per_byte(
        MODEL, PARAMS, tokenizer, files, window=window, overlap=overlap, batch_size=3
    )


def test_files_do_not_see_each_other(tokenizer, files):
    together = score_files(MODEL, PARAMS, tokenizer, files, window=16, overlap=8)
    alone = [
        score_files(MODEL, PARAMS, tokenizer, [f], window=16, overlap=8).nats
        for f in files
        if f.stat().st_size
    ]
    np.testing.assert_allclose(together.nats, sum(alone), rtol=1e-6)


def test_held_out_loss_is_the_mean_over_predicted_tokens():
    batches = Batches(tokens=np.random.default_rng(0).integers(0, 270, 99), batch_size=2, sequence_length=8)
    expected = np.mean([reference_nats(row.tolist()) / 7 for i in range(3) for row in batches(i)])
    assert make_held_out_loss(MODEL, batches, 3)(PARAMS) == pytest.approx(expected, rel=1e-5)


def test_bad_input_is_named(tokenizer, files):
    with pytest.raises(ValueError, match=r"overlap must be in 1\.\.15.*got 16"):
        score_files(MODEL, PARAMS, tokenizer, files, window=16, overlap=16)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        score_files(MODEL, PARAMS, tokenizer, files, batch_size=0)
    with pytest.raises(ValueError, match="1 files hold no text"):
        score_files(MODEL, PARAMS, tokenizer, files[:1])


def masked_model_of_nothing():
    """One that fills in masks, to which all 280 tokens are alike."""
    config = {
        "model_type": "llama", "vocab_size": 280, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": True,
    }  # fmt: skip
    decoder = dataclasses.replace(
        config_from_hf(config), mask=BIDIRECTIONAL, filling=MaskFilling(mask_token=270)
    )
    params = init_params(decoder.spec(), jax.random.key(0))
    return decoder, {**params, "embed": {"weight": 0 * params["embed"]["weight"]}}


@pytest.mark.sweep
def test_masked_models_are_scored_by_a_bound_with_its_error(tokenizer, files):
    decoder, params = masked_model_of_nothing()
    causal = score_files(MODEL, PARAMS, tokenizer, files, window=16, overlap=8)
    assert causal.standard_error == 0
    estimator = MaskedDiffusion(draws=40).estimator
    score = score_files(decoder, params, tokenizer, files, window=16, overlap=8, estimator=estimator)
    assert (score.num_tokens, score.num_bytes) == (causal.num_tokens, causal.num_bytes)
    expected = score.num_tokens * math.log(280)
    assert 0 < score.standard_error < 0.05 * expected
    assert abs(score.nats - expected) < 4 * score.standard_error
    assert score.bits_per_byte_error == pytest.approx(
        score.standard_error / score.nats * score.bits_per_byte, rel=1e-6
    )
    twice = [score_files(decoder, params, tokenizer, files, window=16, overlap=8) for _ in range(2)]
    assert twice[0] == twice[1]  # draws are of fixed seeds


def test_what_tokens_cost_follows_from_the_model():
    decoder, _ = masked_model_of_nothing()
    assert estimator_of(MODEL) == NextToken()
    assert estimator_of(decoder) == MaskedDiffusion().estimator
    blocks = dataclasses.replace(decoder, mask=BlockCausal(4))
    assert estimator_of(blocks) == estimator_of(ScannedDecoder(blocks)) == BlockDiffusion(block=4).estimator


def test_the_held_out_loss_of_masked_models_is_drawn_once():
    decoder, params = masked_model_of_nothing()
    batches = Batches(tokens=np.arange(99) % 270, batch_size=2, sequence_length=8)
    loss = make_held_out_loss(decoder, batches, 4)
    assert loss(params) == loss(params) == pytest.approx(math.log(280), rel=0.3)
