"""Tokens that become more or less likely."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Array, Float

from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.sequence_bias import (
    BiasTable,
    add_biases,
    as_pairs,
    checked_pairs,
    to_table,
)


@dataclass(frozen=True)
class LogitBias:
    """Adds to the logits of tokens. Source: the OpenAI API's `logit_bias`.

    Attributes:
        biases: a mapping from token ids to what is added, or pairs of the two.

    Raises:
        ValueError: no tokens, ids of no vocabulary, or a bias that is not finite.
    """

    biases: Mapping[int, float] | Sequence[tuple[int, float]]
    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked = tuple(
            (whole("token", token), number(f"bias of token {shown(token)}", bias))
            for token, bias in checked_pairs("token", self.biases)
        )
        object.__setattr__(self, "biases", checked)

    def named_tokens(self) -> Iterable[int]:
        return (token for token, _ in as_pairs(self.biases))

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        return add_biases(logits, context, _to_table(self.biases))


def _to_table(biases: Any) -> BiasTable:
    if isinstance(biases, BiasTable):
        return biases
    return to_table([((token,), bias) for token, bias in biases])


register(LogitBias, "biases", _to_table)
