"""Prompts from files."""

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding_bench.prompts import held_out_prompts, prompts_from
from jaxmodels.training.stdlib_corpus import stdlib_split


def test_prompts_are_the_beginnings_of_long_files(tmp_path):
    tokenizer = jm.load("tiny-qwen3").tokenizer
    texts = ["x = 1\n", "import os\n" * 20, "class Stack:\n    pass\n" * 9]
    files = []
    for i, text in enumerate(texts):
        files.append(tmp_path / f"{i}.py")
        files[-1].write_text(text, "utf-8")
    found = prompts_from(tokenizer, files, 2, 12)
    assert found.tolist() == [tokenizer.encode(text)[:12] for text in texts[1:]]
    with pytest.raises(ValueError, match="2 of the 3 files have 12 tokens or more; 3 prompts"):
        prompts_from(tokenizer, files, 3, 12)


def test_held_out_prompts_were_not_trained_on():
    tokenizer = jm.load("tiny-qwen3").tokenizer
    found = held_out_prompts(tokenizer, 3, 16)
    held_out = {tuple(tokenizer.encode(file.read_text("utf-8"))[:16]) for file in stdlib_split().held_out}
    assert found.dtype == np.int32 and {tuple(row) for row in found.tolist()} <= held_out
