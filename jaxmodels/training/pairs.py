"""Prompts and answers as training data: which tokens a model is trained to predict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer

from jaxmodels.checks import shown
from jaxmodels.training.data import TOKEN_SUFFIXES, end_of_text_id, load_tokens, read_text
from jaxmodels.training.tokenizer import encode_documents

PAIRS_SUFFIX = ".jsonl"
_KEYS = ("prompt", "answer")


@dataclass(frozen=True)
class Stream:
    """Token ids, and which of them are to be predicted; None for all."""

    tokens: Int[np.ndarray, " tokens"]
    predicted: Bool[np.ndarray, " tokens"] | None = None


def load_stream(files: Sequence[Path], vocab_size: int, tokenizer: Tokenizer | None = None) -> Stream:
    """`load_tokens` of files of which some may be pairs of prompts and answers.

    Args:
        files: as for `load_tokens`, and `.jsonl`: on each line an object with the texts "prompt" and
            "answer". A pair is one document; its prompt is not predicted, its answer and the end-of-text
            token are.
        vocab_size, tokenizer: see `load_tokens`.

    Raises:
        ValueError: as `load_tokens`; a line is no such object.
    """
    if not any(path.suffix == PAIRS_SUFFIX for path in files):
        return Stream(load_tokens(files, vocab_size, tokenizer))
    parts = [
        _pairs(path, vocab_size, tokenizer)
        if path.suffix == PAIRS_SUFFIX
        else Stream(load_tokens([path], vocab_size, tokenizer))
        for path in files
    ]
    predicted = [np.ones(len(p.tokens), bool) if p.predicted is None else p.predicted for p in parts]
    return Stream(np.concatenate([p.tokens for p in parts]), np.concatenate(predicted))


def texts_of(path: Path) -> list[str]:
    """The documents of a file of text or pairs, as a tokenizer is trained on them."""
    if path.suffix != PAIRS_SUFFIX:
        return [read_text(path)]
    return ["".join(pair) for pair in _read_pairs(path)]


def holds_text(path: Path) -> bool:
    """Whether a file is text as a whole, which can be scored byte by byte."""
    return path.suffix not in (*TOKEN_SUFFIXES, PAIRS_SUFFIX)


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r}: line {number} is not JSON: {error}") from error
        if not isinstance(pair, dict) or not all(isinstance(pair.get(key), str) for key in _KEYS):
            raise ValueError(
                f"{str(path)!r}: line {number} must be an object with the texts 'prompt' and 'answer', "
                f"got {shown(pair)}"
            )
        pairs.append((pair["prompt"], pair["answer"]))
    if not pairs:
        raise ValueError(f"{str(path)!r} holds no pairs of prompts and answers")
    return pairs


def _pairs(path: Path, vocab_size: int, tokenizer: Tokenizer | None) -> Stream:
    pairs = _read_pairs(path)
    if tokenizer is None:
        raise ValueError(f"load_stream: {str(path)!r} is text, which needs a tokenizer; got tokenizer=None")
    prompts, answers = (encode_documents(tokenizer, texts) for texts in zip(*pairs, strict=True))
    end = end_of_text_id(tokenizer)
    tokens = [[*prompt, *answer, end] for prompt, answer in zip(prompts, answers, strict=True)]
    predicted = [
        [False] * len(prompt) + [True] * (len(answer) + 1)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    stream = np.concatenate([np.asarray(ids, np.int32) for ids in tokens])
    if stream.max() >= vocab_size:
        raise ValueError(f"{str(path)!r} holds token id {stream.max()}; ids must be in 0..{vocab_size - 1}")
    return Stream(stream, np.concatenate([np.asarray(flags) for flags in predicted]))
