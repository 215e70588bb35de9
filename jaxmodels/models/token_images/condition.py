"""What a model of codes is conditioned on: an encoded text, and numbers that describe the picture."""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Prompt:
    """An encoded text and a description of the picture.

    Attributes:
        tokens: [B, T, C], a vector for each token of the text.
        pooled: [B, P], one vector for the whole text.
        described: f32[B, M], numbers such as sizes, crops and a score, as the model was trained on them.
    """

    tokens: jax.Array
    pooled: jax.Array
    described: jax.Array


def check_prompt(prompt: object, batch: int, widths: tuple[int, int, int]) -> None:
    """Raises ValueError unless `prompt` is a `Prompt` of `batch` rows with these last axes."""
    if not isinstance(prompt, Prompt):
        raise ValueError(f"condition must be a Prompt, got {type(prompt).__name__}")
    for name, width in zip(("tokens", "pooled", "described"), widths, strict=True):
        given = jnp.shape(getattr(prompt, name))
        rank = 3 if name == "tokens" else 2
        if len(given) != rank or given[0] != batch or given[-1] != width:
            wanted = f"[{batch}, {'T, ' if rank == 3 else ''}{width}]"
            raise ValueError(f"condition.{name}: expected {wanted}, got {list(given)}")
