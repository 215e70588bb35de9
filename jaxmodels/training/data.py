"""Text and token files to batches: read, join documents with an end-of-text token, cut windows, shuffle.

Everything is a function of the files, the seed and the step: a run that resumes at step i reads batch i and
needs no iterator state.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer

from jaxmodels.training.stdlib_corpus import stdlib_split
from jaxmodels.training.tokenizer import END_OF_TEXT, encode_documents

STDLIB_TRAIN = "stdlib:train"
STDLIB_HELD_OUT = "stdlib:held-out"
TOKEN_SUFFIXES = (".npy", ".bin")


def resolve_files(patterns: Sequence[str]) -> tuple[Path, ...]:
    """The files that glob patterns, directories or the names `stdlib:train`, `stdlib:held-out` stand for.

    Args:
        patterns: each a glob pattern (`**` crosses directories), a file, a directory (every file below it),
            or one of the two halves of `stdlib_split`. Within a pattern files are sorted; a file matched
            twice is kept once.

    Raises:
        FileNotFoundError: a pattern matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        if pattern == STDLIB_TRAIN:
            matched = list(stdlib_split().train)
        elif pattern == STDLIB_HELD_OUT:
            matched = list(stdlib_split().held_out)
        elif Path(pattern).is_dir():
            matched = sorted(p for p in Path(pattern).rglob("*") if p.is_file())
        else:
            matched = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
        if not matched:
            raise FileNotFoundError(f"resolve_files: no file matches {pattern!r}")
        files.update(dict.fromkeys(matched))
    return tuple(files)


def read_text(path: Path) -> str:
    """A file's text with its line ends as they are.

    Raises:
        ValueError: the file is not UTF-8; the message names it and the first bad byte.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not UTF-8 text (byte 0x{content[error.start]:02x} at offset {error.start}); "
            "re-encode it or leave it out"
        ) from error


def load_tokens(
    files: Sequence[Path], vocab_size: int, tokenizer: Tokenizer | None = None
) -> Int[np.ndarray, " tokens"]:
    """One stream of token ids: each text file tokenized and closed with end-of-text, token files as they are.

    Args:
        files: `.npy` (a one-dimensional integer array) and `.bin` (raw little-endian uint16) hold token ids
            and are memory-mapped; every other file is UTF-8 text and is one document.
        vocab_size: every id must be below it.
        tokenizer: needed for text; must know `<|endoftext|>`.

    Raises:
        ValueError: a file is neither; an id is out of range; there is text and no tokenizer; the result is
            empty.
    """
    texts = [path for path in files if path.suffix not in TOKEN_SUFFIXES]
    if texts and tokenizer is None:
        raise ValueError(
            f"load_tokens: {str(texts[0])!r} is text, which needs a tokenizer; got tokenizer=None"
        )
    dtype = np.uint16 if vocab_size <= 2**16 else np.int32
    parts = []
    for path in files:
        part = _read_token_file(path) if path.suffix in TOKEN_SUFFIXES else _tokenize(path, tokenizer)
        if part.size and not 0 <= int(part.min()) <= int(part.max()) < vocab_size:
            bad = int(part.max()) if int(part.max()) >= vocab_size else int(part.min())
            raise ValueError(f"{str(path)!r} holds token id {bad}; ids must be in 0..{vocab_size - 1}")
        parts.append(part)
    if not sum(part.size for part in parts):
        raise ValueError(f"load_tokens: {len(files)} files hold no tokens")
    if len(parts) == 1 and parts[0].dtype == dtype:
        return parts[0]
    return np.concatenate([part.astype(dtype) for part in parts])


def cut_windows(
    patterns: Sequence[str], size: int, vocab_size: int, tokenizer: Tokenizer | None = None
) -> Int[np.ndarray, "N S"]:
    """The text of files, see `resolve_files`, in windows of `size` tokens that do not overlap.

    Raises:
        ValueError: as `load_tokens`; the text is shorter than a window.
        FileNotFoundError: a pattern matches no file.
    """
    tokens = load_tokens(resolve_files(patterns), vocab_size, tokenizer)
    count = len(tokens) // size
    if not count:
        raise ValueError(
            f"{', '.join(patterns)}: {len(tokens)} tokens are fewer than one window of sequence_length={size}"
        )
    return np.asarray(tokens[: count * size], np.int32).reshape(count, size)


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of `<|endoftext|>`.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT!r} token to separate documents with; add it")
    return token


def _tokenize(path: Path, tokenizer: Tokenizer | None) -> Int[np.ndarray, " tokens"]:
    assert tokenizer is not None
    (ids,) = encode_documents(tokenizer, [read_text(path)])
    return np.asarray([*ids, end_of_text_id(tokenizer)], np.int32)


def _read_token_file(path: Path) -> Int[np.ndarray, " tokens"]:
    if path.suffix == ".bin":
        if path.stat().st_size % 2:
            raise ValueError(
                f"{str(path)!r} has {path.stat().st_size} bytes; a .bin file holds 2-byte token ids"
            )
        return np.memmap(path, "<u2", "r") if path.stat().st_size else np.zeros(0, np.uint16)
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{str(path)!r} is not a readable .npy file: {error}") from error
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"{str(path)!r} must hold a one-dimensional integer array, "
            f"got shape {tokens.shape} of {tokens.dtype}"
        )
    return tokens


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Shuffled windows of a token stream, addressed by step.

    An epoch cuts the stream into windows of `sequence_length` tokens from a random phase (so a token is not
    always at the same offset in its window) and visits them in a random order. Both follow from `seed` and
    the epoch's number alone, through raw PCG64 output, whose stream NumPy guarantees not to change.

    Attributes:
        tokens: the stream.
        batch_size: windows per step; a step may straddle two epochs.
        sequence_length: tokens per window.
        seed: of the phases and orders.
        predicted: which tokens of the stream are to be predicted; None for all.

    Raises:
        ValueError: the stream is shorter than one window.
    """

    tokens: Int[np.ndarray, " tokens"]
    batch_size: int
    sequence_length: int
    seed: int = 0
    predicted: Bool[np.ndarray, " tokens"] | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"Batches: {name} must be at least 1, got {getattr(self, name)}")
        if len(self.tokens) < self.sequence_length:
            raise ValueError(
                f"Batches: the corpus has {len(self.tokens)} tokens, fewer than one window of "
                f"sequence_length={self.sequence_length}; add text or shorten the window"
            )

    @property
    def windows_per_epoch(self) -> int:
        """The same for every phase: the tail that a late phase would lose is never counted."""
        return max(1, (len(self.tokens) - self.sequence_length + 1) // self.sequence_length)

    def __call__(self, step: int) -> Int[np.ndarray, "B S"]:
        """The batch of one step, i32."""
        return self._cut(self.tokens, step).astype(np.int32)

    def mask(self, step: int) -> Bool[np.ndarray, "B S"] | None:
        """Which tokens of that batch are to be predicted; None for all."""
        return None if self.predicted is None else self._cut(self.predicted, step)

    def _cut(self, stream: np.ndarray, step: int) -> np.ndarray:
        first = step * self.batch_size
        starts = [self._start(index) for index in range(first, first + self.batch_size)]
        return np.stack([stream[s : s + self.sequence_length] for s in starts])

    def _start(self, index: int) -> int:
        epoch, place = divmod(index, self.windows_per_epoch)
        if epoch not in self._orders:
            self._orders.clear()  # steps go forward: at most one epoch's order is worth keeping
            self._orders[epoch] = self._epoch_starts(epoch)
        return int(self._orders[epoch][place])

    def _epoch_starts(self, epoch: int) -> Int[np.ndarray, " windows"]:
        windows = self.windows_per_epoch
        random = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(windows + 1)
        phases = min(self.sequence_length, len(self.tokens) - windows * self.sequence_length + 1)
        phase = int(random[0] % np.uint64(phases))
        return phase + self.sequence_length * np.argsort(random[1:], kind="stable")
