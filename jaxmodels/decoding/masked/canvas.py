"""The canvas: a row's prompt and answer, unknown tokens included, and the block that is being filled in."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Shaped

from jaxmodels.decoding.strategy import Request


@struct.dataclass
class Canvas:
    """Rows of prompt and answer, each with its block in flight.

    Attributes:
        tokens: i32[B, N], prompt and answer; beyond `length` arbitrary.
        unknown: bool[B, N], the places that no token was chosen for yet.
        prompt: i32[B], tokens of the prompt.
        length: i32[B], of prompt and answer together.
        start: i32[B], the first place of the block.
        size: i32[B], its places; 0 behind the last block.
        step: i32[B], steps taken in it.
        initial: i32[B], its unknown places before the first step.
        idle: i32[B], its steps that began with every place known.
        answer_slots: no answer is longer, not even with the tokens of the prompt in its first block.
    """

    tokens: jax.Array
    unknown: jax.Array
    prompt: jax.Array
    length: jax.Array
    start: jax.Array
    size: jax.Array
    step: jax.Array
    initial: jax.Array
    idle: jax.Array
    answer_slots: int = struct.field(pytree_node=False)

    @property
    def places(self) -> Int[Array, "1 N"]:
        """All places, counted from 0."""
        return jnp.arange(self.tokens.shape[1], dtype=jnp.int32)[None, :]

    @property
    def is_valid(self) -> Bool[Array, "B N"]:
        """The places of prompt and answer."""
        return self.places < self.length[:, None]


def new_canvas(
    request: Request, slots: int, alignment: int, filler: Int[Array, "B N"], multiple: int = 1
) -> Canvas:
    """A canvas whose answers are unknown, in front of its first block.

    Args:
        request: the prompts and how many tokens follow them.
        slots: N.
        alignment: answers end, and blocks begin, at multiples of this; 1: blocks begin behind the prompt.
        filler: what stands in the place of unknown tokens.
        multiple: answers are of a multiple of so many tokens.
    """
    prompt = request.lengths
    answer = -(-request.max_new // multiple) * multiple
    length = -(-(prompt + answer) // alignment) * alignment
    places = jnp.arange(slots, dtype=jnp.int32)[None, :]
    is_prompt = places < prompt[:, None]
    given = jnp.pad(request.tokens, ((0, 0), (0, slots - request.tokens.shape[1])))
    none = jnp.zeros_like(prompt)
    return Canvas(
        tokens=jnp.where(is_prompt, given, filler),
        unknown=~is_prompt & (places < length[:, None]),
        prompt=prompt,
        length=length,
        start=prompt // alignment * alignment,
        size=none,
        step=none,
        initial=none,
        idle=none,
        answer_slots=slots - request.tokens.shape[1],
    )


def open_block(canvas: Canvas, size: int) -> Canvas:
    """The canvas in front of the first step of the block at `start`, of at most `size` places."""
    canvas = replace(canvas, size=jnp.clip(canvas.length - canvas.start, 0, size))
    none = jnp.zeros_like(canvas.start)
    unknown = look(canvas.unknown, block_places(canvas, size)) & in_block(canvas, size)
    return replace(canvas, step=none, idle=none, initial=unknown.sum(1, dtype=jnp.int32))


def next_block(canvas: Canvas, finished: Bool[Array, "B"], size: int) -> Canvas:
    """The canvas with finished rows in front of their next block, of at most `size` places."""
    after = open_block(replace(canvas, start=canvas.start + canvas.size), size)
    return jax.tree.map(
        lambda new, old: jnp.where(finished.reshape(-1, *(1,) * (old.ndim - 1)), new, old), after, canvas
    )


def block_places(canvas: Canvas, size: int) -> Int[Array, "B L"]:
    """The places from the block's first one on."""
    return canvas.start[:, None] + jnp.arange(size, dtype=jnp.int32)


def in_block(canvas: Canvas, size: int) -> Bool[Array, "B L"]:
    """Which of `block_places` belong to the block."""
    return jnp.arange(size) < canvas.size[:, None]


def look(values: Shaped[Array, "B N"], places: Int[Array, "B L"]) -> Shaped[Array, "B L"]:
    """What the canvas holds at these places; of those beyond it, what it holds at its end."""
    return jnp.take_along_axis(values, jnp.minimum(places, values.shape[1] - 1), axis=1)


def put(
    values: Shaped[Array, "B N"],
    places: Int[Array, "B L"],
    new: Shaped[Array, "B L"],
    where: Bool[Array, "B L"],
) -> Shaped[Array, "B N"]:
    """The canvas with `new` at those places where `where` holds."""
    rows = jnp.arange(values.shape[0])[:, None]
    return values.at[rows, jnp.where(where, places, values.shape[1])].set(new, mode="drop")
