"""What stands best in the places of masks: one forward pass of a model that was trained to fill them in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.buckets import bucket
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.prompts import PromptBatch
from jaxmodels.layers.spec import Params
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.scored import Scored

# Masks of a row are counted in these, so that texts with a few masks more or less share programs.
SMALLEST_MASKS = 4


class Decodes(Protocol):
    """The part of a tokenizer that shows tokens."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def special_texts(self) -> dict[int, str]:
        """The special tokens, which text does not show, by id."""


class FillsWholeTexts(Protocol):
    """The part of a model that is asked. Implementations are hashable: static in programs."""

    def __hash__(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def learned_positions(self) -> int | None: ...

    @property
    def filling(self) -> MaskFilling | None: ...

    def forward_scored(
        self,
        params: Params,
        inputs: Int[Array, "B S"],
        *,
        valid: Int[Array, "B"],
        logits_at: Int[Array, "B P"],
    ) -> Scored:
        """What the model sees in whole texts, and its logits at these places."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token for a mask's place.

    Attributes:
        token: its id.
        probability: that the model gives it there.
        text: its text; None without a tokenizer.
    """

    token: int
    probability: float
    text: str | None


@dataclass(frozen=True, kw_only=True)
class FilledMask:
    """One mask.

    Attributes:
        position: its place among the row's tokens, counted from 0.
        candidates: the best tokens for it, the best first.
    """

    position: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True)
class FilledText:
    """A row with its masks filled in.

    Attributes:
        tokens: i32[S], the row with the best token in each mask's place. Each is the best by itself, whatever
            stands in the places of the others.
        text: their text without special tokens; None without a tokenizer.
        masks: all masks of the row, in order.
    """

    tokens: np.ndarray
    text: str | None
    masks: tuple[FilledMask, ...]


def fill_masks(
    config: FillsWholeTexts, params: Params, rows: PromptBatch, decoder: Decodes | None, top_k: int
) -> list[FilledText]:
    """The `top_k` best tokens for every mask token of every row, all from one pass.

    Raises:
        ValueError: a model that fills no masks, or whose unknown tokens are random ones; a row without a mask
            or longer than the model's learned positions; `top_k` below 1 or beyond the vocabulary.
    """
    mask_token, top_k = _mask_token(config), whole("top_k", top_k, low=1, high=config.vocab_size)
    places = _places(rows, mask_token, {} if decoder is None else decoder.special_texts())
    longest = rows.tokens.shape[1]
    if config.learned_positions is not None and longest > config.learned_positions:
        raise ValueError(
            f"a text of {longest} tokens needs as many positions, the model has learned "
            f"{config.learned_positions}; give shorter texts"
        )
    tokens = np.zeros((len(rows.tokens), bucket(longest)), np.int32)
    tokens[:, :longest] = rows.tokens
    at = np.zeros((len(places), bucket(max(map(len, places)), SMALLEST_MASKS)), np.int32)
    for row, found in enumerate(places):
        at[row, : len(found)] = found
    best = _best(
        params, jnp.asarray(tokens), jnp.asarray(rows.lengths), jnp.asarray(at), config=config, top_k=top_k
    )
    probabilities, ids = jax.device_get(best)
    return [
        _filled(row[:length], found, ids[i], probabilities[i], decoder)
        for i, (row, length, found) in enumerate(zip(rows.tokens, rows.lengths, places, strict=True))
    ]


def _mask_token(config: FillsWholeTexts) -> int:
    if config.filling is None:
        raise ValueError(
            "the model was not trained to fill masks (its config.filling is None); generate continues texts"
        )
    if config.filling.mask_token is None:
        raise ValueError(
            "the model has no mask token: it is shown random tokens in the places of unknown ones, and finds "
            "out by itself which they are"
        )
    return config.filling.mask_token


def _places(rows: PromptBatch, mask_token: int, texts: Mapping[int, str]) -> list[np.ndarray]:
    """Where each row has masks."""
    places = []
    for index, (row, length) in enumerate(zip(rows.tokens, rows.lengths, strict=True)):
        places.append(np.flatnonzero(row[:length] == mask_token))
        if not places[-1].size:
            written = f", written {texts[mask_token]!r}" if mask_token in texts else ""
            raise ValueError(
                f"row {index} has no mask to fill: none of its {length} tokens is the mask token "
                f"{mask_token}{written}"
            )
    return places


@bounded_jit(static_argnames=("config", "top_k"))
def _best(
    params: Params,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    at: Int[Array, "B P"],
    *,
    config: FillsWholeTexts,
    top_k: int,
) -> tuple[Float[Array, "B P K"], Int[Array, "B P K"]]:
    """The probabilities of the best tokens for the places `at`, and their ids."""
    assert config.filling is not None
    # Where the logits speak of the next token none speak of the first; loops of the authors take its own.
    spoken = jnp.maximum(at - config.filling.offset, 0)
    scored = config.forward_scored(params, tokens, valid=lengths, logits_at=spoken)
    return lax.top_k(jax.nn.softmax(scored.logits), top_k)


def _filled(
    row: np.ndarray, places: np.ndarray, ids: np.ndarray, probabilities: np.ndarray, decoder: Decodes | None
) -> FilledText:
    tokens = row.copy()
    tokens[places] = ids[: len(places), 0]
    masks = tuple(
        FilledMask(
            position=int(place),
            candidates=tuple(
                Candidate(
                    token=int(token),
                    probability=float(probability),
                    text=None if decoder is None else decoder.decode([int(token)]),
                )
                for token, probability in zip(ids[i], probabilities[i], strict=True)
            ),
        )
        for i, place in enumerate(places)
    )
    return FilledText(
        tokens=tokens, text=None if decoder is None else decoder.decode(tokens.tolist()), masks=masks
    )
