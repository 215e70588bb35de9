"""What a model gives for a window of tokens, and how callers say how much of it they need."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import shown


@struct.dataclass
class Scored:
    """What a model saw in a window.

    Attributes:
        hidden: [B, S, D], behind the final norm.
        logits: f32[B, P, V], the head's scores at the P positions that were asked for; None for nowhere.
        taps: [B, S, D] each, what was asked for by name.
    """

    hidden: jax.Array
    logits: Any
    taps: dict[str, jax.Array]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Everywhere:
    """Logits of every window token."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Nowhere:
    """No logits: the head is not computed."""


EVERYWHERE = Everywhere()
NOWHERE = Nowhere()

# An array i32[B, P] holds the window indices whose logits are asked for; outside the window they are NaN.
LogitsAt: TypeAlias = Everywhere | Nowhere | jax.Array


def check_logits_at(logits_at: LogitsAt, batch: int, size: int) -> None:
    """Raises ValueError where `logits_at` does not fit a window of `size` tokens in `batch` rows."""
    if isinstance(logits_at, Everywhere | Nowhere):
        return
    shape, dtype = getattr(logits_at, "shape", None), getattr(logits_at, "dtype", None)
    if shape is None or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"logits_at: expected EVERYWHERE, NOWHERE or window indices i32[{batch}, P], "
            f"got {shown(logits_at)}"
        )
    if len(shape) != 2 or shape[0] != batch:
        raise ValueError(
            f"logits_at: expected i32[{batch}, P], indices into the window of {size} tokens of each row, "
            f"got {dtype}{list(shape)}"
        )


def logits_where(
    head: Callable[[Float[Array, "B P D"]], Float[Array, "B P V"]],
    hidden: Float[Array, "B S D"],
    logits_at: LogitsAt,
) -> Float[Array, "B P V"] | None:
    """The head's scores at the positions asked for; None for nowhere."""
    if isinstance(logits_at, Nowhere):
        return None
    if isinstance(logits_at, Everywhere):
        return head(hidden)
    return head(jnp.take_along_axis(hidden, logits_at[:, :, None], axis=1))


def check_taps(taps: Sequence[str], names: Collection[str]) -> None:
    """Raises ValueError unless `taps` is a sequence of some of `names`."""
    if isinstance(taps, str) or not isinstance(taps, Sequence):
        raise ValueError(f"taps must be a sequence of names, such as {tuple(names)[:1]}, got {shown(taps)}")
    for name in taps:
        if name not in names:
            raise ValueError(f"taps: the model has no {shown(name)}; it has {', '.join(names)}")


def check_wanted(names: Collection[str], inputs: jax.Array, taps: Sequence[str], logits_at: LogitsAt) -> None:
    """Raises ValueError where what is asked of a window of `inputs` is none of `names`, or not in it."""
    check_taps(taps, names)
    check_logits_at(logits_at, *inputs.shape[:2])
