"""Prompts that a model is measured on: pieces of text that it was not trained on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.training.stdlib_corpus import stdlib_split


def prompts_from(tokenizer: Tokenizer, files: Sequence[Path], count: int, size: int) -> np.ndarray:
    """The first `size` tokens of as many files, i32[count, size]; shorter files are passed by.

    Raises:
        ValueError: too few of the files are that long.
    """
    rows: list[list[int]] = []
    for file in files:
        tokens = tokenizer.encode(file.read_text("utf-8"))
        if len(tokens) >= size:
            rows.append(tokens[:size])
        if len(rows) == count:
            return np.asarray(rows, np.int32)
    raise ValueError(
        f"{len(rows)} of the {len(files)} files have {size} tokens or more; {count} prompts were asked for"
    )


def held_out_prompts(tokenizer: Tokenizer, count: int, size: int) -> np.ndarray:
    """Prompts from the sources of the standard library that the bundled models have not seen.

    Raises:
        ValueError: see `prompts_from`.
    """
    return prompts_from(tokenizer, stdlib_split().held_out, count, size)
