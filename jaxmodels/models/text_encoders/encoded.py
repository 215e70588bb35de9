"""What an encoder makes of texts, and what is asked of one."""

from typing import Any, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Bool, Int

from jaxmodels.layers.masks import All, Ancestors, Mask
from jaxmodels.layers.spec import Params, ParamTree


@struct.dataclass
class Encoded:
    """Texts, encoded.

    Attributes:
        states: [B, S, D] each, the residual stream in front of the first block and behind every block: one
            more than there are blocks, the last but one that behind the last block but one.
        last: [B, S, D], behind the final norm.
        pooled: [B, P], one vector for each text; None of encoders without.
    """

    states: tuple[jax.Array, ...]
    last: jax.Array
    pooled: Any = None


@runtime_checkable
class EncodesText(Protocol):
    """An encoder of texts. Implementations are hashable: static in programs."""

    def __hash__(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def blocks(self) -> tuple[Any, ...]:
        """In order; behind each there is one of `Encoded.states`."""

    @property
    def d_model(self) -> int:
        """Width of `Encoded.last` and of all states."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""

    def encode(
        self, params: Params, tokens: Int[Array, "B S"], seen: Bool[Array, "B S"] | None = None
    ) -> Encoded:
        """What is made of texts of one length. Only tokens that are `seen` are looked at, by default all; the
        others have states too, as in the published code, and some denoisers read them."""


def restricted(mask: Mask, seen: Bool[Array, "B S"] | None) -> Mask:
    """`mask`, of whose keys only those that are `seen` are left."""
    if seen is None:
        return mask
    batch, size = seen.shape
    keys = jax.numpy.broadcast_to(seen[:, None, :], (batch, size, size))
    return All((mask, Ancestors(keys)))
