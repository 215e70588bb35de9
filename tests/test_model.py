"""`Model`: calling it, text in and out, streaming, recommended settings."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from model_helpers import ARCHITECTURES, VOCAB, quick_jit, random_params
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Greedy, Sample
from jaxmodels.decoding.processors import RepetitionPenalty

WORDS = [f"w{i}" for i in range(VOCAB)]


@pytest.fixture(scope="module")
def model():
    backend = tokenizers.Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    config = ARCHITECTURES["hybrid"]
    return jm.Model(
        config=config,
        params=random_params(config.spec()),
        tokenizer=jm.checkpoints.Tokenizer.from_backend(backend),
    )


def test_calling_gives_logits(model):
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    logits = model(tokens)
    assert logits.shape == (2, 3, VOCAB)
    expected = quick_jit(model.config.forward)(model.params, tokens)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 2], r"int\[B, S\], got int64\[2\]"),
        ([[1, VOCAB]], f"token id {VOCAB}"),
        ([[1.0, 2.0]], r"int\[B, S\], got float64\[1, 2\]"),
    ],
)
def test_bad_tokens_are_refused(model, tokens, message):
    with pytest.raises(ValueError, match=message):
        model(np.array(tokens))


def test_text_and_ids_generate_alike(model):
    by_text = model.generate(["w3 w1 w4", "w5"], 6)
    by_ids = model.generate([[3, 1, 4], [5]], 6)
    assert by_text.tokens.tolist() == by_ids.tokens.tolist()
    assert by_text.text == [" ".join(WORDS[t] for t in row) for row in by_text.tokens]


def joined(pieces):
    return "".join(piece.text for piece in pieces)


@pytest.mark.sweep
def test_streamed_pieces_join_to_the_text(model):
    expected = model.generate("w3 w1 w4", 12).text[0]
    pieces = list(model.stream("w3 w1 w4", 12, chunk=4))
    assert joined(pieces) == expected
    assert sum(bool(piece.text) for piece in pieces) > 1
    counts = [piece.tokens for piece in pieces]
    assert counts == sorted(counts)
    assert counts[-1] == model.generate("w3 w1 w4", 12).lengths[0]
    assert max(np.diff(counts)) <= 4


def test_streams_are_refused_before_they_begin(model):
    with pytest.raises(ValueError, match="one prompt, got 2"):
        model.stream(["w1", "w2"])
    with pytest.raises(ValueError, match=r"chunk must be a whole number >= 1 .*, got 0"):
        model.stream("w1", chunk=0)
    with pytest.raises(ValueError, match="no tokenizer"):
        dataclasses.replace(model, tokenizer=None).stream([1, 2])


def test_end_of_text_tokens_stop_by_default(model):
    free = model.generate("w3 w1 w4", 8)
    end = int(free.tokens[0, 2])
    ends = dataclasses.replace(model, generation=jm.checkpoints.GenerationDefaults(eos_token_ids=(end,)))
    stopped = ends.generate("w3 w1 w4", 8)
    assert stopped.lengths[0] == np.flatnonzero(free.tokens[0] == end)[0] + 1
    endless = ends.generate("w3 w1 w4", 8, stop_tokens=[])
    assert endless.lengths[0] == 8
    for out in (stopped, endless):  # the end leaves no text, though no file calls it special
        row = out.tokens[0, : out.lengths[0]]
        assert end in row
        assert out.text == [" ".join(WORDS[token] for token in row if token != end)]
    assert joined(ends.stream("w3 w1 w4", 8)) == stopped.text[0]


def test_the_recommended_strategy_follows_the_checkpoint(model):
    assert model.recommended_strategy() == Autoregressive(sampler=Greedy())
    defaults = jm.checkpoints.GenerationDefaults(
        do_sample=True, temperature=0.6, top_k=20, top_p=0.9, repetition_penalty=1.1
    )
    sampling = dataclasses.replace(model, generation=defaults)
    assert sampling.recommended_strategy() == Autoregressive(
        sampler=Sample(temperature=0.6, top_k=20, top_p=0.9), processors=(RepetitionPenalty(1.1),)
    )
    greedy = dataclasses.replace(model, generation=dataclasses.replace(defaults, do_sample=False))
    assert greedy.recommended_strategy().sampler == Greedy()


def test_sampling_at_temperature_zero_is_greedy(model):
    defaults = jm.checkpoints.GenerationDefaults(do_sample=True, temperature=0.0, top_k=20)
    assert dataclasses.replace(model, generation=defaults).recommended_strategy() == Autoregressive()


@pytest.mark.sweep
def test_token_ids_that_the_vocabulary_lacks_are_the_checkpoints_fault_and_not_the_callers(tmp_path):
    shutil.copytree(Path(jm.__file__).parent / "bundled" / "tiny-mamba2", tmp_path / "model")
    plain = jm.load(tmp_path / "model")
    size, first = plain.config.vocab_size, int(plain.generate("def f(", 1).tokens[0, 0])
    settings = {"eos_token_id": [first, size, -1], "pad_token_id": -1}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match=f"model: .* 0 to {size - 1} are ignored: pad_token_id -1, eos"):
        loaded = jm.load(tmp_path / "model")
    assert loaded.generation.eos_token_ids == (first,)
    assert loaded.generate("def f(", 3).lengths.tolist() == [1]
    assert joined(loaded.stream("def f(", 3)) == loaded.generate("def f(", 3).text[0]
    for token in (size, -1):
        with pytest.raises(ValueError, match=f"stop_tokens: {token} lies outside the vocabulary"):
            loaded.generate("def f(", 3, stop_tokens=[token])


@pytest.fixture(scope="module")
def trained():
    """(model, prompt, the text that follows)"""
    model, prompt = jm.load("tiny-qwen3"), "class Stack:\n    def push(self, item):\n        "
    return model, prompt, model.generate(prompt, 24, stop_tokens=[]).text[0]


@pytest.mark.sweep
def test_stop_strings_end_rows_across_tokens(trained):
    model, prompt, free = trained
    tokens = model.generate(prompt, 24, stop_tokens=[]).tokens[0].tolist()
    pieces = [model.tokenizer.decode([token]) for token in tokens]
    starts = np.cumsum([0, *map(len, pieces)])
    assert "".join(pieces) == free
    # From inside one token to inside the next but one.
    first = next(i for i in range(2, 12) if len(pieces[i]) > 1 and len(pieces[i + 2]) > 1)
    string = free[starts[first] + 1 : starts[first + 2] + 1]
    end = next(i for i in range(24) if string in free[: starts[i + 1]]) + 1
    for strategy in (Autoregressive(), jm.decoding.Jacobi(window=4)):
        out = model.generate(prompt, 24, strategy, stop_tokens=[], stop_strings=["no such text", string])
        assert out.tokens[0, : out.lengths[0]].tolist() == tokens[:end]
        assert out.text[0] == free[: free.index(string)]
    pieces = list(model.stream(prompt, 24, stop_tokens=[], stop_strings=string, chunk=2))
    assert joined(pieces) == free[: free.index(string)]
    settings = dataclasses.replace(model.generation, stop_strings=(string,))
    own = dataclasses.replace(model, generation=settings)
    assert own.generate(prompt, 24, stop_tokens=[]).lengths[0] == end
    assert own.generate(prompt, 24, stop_tokens=[], stop_strings=()).lengths[0] == 24


def test_stop_strings_end_where_those_of_transformers_do(trained):
    model, prompt, free = trained
    path = Path(jm.__file__).parent / "bundled" / "tiny-qwen3"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    ids = tokenizer(prompt, return_tensors="pt")
    for string in (free[5:9], free[11:12], free[2:14]):
        config = transformers.GenerationConfig(max_new_tokens=24, stop_strings=[string], do_sample=False)
        expected = theirs.generate(**ids, generation_config=config, tokenizer=tokenizer)[0]
        out = model.generate(prompt, 24, stop_tokens=[], stop_strings=[string])
        assert out.tokens[0, : out.lengths[0]].tolist() == expected[ids["input_ids"].shape[1] :].tolist()


def test_stop_strings_are_checked(model):
    with pytest.raises(ValueError, match="stop_strings must be texts, none of them empty, got"):
        model.generate("w1", 2, stop_strings=["a", ""])
    with pytest.raises(ValueError, match="stop_strings need a tokenizer"):
        dataclasses.replace(model, tokenizer=None).generate([1], 2, stop_strings="a")
