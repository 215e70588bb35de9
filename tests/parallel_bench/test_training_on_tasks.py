"""Training on the tasks: windows, what is predicted of them, and a short run that is gone on with."""

import dataclasses
import functools

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
    windows,
    with_one_end,
)
from jaxmodels.parallel_bench.vocabulary import MASK_ID, build_tokenizer
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.optimizer import WarmupStableDecay
from jaxmodels.training.tokenizer import END_OF_TEXT_ID

ANY = functools.partial(windows, weights={})
SMALL = {"d_model": 16, "mlp_hidden_size": 16, "n_layers": 1}


def test_windows_hold_questions_answers_and_canvases():
    ids = build_tokenizer().get_vocab()
    words = {number: word for word, number in ids.items()}
    for step in (0, 7):
        batch = windows(step, 16, 3, {})
        assert batch.tokens.shape == (16, 24 if step == 0 else 40)
        for tokens, canvas, size in zip(batch.tokens, batch.predicted, batch.valid, strict=True):
            (places,) = np.nonzero(np.asarray(canvas))
            assert words[int(tokens[places[0] - 1])] == "=" and places[-1] + 1 == size
            assert len(places) >= SHORTEST_CANVAS and np.array_equal(places, np.arange(places[0], size))
            assert not np.asarray(tokens)[size:].any()
    assert jax.tree.all(jax.tree.map(np.array_equal, windows(5, 4, 0, {}), windows(5, 4, 0, {})))
    assert not np.array_equal(windows(5, 4, 0, {}).tokens, windows(6, 4, 0, {}).tokens)


def test_stages_have_their_own_tasks():
    schedule = WarmupStableDecay(peak=1e-3, warmup_steps=0, decay_steps=1, total_steps=2)
    only = [{task: float(task == name) for task in TASKS} for name in ("copy", "shuffle")]
    course = dataclasses.replace(
        COURSES["tiny-llama-lists"],
        stages=tuple(Stage(schedule, functools.partial(windows, weights=one)) for one in only),
        batch=3,
    )
    ids = build_tokenizer().get_vocab()
    first = [set(np.asarray(course.windows(step).tokens[:, 0]).tolist()) for step in range(4)]
    assert first == [{ids["copy"]}, {ids["copy"]}, {ids["shuffle"]}, {ids["shuffle"]}]


def test_the_end_is_predicted_once_behind_the_answer():
    """A prompt of two tokens, an answer of two, its end twice, and a place behind the canvas."""
    end = END_OF_TEXT_ID
    asked = with_one_end(
        Windows(
            tokens=jnp.array([[5, 6, 3, 4, end, end, end]]),
            predicted=jnp.array([[False, False, True, True, True, True, False]]),
            valid=jnp.array([6]),
        )
    )
    assert asked.predicted.tolist() == [[False, False, True, True, True, False, False]]


def test_masks_stay_on_the_canvas():
    """Every place of it is masked in one of two views, and nothing else is."""
    batch = windows(0, 8, 0, {})
    drawn = COURSES["tiny-llada-lists"].objective.prepare(batch, jax.random.key(1))
    assert np.array_equal(drawn.masked | drawn.rest, batch.predicted)
    assert not (drawn.masked & drawn.rest).any() and drawn.masked.any() and drawn.rest.any()


@pytest.mark.sweep
def test_a_run_is_gone_on_with_and_its_model_saved(tmp_path, capsys):
    stages = tuple(
        Stage(WarmupStableDecay(peak=peak, warmup_steps=5, decay_steps=20, total_steps=steps), ANY)
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
    assert bundled.tokenizer.backend.to_str() == build_tokenizer(COURSES[name].words).to_str()


def test_transformers_reads_the_bundled_twin():
    path = resolve("tiny-llama-lists")
    ids = transformers.AutoTokenizer.from_pretrained(path)("reverse [ Ada Bob Cid ] =")["input_ids"]
    mine = jm.load(path, dtype="float32")
    assert ids == mine.tokenizer.encode("reverse [ Ada Bob Cid ] =")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
    np.testing.assert_allclose(mine(np.array([ids])), expected, atol=1e-4)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["tiny-llama-lists-jacobi", "tiny-llama-scratchpad"])
def test_a_course_goes_on_from_a_bundled_model(name, tmp_path):
    """One step at a learning rate of nothing leaves the model that the run begins with; words that its
    tokenizer lacks begin as the mean of its own."""
    course = COURSES[name]
    schedule = WarmupStableDecay(peak=1e-9, warmup_steps=0, decay_steps=1, total_steps=1)
    made = dataclasses.replace(course, stages=(Stage(schedule, ANY),), batch=2).run(tmp_path)
    start = dict(walk(jm.load(course.start_from or course.adapt_from, "float32").params))
    for path, leaf in walk(made.params):
        known = start[path]
        mean = jnp.repeat(known.mean(0, keepdims=True), leaf.shape[0] - known.shape[0], 0)
        np.testing.assert_array_equal(leaf, jnp.concatenate([known, mean]).astype(leaf.dtype))
