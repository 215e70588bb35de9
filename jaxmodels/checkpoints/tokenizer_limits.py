"""Bounds on what tokenizer files may ask for, and words for what goes wrong inside `tokenizers`.

A few bytes of a tokenizer file can ask for terabytes: a chain of replacements that each double a text, a
template that repeats it. By how much a file may multiply its input is computed before anything is built.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Any

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checks import shown

MOST_IDS = 2**24
# Published tokenizers stay below 200: a table of compatible characters (33), times replacements of spaces.
MOST_GROWTH = 1000


@contextmanager
def backend_failures(sentence: str) -> Iterator[None]:
    """Turns what `tokenizers` raises into `CheckpointError`: bare exceptions, and panics of its Rust code.

    Args:
        sentence: says what does not work; the library's words follow it.
    """
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # of pyo3, which exports no such name
        if not isinstance(error, Exception) and not is_panic:
            raise
        raise CheckpointError(f"{sentence}: {error}") from error


def check_growth(tokenizer: Mapping[str, Any], place: str) -> None:
    """Refuses a `tokenizer.json` that may multiply its input by more than `MOST_GROWTH`.

    Args:
        tokenizer: the file's content.
        place: the file, for the message.

    Raises:
        CheckpointError: it names the part of the file.
    """
    for part in ("normalizer", "post_processor", "decoder"):
        try:
            growth = _growth(tokenizer.get(part))
        except (AttributeError, TypeError, KeyError, ValueError):
            continue  # not what the library writes: it says so itself
        if growth > MOST_GROWTH:
            raise CheckpointError(
                f"{place}: {part} may make an input more than {MOST_GROWTH} times as long, which no real "
                "tokenizer needs; fetch the file again, or from a source that you trust"
            )


def check_ids(tokenizer: Mapping[str, Any], place: str) -> None:
    """Refuses a `tokenizer.json` with a token id so large that tables by id would not fit into memory.

    Args:
        tokenizer: the file's content.
        place: the file, for the message.

    Raises:
        CheckpointError: it names the token.
    """
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(vocabulary, Mapping):
        return  # a list, whose ids are places, or not what the library writes: it says so itself
    for token, number in vocabulary.items():
        if isinstance(number, int | float) and number >= MOST_IDS:
            raise CheckpointError(
                f"{place}: the token {shown(token)} has the id {shown(number)}; ids must be below {MOST_IDS}"
            )


def _growth(state: Any) -> int:
    """An upper bound of a part's output length per input length; counting stops beyond `MOST_GROWTH`."""
    growth, waiting = 1, [state]
    while waiting and growth <= MOST_GROWTH:
        step = waiting.pop()
        if step is None:
            continue
        if step.get("type") == "Sequence":
            waiting += step.get("normalizers") or step.get("processors") or step.get("decoders") or []
        else:
            growth *= max(1, _step_growth(step))
    return growth


def _step_growth(step: Mapping[str, Any]) -> int:
    growth = 1  # most steps change letters, and no text by more than a small factor however often
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": content} if pattern:
            growth = ceil(len(content) / len(pattern))
        case {"type": "Replace", "content": content}:  # may match nothing between any two characters
            growth = 1 + len(content)
        case {"type": "Prepend", "prepend": content}:
            growth = 1 + len(content)
        case {"type": "Precompiled", "precompiled_charsmap": str(table)}:
            growth = _longest_replacement(table)
        case {"type": "ByteLevel"} if "trim_offsets" not in step:  # the normalizer: a character for each byte
            growth = 4
        case {"type": "BPEDecoder", "suffix": ""} | {"type": "CTC", "word_delimiter_token": ""}:
            growth = 3  # a space between any two characters
        case {"type": "TemplateProcessing", "single": pieces, "special_tokens": tokens}:
            named = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
            growth = len(pieces) - len(named) + sum(len(tokens[name]["ids"]) for name in named)
    return growth


def _longest_replacement(table: str) -> int:
    """Bytes of the longest text in a SentencePiece table: a trie with its size before it, then the texts."""
    try:
        data = base64.b64decode(table)
    except binascii.Error:
        return 1
    size = int.from_bytes(data[:4], "little")
    return max(len(text) for text in data[4 + size :].split(b"\0"))
