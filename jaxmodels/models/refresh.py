"""Which committed entries a window rewrites in place, and that a model has entries to rewrite."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import is_traced
from jaxmodels.layers.kv_cache import EMPTY, Refreshable
from jaxmodels.layers.masks import MaskLike
from jaxmodels.layers.window import Valid, Window, next_window
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.slots import mixers


def check_slots(
    slots: Int[Array, "B S"], valid: Valid | None, window: tuple[int, ...], limit: int | None
) -> None:
    """Raises ValueError unless `slots` names a slot of the cache for each token of a window [B, S], and none
    twice in a row.

    What has no value yet, inside a compiled program, passes.
    """
    batch, size = window
    shape, dtype = list(np.shape(slots)), getattr(slots, "dtype", type(slots))
    if shape != [batch, size] or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"refresh: slots must be int[{batch}, {size}], one per token, got {dtype}{shape}")
    if is_traced(slots) or is_traced(valid):
        return
    real = np.broadcast_to(np.asarray(_are_real(valid, size)), (batch, size))
    for row, chosen in enumerate(np.asarray(slots)):
        seen: dict[int, int] = {}
        for i in np.flatnonzero(real[row]).tolist():
            slot = int(chosen[i])
            if slot < 0 or (limit is not None and slot >= limit):
                held = "slots" if limit is None else f"slots 0 to {limit - 1}"
                raise ValueError(f"refresh: slots[{row}, {i}] is {slot}, the cache has {held}")
            if slot in seen:
                raise ValueError(
                    f"refresh: slots[{row}, {seen[slot]}] and slots[{row}, {i}] are both {slot}; give each "
                    "slot of a row once"
                )
            seen[slot] = i


def refresh_window(
    blocks: Sequence[DecoderBlock],
    states: Sequence[Any],
    length: Int[Array, "B"],
    slots: Int[Array, "B S"],
    *,
    positions: Int[Array, "B S"] | None,
    mask: MaskLike,
    valid: Valid | None,
) -> Window:
    """The window whose tokens go to committed slots. Those whose slot holds nothing, or was given before, are
    padding.

    Raises:
        ValueError: a layer keeps no entries that could be recomputed one by one.
    """
    size = slots.shape[1]
    tags = _held(blocks, states, length, slots)
    real = _are_real(valid, size) & (tags != EMPTY)
    same = (slots[:, :, None] == slots[:, None, :]) & real[:, None, :]
    real = real & ~(same & jnp.tri(size, k=-1, dtype=bool)).any(2)
    positions = jnp.where(real, tags if positions is None else positions, 0)
    return next_window(slots, length, positions=positions, valid=real, mask=mask, known=length, slots=slots)


def _are_real(valid: Valid | None, size: int) -> Bool[Array, "B S"]:
    if valid is None:
        return jnp.ones((1, size), bool)
    return valid if valid.ndim == 2 else jnp.arange(size) < valid[:, None]


def _held(
    blocks: Sequence[DecoderBlock],
    states: Sequence[Any],
    length: Int[Array, "B"],
    slots: Int[Array, "B S"],
) -> Int[Array, "B S"]:
    """The positions of the entries in these slots, EMPTY where a layer has none."""
    exists = (slots >= 0) & (slots < length[:, None])
    positions = None
    for i, (block, state) in enumerate(zip(blocks, states, strict=True)):
        for mixer, part in mixers(block, state):
            if not isinstance(mixer, Refreshable):
                raise ValueError(
                    f"refresh: layer {i} is a {type(mixer).__name__}, which keeps one state for all tokens "
                    "and nothing of a single one. Leave tokens that may change uncommitted, and peek them "
                    "again"
                )
            tags = mixer.held(part, length, slots)
            positions = tags if positions is None else positions
            exists = exists & (tags != EMPTY)
    return jnp.where(exists, slots if positions is None else positions, EMPTY)
