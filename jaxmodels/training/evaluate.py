"""How well a model predicts files: bits per byte, each file from its start.

What a token costs is said by an `Estimator`: the next-token cross-entropy of an autoregressive model, or a
bound on the cost of a model that fills in masks, an average over draws that comes with its standard error.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from jaxmodels.layers.masks import BlockCausal
from jaxmodels.layers.spec import Params
from jaxmodels.models.filling import filling_of
from jaxmodels.training.data import Batches, end_of_text_id, read_text
from jaxmodels.training.loss import nats_to_bits_per_byte
from jaxmodels.training.objectives.block_diffusion import BlockDiffusion
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Estimator, Windows
from jaxmodels.training.objectives.scorer import Scorer
from jaxmodels.training.on_mesh import on_host
from jaxmodels.training.tokenizer import encode_documents
from jaxmodels.training.trainable import Trainable


@dataclass(frozen=True, kw_only=True)
class Score:
    """The cost of a text under a model.

    Attributes:
        nats: of all tokens together.
        num_tokens: tokens predicted.
        num_bytes: UTF-8 bytes of the text.
        standard_error: of `nats`; 0 where nothing is drawn.
    """

    nats: float
    num_tokens: int
    num_bytes: int
    standard_error: float = 0.0

    @property
    def bits_per_byte(self) -> float:
        return nats_to_bits_per_byte(self.nats, self.num_bytes)

    @property
    def bits_per_byte_error(self) -> float:
        """The standard error of `bits_per_byte`."""
        return nats_to_bits_per_byte(self.standard_error, self.num_bytes)

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens


def estimator_of(model: Trainable) -> Estimator:
    """The cross-entropy of an autoregressive model; of one that fills in masks the bound of masked diffusion,
    or of block diffusion where it goes by blocks."""
    if filling_of(model) is None:
        return NextToken()
    mask = getattr(model, "mask", None)
    if isinstance(mask, BlockCausal):
        return BlockDiffusion(block=mask.block).estimator
    return MaskedDiffusion().estimator


def score_files(
    model: Trainable,
    params: Params,
    tokenizer: Tokenizer,
    files: Sequence[Path],
    *,
    window: int = 512,
    overlap: int = 256,
    batch_size: int = 8,
    estimator: Estimator | None = None,
) -> Score:
    """The cost of files, each on its own: the model sees nothing of one file while it predicts another.

    A file is scored as end-of-text (given, not scored), its tokens, and end-of-text again, so that the bits
    are those of a code that also says where the file ends. Files longer than `window` tokens are read in
    overlapping windows: every token is scored once, with all that precedes it or at least `overlap` tokens
    of it as context.

    Args:
        model, params: what to score with.
        tokenizer: must know `<|endoftext|>`.
        files: UTF-8 text.
        window: tokens the model reads at once.
        overlap: tokens of a window that are context only, except in the first window of a file.
        batch_size: windows per forward pass. All passes have one shape: there is one compilation.
        estimator: what tokens cost; `estimator_of` the model by default.

    Raises:
        ValueError: `overlap` leaves nothing to score in a window, or the files are empty.
    """
    if not 1 <= overlap < window:
        raise ValueError(f"score_files: overlap must be in 1..{window - 1} (window - 1), got {overlap}")
    if batch_size < 1:
        raise ValueError(f"score_files: batch_size must be at least 1, got {batch_size}")
    texts = [text for text in map(read_text, files) if text]
    if not texts:
        raise ValueError(f"score_files: the {len(files)} files hold no text")
    boundary = end_of_text_id(tokenizer)
    windows = [
        cut
        for ids in encode_documents(tokenizer, texts)
        for cut in _windows(np.asarray([boundary, *ids, boundary], np.int32), window, overlap)
    ]
    estimator = estimator_of(model) if estimator is None else estimator
    estimator.check(model)
    forward = _window_nats(model, estimator)
    drawn: list[list[float]] = [[] for _ in windows]
    for first in range(0, len(windows), batch_size):
        tokens = np.zeros((batch_size, window), np.int32)
        scored = np.zeros((batch_size, window), bool)
        lengths = np.zeros(batch_size, np.int32)
        for row, (part, start) in enumerate(windows[first : first + batch_size]):
            tokens[row, : len(part)] = part
            scored[row, start : len(part)] = True
            lengths[row] = len(part)
        for draw in range(estimator.draws):
            nats = forward(params, tokens, scored, lengths, np.uint32(first * estimator.draws + draw))
            for found, value in zip(drawn[first:], nats.astype(np.float64), strict=False):
                found.append(float(value))
    each = np.asarray(drawn)
    return Score(
        nats=float(each.mean(1).sum()),
        num_tokens=sum(len(part) - start for part, start in windows),
        num_bytes=sum(len(text.encode()) for text in texts),
        standard_error=_standard_error(each),
    )


def _standard_error(drawn: Float[np.ndarray, "windows draws"]) -> float:
    """Of the sum over windows of the mean over draws. Draws that are spread over a batch make it smaller."""
    draws = drawn.shape[1]
    return math.sqrt(float(drawn.var(1, ddof=1).sum()) / draws) if draws > 1 else 0.0


def bits_per_byte(
    model: Trainable,
    params: Params,
    tokenizer: Tokenizer,
    files: Sequence[Path],
    *,
    window: int = 512,
    overlap: int = 256,
    batch_size: int = 8,
) -> float:
    """`score_files` in bits per UTF-8 byte, all files together."""
    score = score_files(
        model, params, tokenizer, files, window=window, overlap=overlap, batch_size=batch_size
    )
    return score.bits_per_byte


def make_held_out_loss(
    model: Trainable, batches: Batches, num_batches: int, estimator: Estimator | None = None
) -> Callable[[Params], float]:
    """A function of the parameters: mean nats per token over the first `num_batches` batches, with one draw
    of what `estimator` draws, the same at every call."""
    estimator = estimator_of(model) if estimator is None else estimator
    forward = _window_nats(model, estimator)

    def held_out_loss(params: Params) -> float:
        total, count = 0.0, 0
        for i in range(num_batches):
            tokens = batches(i)
            scored = np.ones(tokens.shape, bool)
            scored[:, 0] = False
            lengths = np.full(len(tokens), tokens.shape[1], np.int32)
            total += float(forward(params, tokens, scored, lengths, np.uint32(i)).astype(np.float64).sum())
            count += int(scored.sum())
        return total / count

    return held_out_loss


_WindowNats: TypeAlias = Callable[[Params, np.ndarray, np.ndarray, np.ndarray, np.uint32], np.ndarray]


def _window_nats(model: Trainable, estimator: Estimator) -> _WindowNats:
    """Compiled nats of each window's scored tokens; summed further in f64 by the caller."""
    # a causal model sees nothing of the padding behind the tokens that it predicts
    sees_padding = filling_of(model) is not None

    @jax.jit
    def forward(
        params: Params,
        tokens: Int[Array, "B S"],
        scored: Array,
        lengths: Int[Array, " B"],
        draw: Int[Array, ""],
    ) -> Float[Array, " B"]:
        windows = Windows(tokens=tokens, predicted=scored, valid=lengths if sees_padding else None)
        example = estimator.prepare(windows, jax.random.key(draw))
        return estimator.nats(Scorer(model, params), example).sum(axis=-1)

    return lambda *arguments: on_host(forward(*arguments))


def _windows(
    tokens: Int[np.ndarray, " S"], window: int, overlap: int
) -> Iterator[tuple[Int[np.ndarray, " W"], int]]:
    """Windows of a document, each with the index of its first scored token.

    The last window ends with the document, so its context is longer where the document's length allows.
    """
    done = 1
    while done < len(tokens):
        start = max(0, min(done - overlap, len(tokens) - window))
        end = min(start + window, len(tokens))
        yield tokens[start:end], done - start
        done = end
