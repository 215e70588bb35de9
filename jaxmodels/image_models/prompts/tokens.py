"""Prompts as token ids of one length, cut and padded as `transformers` does it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxmodels.checkpoints.files import parse_json_object
from jaxmodels.checkpoints.special_tokens import CONFIG_FILE
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.checkpoints.tokenizer_limits import backend_failures
from jaxmodels.checks import shown


@dataclass(frozen=True)
class Tokens:
    """Prompts, tokenized.

    Attributes:
        ids: [B, L].
        seen: which of them are of the prompt, the special tokens around it included; the others are padding.
    """

    ids: Int[np.ndarray, "B L"]
    seen: Bool[np.ndarray, "B L"]


def padded(tokenizer: Tokenizer, prompts: Sequence[str], length: int, pad_id: int | None = None) -> Tokens:
    """Prompts with the special tokens around them, cut to `length` tokens and padded to it.

    What is too long loses its last tokens, of which a warning tells, and keeps the special ones. Padding
    stands where the tokenizer's configuration says, on the right by default.

    Args:
        tokenizer: the text encoder's.
        prompts: any number.
        length: of all rows.
        pad_id: the padding; None for the tokenizer's own.

    Raises:
        ValueError: the tokenizer has no padding token, or `length` has no room for the special tokens.
    """
    pad = tokenizer.pad_id if pad_id is None else pad_id
    if pad is None:
        raise ValueError("the tokenizer names no padding token (pad_token), which prompts are padded with")
    backend = tokenizer.backend
    room = length - backend.num_special_tokens_to_add(is_pair=False)
    if room < 0:
        raise ValueError(f"length={length} has no room for the tokens around a prompt, {length - room}")
    left = configuration(tokenizer).get("padding_side") == "left"
    ids, seen = np.full((len(prompts), length), pad, np.int32), np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        with backend_failures("the tokenizer cannot encode this prompt"):
            found = backend.encode(prompt, add_special_tokens=False)
            if len(found.ids) > room:
                warnings.warn(
                    f"a prompt has {len(found.ids)} tokens, of which the text encoder reads the first {room}"
                    f": {shown(prompt)}",
                    stacklevel=2,
                )
            found.truncate(room)
            tokens = backend.post_process(found).ids
        place = slice(length - len(tokens), length) if left else slice(len(tokens))
        ids[row, place], seen[row, place] = tokens, True
    return Tokens(ids, seen)


def longest(tokenizer: Tokenizer, default: int) -> int:
    """How many tokens the tokenizer's text encoder takes, by its configuration; `default` where that says
    nothing, or a number that stands for no limit."""
    length = configuration(tokenizer).get("model_max_length")
    return int(length) if isinstance(length, int | float) and 0 < length < 2**31 else default


def configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of ``tokenizer_config.json``; empty where there is none."""
    text = tokenizer.files.get(CONFIG_FILE)
    return {} if text is None else dict(parse_json_object(text, Path(CONFIG_FILE)))
