"""Products of rows, sorted by group, with one matrix per group: the core of dropless mixtures of experts."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Rows per tile on CPU. Larger tiles read a group's matrix less often and waste more work on its last tile.
_LARGEST_TILE = 64


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

    XLA's CPU backend expands `lax.ragged_dot` to a product with every matrix. There the rows are cut into
    tiles that lie within one group each, and a loop over as many tiles as there are multiplies each with its
    group's matrix. Other backends get `lax.ragged_dot`. Decided when the program is lowered.
    """
    return lax.platform_dependent(x, w, group_sizes, cpu=_product, default=lax.ragged_dot)


def _grouped_matmul_forward(x, w, group_sizes):  # type: ignore[no-untyped-def]
    return grouped_matmul(x, w, group_sizes), (x, w, group_sizes)


def _grouped_matmul_backward(residuals, g):  # type: ignore[no-untyped-def]
    x, w, group_sizes = residuals
    dx, dw = lax.platform_dependent(x, w, group_sizes, g, cpu=_gradients, default=_ragged_gradients)
    return dx, dw, None


grouped_matmul.defvjp(_grouped_matmul_forward, _grouped_matmul_backward)


def tile_size(rows: int, groups: int) -> int:
    """Rows per tile: about half the mean of a group, a power of two."""
    mean = rows / groups
    tile = 1
    while tile < mean / 2 and tile < _LARGEST_TILE:
        tile *= 2
    return tile


def _product(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"]
) -> Float[Array, "T F"]:
    rows, tile = x.shape[0], tile_size(x.shape[0], w.shape[0])
    padded = jnp.pad(x, ((0, tile), (0, 0)))
    tiles = _Tiles(group_sizes, tile)

    def multiply(i: Array, y: Array) -> Array:
        group, start, _ = tiles.at(i)
        matrix = lax.dynamic_index_in_dim(w, group, 0, keepdims=False)
        # What a tile writes beyond its group's end, later tiles overwrite.
        product = _tile_product(lax.dynamic_slice_in_dim(padded, start, tile), matrix)
        return lax.dynamic_update_slice_in_dim(y, product.astype(y.dtype), start, 0)

    y = jnp.zeros((rows + tile, w.shape[2]), jnp.result_type(x, w))
    y = lax.fori_loop(0, tiles.count, multiply, y)[:rows]
    return jnp.where(jnp.arange(rows)[:, None] < group_sizes.sum(), y, 0)


def _gradients(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"], g: Float[Array, "T F"]
) -> tuple[Float[Array, "T D"], Float[Array, "E D F"]]:
    tile = tile_size(x.shape[0], w.shape[0])
    padded_x, padded_g = (jnp.pad(a, ((0, tile), (0, 0))) for a in (x, g))
    tiles = _Tiles(group_sizes, tile)

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dx, dw = carry
        group, start, size = tiles.at(i)
        inside = jnp.arange(tile)[:, None] < size
        tile_x = lax.dynamic_slice_in_dim(padded_x, start, tile)
        tile_g = jnp.where(inside, lax.dynamic_slice_in_dim(padded_g, start, tile), 0)
        matrix = lax.dynamic_index_in_dim(w, group, 0, keepdims=False)
        dx = lax.dynamic_update_slice_in_dim(dx, (tile_g @ matrix.T).astype(dx.dtype), start, 0)
        update = jnp.einsum("td,tf->df", tile_x, tile_g, preferred_element_type=dw.dtype)
        return dx, dw.at[group].add(update)

    dx = jnp.zeros(padded_x.shape, x.dtype)
    dw = jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))
    dx, dw = lax.fori_loop(0, tiles.count, add, (dx, dw))
    return dx[: x.shape[0]], dw.astype(w.dtype)


def _ragged_gradients(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"], g: Float[Array, "T F"]
) -> tuple[Float[Array, "T D"], Float[Array, "E D F"]]:
    _, pullback = jax.vjp(functools.partial(lax.ragged_dot, group_sizes=group_sizes), x, w)
    return pullback(g)


class _Tiles:
    """The tiles of rows sorted by group: each within one group, in the order of the rows."""

    def __init__(self, group_sizes: Int[Array, "E"], tile: int) -> None:
        self.tile, self.sizes = tile, group_sizes
        self.starts = jnp.cumsum(group_sizes) - group_sizes
        self.per_group = -(-group_sizes // tile)
        self.ends = jnp.cumsum(self.per_group)
        self.count = self.ends[-1]

    def at(self, i: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
        """Tile i: its group, its first row, how many of its rows are the group's."""
        group = jnp.searchsorted(self.ends, i, side="right")
        before = (i - self.ends[group] + self.per_group[group]) * self.tile
        return group, self.starts[group] + before, jnp.minimum(self.sizes[group] - before, self.tile)


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
