"""What a draft head keeps of the pairs it has read: keys and values, of which the last can be taken back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from jaxmodels.layers.kv_cache import EMPTY
from jaxmodels.layers.spec import Params, buffer
from jaxmodels.layers.window import Window, ropes_of
from jaxmodels.models.block import DecoderBlock, Stream, peek
from jaxmodels.models.slots import fitted, token_limit


@struct.dataclass
class History:
    """The pairs that a head has read, one state per block.

    Attributes:
        length: i32[B], pairs per row.
        layers: one state per block: slots whose tags say what is there.
    """

    length: jax.Array
    layers: tuple[Any, ...]


def empty_history(blocks: Sequence[DecoderBlock], batch: int, capacity: int) -> History:
    """The spec of an empty history, a `Buffer` in the place of each array; `filled` makes the arrays."""
    return History(
        length=buffer((batch,), ("batch",), "int32"),
        layers=tuple(block.state_spec(batch, capacity) for block in blocks),
    )


def pass_blocks(
    blocks: Sequence[DecoderBlock], params: Params, stream: Stream, history: History, window: Window
) -> tuple[Stream, History]:
    """The stream behind the blocks, whose parameters are numbered, and the history with the window's pairs.

    Pairs that find no slot become padding.
    """
    window = fitted(window, token_limit(blocks, history.layers)).with_rotations(ropes_of(*blocks))
    # No weight times NaN is NaN: whatever stands at padded places, it enters as 0.
    real = window.is_valid[..., None]
    stream = replace(
        stream, hidden=jnp.where(real, stream.hidden, 0), embedded=jnp.where(real, stream.embedded, 0)
    )
    layers = []
    for i, (block, state) in enumerate(zip(blocks, history.layers, strict=True)):
        stream, pending = peek(block, params[str(i)], stream, state, window)
        layers.append(block.commit(pending))
    return stream, History(length=history.length + window.valid, layers=tuple(layers))


def rewound(history: History, length: Int[Array, "B"]) -> History:
    """The history without the pairs behind the first ``length[b]`` of each row.

    Their entries stay in the slots, untagged, and are written over: nothing is copied.
    """

    def take_back(path: Any, leaf: jax.Array) -> jax.Array:
        is_tags = getattr(path[-1], "name", None) == "positions"
        return jnp.where(jnp.arange(leaf.shape[1]) < length[:, None], leaf, EMPTY) if is_tags else leaf

    return History(length=length, layers=jax.tree_util.tree_map_with_path(take_back, history.layers))
