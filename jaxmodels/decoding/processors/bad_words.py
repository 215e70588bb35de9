"""Sequences of tokens that are never said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.checks import shown
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.sequence_bias import BiasTable, add_biases, to_table
from jaxmodels.decoding.processors.token_ids import checked_ids


@dataclass(frozen=True)
class BadWords:
    """Rules out tokens that would complete one of the sequences. `bad_words_ids` of `transformers`.

    Attributes:
        sequences: of token ids; looked for in prompt and answer together.

    Raises:
        ValueError: no sequences, an empty one, or ids of no vocabulary.
    """

    sequences: Sequence[Sequence[int]]
    positional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.sequences, Sequence | np.ndarray) or not len(self.sequences):
            raise ValueError(
                f"sequences must hold at least one sequence of token ids, got {shown(self.sequences)}"
            )
        checked = tuple(checked_ids(f"sequences[{i}]", ids) for i, ids in enumerate(self.sequences))
        object.__setattr__(self, "sequences", checked)

    def named_tokens(self) -> Iterable[int]:
        return (token for ids in self.sequences for token in ids)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        return add_biases(logits, context, _to_table(self.sequences))


def _to_table(sequences: Any) -> BiasTable:
    if isinstance(sequences, BiasTable):
        return sequences
    return to_table([(ids, -jnp.inf) for ids in sequences])


register(BadWords, "sequences", _to_table)
