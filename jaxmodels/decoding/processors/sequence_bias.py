"""Sequences of tokens that become more or less likely."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.checks import number, shown
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import checked_ids, padded


class BiasTable(NamedTuple):
    """Sequences and what each adds to its last token's logit.

    Attributes:
        ids: i32[N, L], sequences flush right with -1 before and below them.
        biases: f32[N].
    """

    ids: Any
    biases: Any


@dataclass(frozen=True)
class SequenceBias:
    """Adds to a token's logit where it would complete one of the sequences.

    `sequence_bias` of `transformers`: a sequence is looked for in prompt and answer together, and its bias
    added before its last token.

    Attributes:
        biases: a mapping from sequences of token ids to what is added, or pairs of the two.

    Raises:
        ValueError: no sequences, an empty one, ids of no vocabulary, or a bias that is not finite.
    """

    biases: Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]]
    positional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checked = tuple(
            (checked_ids("biases", ids), number(f"bias of {shown(ids)}", bias))
            for ids, bias in checked_pairs("sequence", self.biases)
        )
        object.__setattr__(self, "biases", checked)

    def named_tokens(self) -> Iterable[int]:
        return (token for ids, _ in as_pairs(self.biases) for token in ids)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        return add_biases(logits, context, to_table(self.biases))


def add_biases(logits: Float[Array, "V"], context: Context, table: BiasTable) -> Float[Array, "V"]:
    """Adds the bias of every sequence of which all but the last token end the text."""
    ids, biases = (jnp.asarray(part) for part in table)
    before, last = ids[:, :-1], ids[:, -1]
    at = context.length - before.shape[1] + jnp.arange(before.shape[1])
    newest = jnp.where(at >= 0, context.tokens[jnp.maximum(at, 0)], -2)  # which no sequence holds
    completes = ((before == newest) | (before < 0)).all(-1)
    at_last = jnp.where(last < 0, logits.shape[-1], last)
    return logits.at[at_last].add(jnp.where(completes, biases, 0.0), mode="drop")


def as_pairs(biases: Mapping[Any, float] | Sequence[tuple[Any, float]]) -> list[tuple[Any, float]]:
    """Pairs from a mapping or from pairs."""
    return list(biases.items() if isinstance(biases, Mapping) else biases)


def checked_pairs(what: str, biases: Any) -> list[tuple[Any, Any]]:
    """Pairs from a mapping or from pairs.

    Raises:
        ValueError: there are none, or something else is given; `what` names what biases belong to.
    """
    is_several = isinstance(biases, Mapping | Sequence | np.ndarray)
    items: list[Any] = as_pairs(cast(Any, biases)) if is_several else []
    if not items or not all(isinstance(item, Sequence | np.ndarray) and len(item) == 2 for item in items):
        raise ValueError(
            f"biases must hold at least one {what}, as a mapping to numbers or as pairs, got {shown(biases)}"
        )
    return items


def to_table(biases: Any) -> BiasTable:
    """The arrays of pairs (sequence, bias); arrays as they are."""
    if isinstance(biases, BiasTable):
        return biases
    ids = padded([sequence for sequence, _ in biases])
    values = np.zeros(len(ids), np.float32)
    values[: len(biases)] = [bias for _, bias in biases]
    return BiasTable(ids, values)


register(SequenceBias, "biases", to_table)
