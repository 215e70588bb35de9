"""Training on the tasks: windows, the two losses, and a short run that is gone on with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import jaxmodels as jm
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.layers.spec import walk
from jaxmodels.parallel_bench.tasks import TASKS
from jaxmodels.parallel_bench.train import (
    COURSES,
    LLADA,
    SHORTEST_CANVAS,
    Stage,
    Windows,
    continuing_loss,
    filling_loss,
    windows,
)
from jaxmodels.parallel_bench.vocabulary import MASK_ID, build_tokenizer
from jaxmodels.training.optimizer import WarmupStableDecay
from jaxmodels.training.tokenizer import END_OF_TEXT_ID

SMALL = {"d_model": 16, "mlp_hidden_size": 16, "n_layers": 1}


class Uniform:
    """A model to which all tokens are alike, but for the place that it is sure of."""

    def __init__(self, sure=None):
        self.sure, self.inputs = sure, None

    def forward(self, params, tokens, valid=None):
        self.inputs = np.asarray(tokens)
        logits = jnp.zeros((*tokens.shape, 8))
        return logits if self.sure is None else logits.at[:, self.sure[0], self.sure[1]].set(1e9)


@pytest.fixture
def window():
    """A prompt of two tokens, an answer of two, its end twice, and a place behind the canvas."""
    return Windows(
        tokens=jnp.array([[5, 6, 3, 4, END_OF_TEXT_ID, END_OF_TEXT_ID, END_OF_TEXT_ID]]),
        is_answer=jnp.array([[False, False, True, True, True, True, False]]),
        size=jnp.array([6]),
    )


def test_windows_hold_questions_answers_and_canvases():
    ids = build_tokenizer().get_vocab()
    words = {number: word for word, number in ids.items()}
    for step in (0, 7):
        batch = windows(step, 16, 3, {})
        assert batch.tokens.shape == (16, 24 if step == 0 else 40)
        for tokens, is_answer, size in zip(batch.tokens, batch.is_answer, batch.size, strict=True):
            (places,) = np.nonzero(np.asarray(is_answer))
            assert words[int(tokens[places[0] - 1])] == "=" and places[-1] + 1 == size
            assert len(places) >= SHORTEST_CANVAS and np.array_equal(places, np.arange(places[0], size))
            assert not np.asarray(tokens)[size:].any()
    assert jax.tree.all(jax.tree.map(np.array_equal, windows(5, 4, 0, {}), windows(5, 4, 0, {})))
    assert not np.array_equal(windows(5, 4, 0, {}).tokens, windows(6, 4, 0, {}).tokens)


def test_stages_have_their_own_tasks():
    schedule = WarmupStableDecay(peak=1e-3, warmup_steps=0, decay_steps=1, total_steps=2)
    only = [{task: float(task == name) for task in TASKS} for name in ("copy", "shuffle")]
    course = dataclasses.replace(
        COURSES["tiny-llama-lists"], stages=tuple(Stage(schedule, weights) for weights in only), batch=3
    )
    ids = build_tokenizer().get_vocab()
    first = [set(np.asarray(course.windows(step).tokens[:, 0]).tolist()) for step in range(4)]
    assert first == [{ids["copy"]}, {ids["copy"]}, {ids["shuffle"]}, {ids["shuffle"]}]


def test_the_end_is_predicted_once_behind_the_answer(window):
    assert continuing_loss(Uniform(), {}, window, None) == pytest.approx(np.log(8))
    # Sure of the answer's second word alone: two of the three predictions are left.
    assert continuing_loss(Uniform(sure=(2, 4)), {}, window, None) == pytest.approx(2 / 3 * np.log(8))
    # The second end token is no prediction.
    assert continuing_loss(Uniform(sure=(4, END_OF_TEXT_ID)), {}, window, None) == pytest.approx(np.log(8))


@pytest.mark.parametrize("seed", range(4))
def test_every_place_of_the_canvas_is_masked_in_one_of_two_views(window, seed):
    model = Uniform()
    assert filling_loss(model, {}, window, jax.random.key(seed)) == pytest.approx(np.log(8))
    first, second = model.inputs == MASK_ID
    assert np.array_equal(first | second, window.is_answer[0]) and not (first & second).any()
    assert first.any()
    assert np.array_equal(np.where(first, window.tokens[0], model.inputs[0]), window.tokens[0])


def test_a_run_is_gone_on_with_and_its_model_saved(tmp_path, capsys):
    stages = tuple(
        Stage(WarmupStableDecay(peak=peak, warmup_steps=5, decay_steps=20, total_steps=steps), {})
        for peak, steps in ((6e-3, 80), (3e-3, 30))
    )
    course = dataclasses.replace(COURSES["tiny-llada-lists"], model=LLADA | SMALL, stages=stages, batch=4)
    model = course.run(tmp_path)
    told = capsys.readouterr().out.split()
    losses = [float(told[i - 3]) for i, word in enumerate(told) if word == "place"]
    assert losses[1] < losses[0] < np.log(64)
    again = course.run(tmp_path)
    assert capsys.readouterr().out == ""
    assert all(
        np.array_equal(a, b) for (_, a), (_, b) in zip(walk(model.params), walk(again.params), strict=True)
    )
    jm.save(model, tmp_path / "model")
    loaded = jm.load(tmp_path / "model")
    assert loaded.decoder.filling.mask_token == MASK_ID
    assert loaded.tokenizer.encode("copy [ Ada ] =") == model.tokenizer.encode("copy [ Ada ] =")


@pytest.mark.parametrize("name", COURSES)
def test_the_bundled_models_are_those_of_their_courses(name):
    bundled = jm.load(name)
    assert bundled.config == jm.config_from_hf(COURSES[name].model)
    assert bundled.tokenizer.backend.to_str() == build_tokenizer().to_str()


def test_transformers_reads_the_bundled_twin():
    path = resolve("tiny-llama-lists")
    ids = transformers.AutoTokenizer.from_pretrained(path)("reverse [ Ada Bob Cid ] =")["input_ids"]
    mine = jm.load(path, dtype="float32")
    assert ids == mine.tokenizer.encode("reverse [ Ada Bob Cid ] =")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
    np.testing.assert_allclose(mine(np.array([ids])), expected, atol=1e-4)
