import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from toy_language_model import ToyModel

from jaxmodels.training.data import Batches, load_tokens
from jaxmodels.training.loop import train
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.optimizer import WarmupCosine
from jaxmodels.training.pairs import holds_text, load_stream, texts_of
from jaxmodels.training.recipe import Recipe
from jaxmodels.training.tokenizer import save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def add(a, b):\n    return a + b\n" * 3], 270)


def write(path, pairs):
    path.write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in pairs) + "\n\n")
    return path


def test_answers_are_predicted_and_prompts_given(tokenizer, tmp_path):
    pairs = write(tmp_path / "a.jsonl", [("def add", "(a, b):"), ("x", "")])
    text = tmp_path / "b.py"
    text.write_text("return a")
    stream = load_stream([pairs, text], 270, tokenizer)
    prompt, answer, x, rest = (tokenizer.encode(t).ids for t in ("def add", "(a, b):", "x", "return a"))
    assert stream.tokens.tolist() == [*prompt, *answer, 0, *x, 0, *rest, 0]
    counts = [(len(prompt), False), (len(answer) + 1, True), (len(x), False), (1 + len(rest) + 1, True)]
    assert stream.predicted.tolist() == [flag for count, flag in counts for _ in range(count)]
    assert texts_of(pairs) == ["def add(a, b):", "x"] and texts_of(text) == ["return a"]
    assert holds_text(text) and not holds_text(pairs)
    batches = Batches(
        tokens=stream.tokens, batch_size=2, sequence_length=4, seed=1, predicted=stream.predicted
    )
    flags = dict(zip(range(len(stream.tokens)), stream.predicted, strict=True))
    for step in range(3):  # windows and flags are cut alike
        for tokens, mask in zip(batches(step), batches.mask(step), strict=True):
            starts = [s for s in flags if stream.tokens[s : s + 4].tolist() == tokens.tolist()]
            assert any(stream.predicted[s : s + 4].tolist() == mask.tolist() for s in starts)


def test_without_pairs_all_is_predicted(tokenizer, tmp_path):
    (tmp_path / "b.py").write_text("return a")
    stream = load_stream([tmp_path / "b.py"], 270, tokenizer)
    assert stream.predicted is None
    np.testing.assert_array_equal(stream.tokens, load_tokens([tmp_path / "b.py"], 270, tokenizer))


def test_a_run_trains_answers_alone(tokenizer, tmp_path):
    # the prompts are all different, the answers all alike: without the prompts there is little to learn
    prompts = ["".join(np.random.default_rng(i).permutation(list("abdefn:()")[:6])) for i in range(40)]
    write(tmp_path / "train.jsonl", [(prompt, "return a + b") for prompt in prompts])
    (tmp_path / "held_out.py").write_text("return a + b" * 10)
    recipe = Recipe(
        model={"vocab_size": 270},
        train_files=(str(tmp_path / "train.jsonl"),),
        held_out_files=(str(tmp_path / "held_out.py"),),
        schedule=WarmupCosine(peak=0.1, warmup_steps=2, total_steps=40),
        sequence_length=12,
        batch_size=4,
    )
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    recipe = dataclasses.replace(recipe, tokenizer=str(tmp_path / "tokenizer"))
    quiet = Console(file=io.StringIO())
    train(recipe, tmp_path / "run", model=ToyModel(vocab_size=270), console=quiet)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"] < 0.7
    assert set(json.loads((tmp_path / "run" / "data.json").read_text())) == {"train", "held_out", "predicted"}
    pairs = dataclasses.replace(recipe, held_out_files=recipe.train_files, train_files=recipe.held_out_files)
    with pytest.raises(ValueError, match=r"held_out_files: .*jsonl' holds tokens or pairs"):
        train(pairs, tmp_path / "other", model=ToyModel(vocab_size=270), console=quiet)


def test_bad_lines_are_named(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    for text, message in (
        ('{"prompt": "a", "answer": "b"}\n{"prompt": 1}', r"line 2 must be an object with the texts.*1"),
        ("{", "line 1 is not JSON"),
        ("\n", "holds no pairs"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_stream([path], 270, tokenizer)
    write(path, [("a", "b")])
    with pytest.raises(ValueError, match="needs a tokenizer"):
        load_stream([path], 270)
    with pytest.raises(ValueError, match=r"ids must be in 0\.\.1"):
        load_stream([path], 2, tokenizer)
