"""Tokenizers of checkpoints without `tokenizer.json`, made from the files that they have instead.

`transformers` knows how each class of tokenizers reads SentencePiece models, tiktoken's and Mistral's files,
and writes them as `tokenizer.json`; the extra ``jaxmodels[convert]`` brings it with the libraries that it
needs.
"""

import json
import tempfile
import textwrap
import warnings
from pathlib import Path

from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.tokenizer_files import TOKENIZER_FILE, read_tokenizer_files
from jaxmodels.checkpoints.vocabulary_files import build_from_vocabulary

_MOST_WORDS = 300  # characters of what transformers says
SOURCES = (
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "tiktoken.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)


def converted_files(directory: Path) -> dict[str, str] | None:
    """The tokenizer's files, `tokenizer.json` among them, as texts by path.

    Returns:
        None when there is nothing to convert, or it cannot be converted here, of which a warning tells.

    Raises:
        CheckpointError: a file is corrupt.
    """
    if source_of(directory) is None:
        return None
    texts = read_tokenizer_files(directory)
    built = build_from_vocabulary(directory, texts, _family(directory))
    if built is not None:
        return {**texts, **built}
    try:
        return {**texts, **_by_transformers(directory)}
    except _NotConvertedError as error:
        warnings.warn(f"{_told(directory, error)}; the model is loaded without a tokenizer", stacklevel=3)
        return None


def source_of(directory: Path) -> str | None:
    """Name of the file that a tokenizer could be made of; None without one."""
    return next((name for name in SOURCES if (directory / name).is_file()), None)


def why_not_converted(directory: Path) -> str:
    """Why `converted_files` gives None for a directory with a file to convert, and what to do."""
    try:
        _by_transformers(directory)
    except _NotConvertedError as error:
        return _told(directory, error)
    return f"the tokenizer of {directory} can be converted now; load the model again"


class _NotConvertedError(Exception):
    """Says what `transformers` said, or that it is missing."""


def _told(directory: Path, error: _NotConvertedError) -> str:
    place = repr(str(directory))
    return (
        f"{directory} has no {TOKENIZER_FILE}, and its {source_of(directory)} cannot be converted here: "
        f"{error}. pip install 'jaxmodels[convert]' brings what most tokenizers need; elsewhere it is "
        f"converted once by transformers.AutoTokenizer.from_pretrained({place}).save_pretrained({place})"
    )


def _family(directory: Path) -> str | None:
    file = directory / "config.json"
    family = read_json_object(file).get("model_type") if file.is_file() else None
    return family if isinstance(family, str) else None


def _by_transformers(directory: Path) -> dict[str, str]:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise _NotConvertedError("transformers is not installed") from error
    with tempfile.TemporaryDirectory() as made:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
            tokenizer.save_pretrained(made)
        except Exception as error:  # of any kind, from any of its libraries
            words = textwrap.shorten(str(error), _MOST_WORDS, placeholder=" ...") or type(error).__name__
            raise _NotConvertedError(f"transformers says: {words.rstrip('.')}") from error
        files = read_tokenizer_files(Path(made))
    if TOKENIZER_FILE not in files:
        raise _NotConvertedError(f"transformers has no {TOKENIZER_FILE} for its {type(tokenizer).__name__}")
    content = json.loads(files[TOKENIZER_FILE])
    if len(content["model"].get("vocab", ())) <= len(content["added_tokens"]):
        # Some classes that do not find their file begin with an empty vocabulary and say nothing.
        raise _NotConvertedError(f"{type(tokenizer).__name__} of transformers finds no vocabulary in it")
    return files
