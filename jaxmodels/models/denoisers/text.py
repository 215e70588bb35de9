"""A text, encoded, as what a denoiser is conditioned on."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Text:
    """What text encoders made of a prompt, and what a model is told beside it.

    Attributes:
        tokens: [B, T, C], a vector for each token.
        seen: bool[B, T], which tokens are real; None for all.
        pooled: [B, P], one vector for the whole text.
        guidance: f32[B], the strength of guidance that a distilled model imitates.
        resolution: f32[B, 2], height and width of the picture in pixels.
        aspect_ratio: f32[B], height divided by width.
        states: [B, L, S, C], what a language model made of the prompt: the stream behind each of its blocks.
    """

    tokens: jax.Array
    seen: Any = None
    pooled: Any = None
    guidance: Any = None
    resolution: Any = None
    aspect_ratio: Any = None
    states: Any = None


def check_text(text: object, batch: int, width: int, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless `text` is a `Text` of `batch` rows whose tokens have `width` features.

    shapes: what the model reads of a `Text` beside its tokens, with the shapes; `seen` has that of the tokens
    and may be None. Fields that the model does not read must be None.
    """
    if not isinstance(text, Text):
        raise ValueError(f"condition must be a Text, got {type(text).__name__}")
    shape = list(text.tokens.shape)
    if len(shape) != 3 or shape[0] != batch or shape[2] != width:
        raise ValueError(f"condition.tokens: expected [{batch}, T, {width}], got {shape}")
    for name in ("seen", "pooled", "guidance", "resolution", "aspect_ratio", "states"):
        given = getattr(text, name)
        if name not in shapes:
            if given is not None:
                raise ValueError(
                    f"condition.{name}: the model reads none, got {list(given.shape)}; leave it out"
                )
        elif given is None:
            if name != "seen":
                raise ValueError(f"condition.{name} is missing; the model reads {list(shapes[name])}")
        elif given.shape != shapes[name]:
            raise ValueError(f"condition.{name}: expected {list(shapes[name])}, got {list(given.shape)}")


def abstract_text(batch: int, tokens: int, width: int, shapes: dict[str, tuple[int, ...]]) -> Text:
    """A `Text` of float32 as shapes and dtypes. shapes: as for `check_text`."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    beside = {name: array(*shape) for name, shape in shapes.items()}
    text: Any = Text(tokens=array(batch, tokens, width), **beside)  # type: ignore[arg-type]
    return text


def seen_tokens(text: Text) -> jax.Array:
    """bool[B, T], which tokens are real."""
    return jnp.ones(text.tokens.shape[:2], bool) if text.seen is None else text.seen
