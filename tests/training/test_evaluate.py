import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_language_model import ToyModel

from jaxmodels.layers.spec import init_params
from jaxmodels.training.data import Batches
from jaxmodels.training.evaluate import bits_per_byte, make_held_out_loss, score_files
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
