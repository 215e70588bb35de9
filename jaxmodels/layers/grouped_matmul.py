"""Products of rows, sorted by group, with one matrix per group: the core of dropless mixtures of experts."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Carry = TypeVar("Carry")

# The largest tile on CPU: larger ones waste more work on a group's last rows than they save in setting up.
_LARGEST_TILE = 64
# Up to this many rows each is multiplied by itself: one token's experts are different ones.
_ROW_BY_ROW = 8


@jax.custom_vjp
def grouped_matmul(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"]
) -> Float[Array, "T F"]:
    """``x[t] @ w[e]`` for every row t of group e; no row is dropped and no shape depends on the sizes.

    Differentiable in reverse mode. Matrices of empty groups are not read.

    Args:
        x: the rows, sorted by group: the first ``group_sizes[0]`` belong to group 0, and so on.
        w: one matrix per group.
        group_sizes: how many rows each group has. Rows beyond their sum belong to none and give 0.

    XLA's CPU backend expands `lax.ragged_dot` to a product with every matrix. There a loop over the groups
    that have rows takes each group's matrix once and multiplies the group's rows with it, tile by tile. Other
    backends get `lax.ragged_dot`. Decided when the program is lowered.
    """
    return lax.platform_dependent(x, w, group_sizes, cpu=_product, default=lax.ragged_dot)


def _forward(x: Array, w: Array, group_sizes: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return grouped_matmul(x, w, group_sizes), (x, w, group_sizes)


def _backward(residuals: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, None]:
    dx, dw = lax.platform_dependent(*residuals, g, cpu=_gradients, default=_ragged_gradients)
    return dx, dw, None


grouped_matmul.defvjp(_forward, _backward)


def tile_sizes(rows: int, groups: int) -> tuple[int, int]:
    """Rows per large and per small tile.

    A large one holds the mean group. Small ones, a quarter as large, take what remains of a group where that
    is less than half of a large tile.
    """
    if rows <= _ROW_BY_ROW:
        return 1, 1
    large = 4
    while large < rows / groups and large < _LARGEST_TILE:
        large *= 2
    return large, large // 4


def _product(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"]
) -> Float[Array, "T F"]:
    tiling = _tile(group_sizes, x.shape[0])
    padded = tiling.pad(x)

    def multiply_group(i: Array, y: Array) -> Array:
        group = tiling.with_rows[i]
        matrix = lax.dynamic_index_in_dim(w, group, 0, keepdims=False)

        def multiply(y: Array, start: Array, tile: int) -> Array:
            # What a tile writes beyond its group's end, the next group's tiles overwrite.
            product = _tile_product(lax.dynamic_slice_in_dim(padded, start, tile), matrix)
            return lax.dynamic_update_slice_in_dim(y, product.astype(y.dtype), start, 0)

        return tiling.over_tiles(group, multiply, y)

    y = jnp.zeros((padded.shape[0], w.shape[2]), jnp.result_type(x, w))
    y = lax.fori_loop(0, tiling.count, multiply_group, y)[: x.shape[0]]
    return jnp.where(jnp.arange(x.shape[0])[:, None] < group_sizes.sum(), y, 0)


def _gradients(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"], g: Float[Array, "T F"]
) -> tuple[Float[Array, "T D"], Float[Array, "E D F"]]:
    tiling = _tile(group_sizes, x.shape[0])
    padded_x, padded_g = tiling.pad(x), tiling.pad(g)
    wide = jnp.promote_types(w.dtype, jnp.float32)

    def add_group(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        group = tiling.with_rows[i]
        matrix = lax.dynamic_index_in_dim(w, group, 0, keepdims=False)
        end = tiling.starts[group] + group_sizes[group]

        def add(carry: tuple[Array, Array], start: Array, tile: int) -> tuple[Array, Array]:
            dx, dw = carry
            inside = (start + jnp.arange(tile))[:, None] < end
            tile_x = lax.dynamic_slice_in_dim(padded_x, start, tile)
            tile_g = jnp.where(inside, lax.dynamic_slice_in_dim(padded_g, start, tile), 0)
            dx = lax.dynamic_update_slice_in_dim(dx, (tile_g @ matrix.T).astype(dx.dtype), start, 0)
            return dx, dw + jnp.einsum("td,tf->df", tile_x, tile_g, preferred_element_type=wide)

        dx, dws = carry
        dx, dw = tiling.over_tiles(group, add, (dx, jnp.zeros(w.shape[1:], wide)))
        return dx, lax.dynamic_update_index_in_dim(dws, dw.astype(w.dtype), group, 0)

    carry = (jnp.zeros(padded_x.shape, x.dtype), jnp.zeros(w.shape, w.dtype))
    dx, dw = lax.fori_loop(0, tiling.count, add_group, carry)
    return dx[: x.shape[0]], dw


def _ragged_gradients(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"], g: Float[Array, "T F"]
) -> tuple[Float[Array, "T D"], Float[Array, "E D F"]]:
    _, pullback = jax.vjp(functools.partial(lax.ragged_dot, group_sizes=group_sizes), x, w)
    return pullback(g)


@dataclass(frozen=True, kw_only=True)
class _Tiling:
    """How the rows of each group are cut into tiles.

    large, small: rows per tile. with_rows: the groups that have rows, in order, as its first `count` entries.
    starts: each group's first row. large_tiles, small_tiles: how many of each a group takes, large ones
    first.
    """

    large: int
    small: int
    count: Int[Array, ""]
    with_rows: Int[Array, "E"]
    starts: Int[Array, "E"]
    large_tiles: Int[Array, "E"]
    small_tiles: Int[Array, "E"]

    def pad(self, rows: Float[Array, "T D"]) -> Float[Array, "T+large D"]:
        """The rows with room for a tile that begins at the last of them."""
        return jnp.pad(rows, ((0, self.large), (0, 0)))

    def over_tiles(self, group: Array, body: Callable[[Carry, Array, int], Carry], carry: Carry) -> Carry:
        """``body(carry, first row, size)`` over the tiles of one group, in the order of the rows."""
        start, count = self.starts[group], self.large_tiles[group]
        carry = lax.fori_loop(0, count, lambda i, c: body(c, start + i * self.large, self.large), carry)
        start, count = start + count * self.large, self.small_tiles[group]
        return lax.fori_loop(0, count, lambda i, c: body(c, start + i * self.small, self.small), carry)


def _tile(sizes: Int[Array, "E"], rows: int) -> _Tiling:
    """The tiling of `rows` rows, of which ``sizes[e]`` belong to group e."""
    large, small = tile_sizes(rows, sizes.shape[0])
    large_tiles = (sizes + large // 2) // large
    return _Tiling(
        large=large,
        small=small,
        count=(sizes > 0).sum(),
        with_rows=jnp.argsort(sizes == 0, stable=True),
        starts=jnp.cumsum(sizes) - sizes,
        large_tiles=large_tiles,
        small_tiles=jnp.maximum(-(-(sizes - large_tiles * large) // small), 0),
    )


def _tile_product(x: Float[Array, "t D"], w: Float[Array, "D F"]) -> Float[Array, "t F"]:
    """``x @ w``; a single row in halves of the contraction: one thread cannot saturate the memory."""
    d_in, d_out = w.shape
    if x.shape[0] > 1 or d_in % 2:
        return jnp.matmul(x, w)
    halves = jnp.einsum(
        "ktd,kdf->ktf", x.reshape(2, 1, d_in // 2), w.reshape(2, d_in // 2, d_out),
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    return halves.sum(0)
