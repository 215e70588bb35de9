"""Traces of serving: texts that a model went on with, and the drafts that it accepted and rejected.

``python -m jaxmodels.training.draft_heads.traces tiny-qwen3 tiny-qwen3-eagle3 stdlib:train traces.npz``
serves prompts of a text and writes a file that recipes of `AuroraTraining` can name among their
`train_files`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Int

import jaxmodels.io
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.decoding import Speculative
from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.generated import Generation
from jaxmodels.training.data import load_tokens, resolve_files
from jaxmodels.training.draft_heads.own_text import random_prompts
from jaxmodels.training.tokenizer import load_tokenizer

ARRAYS = {"tokens": 2, "lengths": 1, "prompts": 1, "drafts": 3, "drafted": 2, "accepted": 2}


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Texts with the drafts behind their tokens.

    Attributes:
        tokens: i32[N, S], prompts with their answers, padded on the right.
        lengths: i32[N], of both together.
        prompts: i32[N], of the prompts alone.
        drafts: [N, S], each at the token behind which it was drafted.
    """

    tokens: Int[np.ndarray, "N S"]
    lengths: Int[np.ndarray, "N"]
    prompts: Int[np.ndarray, "N"]
    drafts: DraftRecord


@struct.dataclass
class Windows:
    """What a head is trained on, of one length each.

    Attributes:
        tokens: i32[N, S].
        weights, drafts: see `Seen`.
    """

    tokens: Any
    weights: Any = None
    drafts: DraftRecord | None = None


def traces_of(prompts: Sequence[Sequence[int]], generation: Generation) -> Traces:
    """The traces of a generation by ``Speculative(..., record_drafts=n)``, whose prompts these were.

    Raises ValueError where no drafts were recorded, or there are not as many prompts as answers.
    """
    record = generation.drafts
    if record is None:
        raise ValueError("generation: no drafts were recorded; generate with Speculative(record_drafts=n)")
    if len(prompts) != len(generation.lengths):
        raise ValueError(f"prompts: {len(prompts)} of them, and the generation has {len(generation.lengths)}")
    size = max(map(len, prompts)) + generation.tokens.shape[1]
    starts = np.asarray([len(prompt) for prompt in prompts], np.int32)
    lengths = starts + generation.lengths

    def placed(of_answers: np.ndarray) -> np.ndarray:
        """Values of answers at their places behind the prompts."""
        room = np.zeros((len(prompts), size, *of_answers.shape[2:]), np.int32)
        for row, start, values in zip(room, starts, of_answers, strict=True):
            row[start : start + len(values)] = values
        return room

    tokens = placed(np.asarray(generation.tokens))
    for row, prompt, length in zip(tokens, prompts, lengths, strict=True):
        row[: len(prompt)] = prompt
        row[length:] = 0
    drafts = DraftRecord(
        tokens=placed(np.asarray(record.tokens)),
        drafted=placed(np.asarray(record.drafted)),
        accepted=placed(np.asarray(record.accepted)),
    )
    return Traces(tokens=tokens, lengths=lengths.astype(np.int32), prompts=starts, drafts=drafts)


def save_traces(traces: Traces, path: str | Path) -> None:
    """Writes a file that `load_traces` reads."""
    np.savez_compressed(
        path,
        tokens=traces.tokens,
        lengths=traces.lengths,
        prompts=traces.prompts,
        drafts=np.asarray(traces.drafts.tokens),
        drafted=np.asarray(traces.drafts.drafted),
        accepted=np.asarray(traces.drafts.accepted),
    )


def load_traces(path: str | Path, vocab_size: int) -> Traces:
    """Reads a file of `save_traces`.

    Raises:
        ValueError: it is no such file, or holds tokens that the vocabulary lacks.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} holds no traces, as save_traces writes them: {error}") from error
    for name, axes in ARRAYS.items():
        array = arrays[name]
        if (
            array.ndim != axes
            or not np.issubdtype(array.dtype, np.integer)
            or len(array) != len(arrays["tokens"])
        ):
            raise ValueError(f"{str(path)!r}: {name} must be integers of {axes} axes, as many rows as tokens")
    for name in ("tokens", "drafts"):
        if arrays[name].size and not 0 <= arrays[name].min() <= arrays[name].max() < vocab_size:
            raise ValueError(
                f"{str(path)!r}: {name} go from {arrays[name].min()} to {arrays[name].max()}, and the "
                f"vocabulary from 0 to {vocab_size - 1}"
            )
    drafts = DraftRecord(tokens=arrays["drafts"], drafted=arrays["drafted"], accepted=arrays["accepted"])
    return Traces(
        tokens=arrays["tokens"], lengths=arrays["lengths"], prompts=arrays["prompts"], drafts=drafts
    )


def windows_of(traces: Sequence[Traces], size: int) -> Windows:
    """Windows of `size` tokens, the last of each text padded; the tokens of the answers count."""
    most = max(trace.drafts.tokens.shape[2] for trace in traces)
    parts = [part for trace in traces for part in _windows_of_one(trace, size, most)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def _windows_of_one(traces: Traces, size: int, most: int) -> list[Windows]:
    """The windows of each text, each without a batch axis."""

    def cut(row: np.ndarray, start: int) -> np.ndarray:
        part = row[start : start + size]
        return np.pad(part, ((0, size - len(part)), *((0, 0),) * (part.ndim - 1)))

    windows, drafts = [], traces.drafts
    room = most - drafts.tokens.shape[2]
    places = np.arange(traces.tokens.shape[1])
    for n, length in enumerate(traces.lengths):
        is_answer = (places >= traces.prompts[n]) & (places < length)
        for start in range(0, int(length), size):
            record = DraftRecord(
                tokens=np.pad(cut(drafts.tokens[n], start), ((0, 0), (0, room))),
                drafted=cut(drafts.drafted[n], start),
                accepted=cut(drafts.accepted[n], start),
            )
            windows.append(
                Windows(
                    tokens=cut(traces.tokens[n], start),
                    weights=cut(is_answer.astype(np.float32), start),
                    drafts=record,
                )
            )
    return windows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="traces", description=__doc__)
    parser.add_argument("model", help="a model directory, hub id or bundled name")
    parser.add_argument("draft", help="the draft head that serves, as jaxmodels generate --draft")
    parser.add_argument("files", help="what the prompts are from, as in a recipe's train_files")
    parser.add_argument("output", type=Path, help="the .npz file to write")
    for name, default in (("rows", 128), ("prompt", 64), ("answer", 192), ("drafted", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(arguments)
    model = jaxmodels.io.as_language_model(jaxmodels.io.load(given.model), given.model)
    tokenizer, vocabulary = load_tokenizer(resolve(given.model)), model.config.vocab_size
    text = load_tokens(resolve_files((given.files,)), vocabulary, tokenizer)
    prompts = random_prompts(text, given.rows, given.prompt, given.seed)
    strategy = Speculative(draft=given.draft, record_drafts=given.drafted)
    generation = model.generate(prompts, given.answer, strategy, stop_tokens=[])
    save_traces(traces_of(prompts.tolist(), generation), given.output)


if __name__ == "__main__":
    main()
