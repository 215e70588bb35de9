"""What a model is given for a window: tokens or their embeddings, and perhaps a condition."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.masks import MaskLike, check_mask
from jaxmodels.layers.window import Valid, check_valid
from jaxmodels.models.block import ConditionedBlock

if TYPE_CHECKING:
    from jaxmodels.models.cache import Cache
    from jaxmodels.models.decoder import Decoder  # whose windows are checked here

# Token ids, or in place of tokens what `Decoder.embeddings` would give for them.
Inputs: TypeAlias = Int[Array, "B S"] | Float[Array, "B S D"]


def are_embeddings(inputs: Inputs) -> bool:
    """Whether inputs are embeddings and not token ids."""
    return jnp.issubdtype(inputs.dtype, jnp.floating)


def check_inputs(inputs: Inputs, d_model: int) -> None:
    """Raises ValueError unless inputs are token ids [B, S] or embeddings [B, S, d_model]."""
    shape, dtype = list(inputs.shape), inputs.dtype
    if are_embeddings(inputs):
        if len(shape) != 3 or shape[2] != d_model:
            raise ValueError(f"inputs: embeddings must be [B, S, {d_model}], got {dtype}{shape}")
    elif not jnp.issubdtype(dtype, jnp.integer) or len(shape) != 2:
        raise ValueError(
            f"inputs: expected token ids, integers [B, S], or embeddings, floating [B, S, {d_model}], "
            f"got {dtype}{shape}"
        )


def check_condition(
    condition: jax.Array | None, blocks: Sequence[object], batch: int, size: int, *, has_default: bool
) -> None:
    """Raises ValueError unless `condition` is [B, C] or [B, S, C] where a block reads one of width C, and
    None where no block does, or where the model `has_default`."""
    if condition is None and has_default:
        return
    for i, block in enumerate(blocks):
        if isinstance(block, ConditionedBlock):
            width = block.condition_width
            if condition is None:
                raise ValueError(f"condition: block {i} reads one of width {width}, but none is given")
            if condition.shape not in ((batch, width), (batch, size, width)):
                raise ValueError(
                    f"condition: block {i} reads [{batch}, {width}] or [{batch}, {size}, {width}], "
                    f"got {list(condition.shape)}"
                )
    if condition is not None and not any(isinstance(block, ConditionedBlock) for block in blocks):
        raise ValueError(f"condition: no block reads one, but {list(condition.shape)} is given; leave it out")


def check_window(
    config: "Decoder",
    inputs: Inputs,
    cache: "Cache",
    *,
    mask: MaskLike,
    valid: Valid | None,
    condition: jax.Array | None,
) -> None:
    """Raises ValueError where what `peek` is given for a window does not fit the model or each other."""
    check_inputs(inputs, config.d_model)
    batch, size = inputs.shape[:2]
    check_mask(mask, size, batch)
    check_valid(valid, batch, size)
    check_condition(condition, config.blocks, batch, size, has_default=config.time is not None)
    if cache.length.shape[0] != batch:
        raise ValueError(f"peek: tokens have {batch} rows, the cache has {cache.length.shape[0]}")
    if cache.transcript is not None and are_embeddings(inputs):
        raise ValueError(
            f"peek: inputs are embeddings, but beyond {cache.transcript.limit} tokens (recode_beyond) a "
            "history is encoded anew from its tokens; give tokens, or a cache of at most that capacity"
        )
