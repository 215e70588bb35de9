"""Products of rows, sorted by group, with one matrix per group: the core of dropless mixtures of experts."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.backends import TPU_TILE_ROWS, ByBackend
from jaxmodels.layers.host_memory import fetched, in_host_memory
from jaxmodels.layers.mapped import summed_like, varying_like
from jaxmodels.layers.slotted import SlottedStack

Carry = TypeVar("Carry")
Tree = TypeVar("Tree")

# The longest tile: a multiple of it would no longer be faster per row.
_LONGEST_TILE = 128
# Tiles come in lengths that are at most this many rows apart. XLA packs a matrix anew for each product, so
# that a group's rows are worth one product that fits them, and not several.
_STEP = 8
# Up to this many rows each is multiplied by itself: one token's experts are different ones.
_ROW_BY_ROW = 8
# Most pieces of one row's contraction, and the fewest rows of weights in one.
_MOST_PIECES, _LEAST_ROWS = 8, 96


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

    XLA's CPU backend expands `lax.ragged_dot` to a product with every matrix. There `over_groups` takes each
    group's matrix once and multiplies the group's rows with it. Other backends get `lax.ragged_dot`, and TPUs
    rows of no group beside the others, to whole tiles.
    """
    y: Array = PRODUCT(x, w, group_sizes)
    return y


def _forward(x: Array, w: Array, group_sizes: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return grouped_matmul(x, w, group_sizes), (x, w, group_sizes)


def _backward(residuals: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, None]:
    dx, dw = GRADIENTS(*residuals, g)
    return dx, dw, None


grouped_matmul.defvjp(_forward, _backward)


def over_groups(
    fn: Callable[[Tree, Float[Array, "t D"]], Float[Array, "t F"]],
    groups: Tree,
    x: Float[Array, "T D"],
    group_sizes: Int[Array, "E"],
) -> Float[Array, "T F"]:
    """``fn(groups[e], rows of e)`` for every group e that has rows, in a loop; rows of no group give 0.

    `groups` is a tree of arrays ``[E, ...]``, or of a `SlottedStack` for any of them; `fn` gets the slices of
    one group, and rows of which the last may be others' (their results are dropped). The form of
    `grouped_matmul` for CPUs.

    Groups in host memory are fetched one by one, each once, and those without rows not at all.
    """
    tiling = _tile(group_sizes, x.shape[0])
    padded = tiling.pad(x)

    def add(y: Array, tile: _Tile, mine: Tree) -> Array:
        def some(size: int, mine: Tree, rows: Array) -> Array:
            return tiling.fill(fn(mine, rows[:size]))

        rows = lax.dynamic_slice_in_dim(padded, tile.start, tiling.longest)
        out = tiling.fitting(tile, some, mine, rows)
        # What a tile writes beyond its rows, the next one overwrites.
        return lax.dynamic_update_slice_in_dim(y, out.astype(y.dtype), tile.start, 0)

    out = jax.eval_shape(lambda: fn(_of_group(groups, 0), x[:1]))
    empty = jnp.zeros((padded.shape[0], *out.shape[1:]), out.dtype)
    if in_host_memory(groups):
        empty = varying_like(empty, tiling.ends, x, *jax.tree.leaves(groups))
        y = tiling.fetching_loop(add, empty, groups, min(x.shape[0], len(group_sizes)))
    else:
        y = tiling.loop(lambda y, tile: add(y, tile, _of_group(groups, tile.group)), empty, (x, groups))
    y = y[: x.shape[0]]
    return jnp.where(jnp.arange(x.shape[0])[:, None] < group_sizes.sum(), y, 0)


def tile_lengths(rows: int, groups: int) -> tuple[int, int]:
    """The longest tile, and the step between the lengths that tiles have: twice the mean group fits one."""
    if rows <= _ROW_BY_ROW:
        return 1, 1
    longest = 8
    while longest < 2 * rows / groups and longest < _LONGEST_TILE:
        longest *= 2
    return longest, min(longest // 8, _STEP)


def row_product(w: Float[Array, "D F"], x: Float[Array, "t D"]) -> Float[Array, "t F"]:
    """``x @ w`` as CPUs like it for few rows.

    A single row in pieces; up to a tile of them the other way round, which saves XLA's CPU
    backend a seventh of the time for 64 rows and a 768 x 768 matrix.
    """
    if x.shape[0] == 1:
        return vector_matrix(x, w)
    return lax.dot_general(w, x, (((0,), (1,)), ((), ()))).T


def vector_matrix(x: Float[Array, "... D"], w: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """``x @ w`` for a single vector x, by pieces of the contraction.

    A batch of products is what XLA's CPU backend runs on all threads: 35 instead of 27 GB/s for 1536 x 768 on
    two cores.
    """
    d_in, d_out = w.shape
    pieces = _MOST_PIECES
    while pieces > 1 and (d_in % pieces or d_in // pieces < _LEAST_ROWS):
        pieces //= 2
    if pieces == 1:
        return x @ w
    products = jnp.einsum(
        "kd,kdf->kf",
        x.reshape(pieces, -1),
        w.reshape(pieces, -1, d_out),
        preferred_element_type=jnp.float32,
    )
    return products.sum(0).astype(jnp.result_type(x, w)).reshape(*x.shape[:-1], d_out)


def _product(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"]
) -> Float[Array, "T F"]:
    return over_groups(row_product, w, x, group_sizes)


def _gradients(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"], g: Float[Array, "T F"]
) -> tuple[Float[Array, "T D"], Float[Array, "E D F"]]:
    tiling = _tile(group_sizes, x.shape[0])
    padded_x, padded_g = tiling.pad(x), tiling.pad(g)
    wide = jnp.promote_types(w.dtype, jnp.float32)

    def add(carry: tuple[Array, Array], tile: _Tile) -> tuple[Array, Array]:
        def some(size: int, matrix: Array, rows_x: Array, rows_g: Array) -> tuple[Array, Array]:
            rows_x, rows_g = rows_x[:size], rows_g[:size]
            dw = jnp.einsum("td,tf->df", rows_x, rows_g, preferred_element_type=wide)
            return tiling.fill(rows_g @ matrix.T), dw

        dx, dw = carry
        rows_x, rows_g = (
            lax.dynamic_slice_in_dim(a, tile.start, tiling.longest) for a in (padded_x, padded_g)
        )
        rows_g = jnp.where(jnp.arange(tiling.longest)[:, None] < tile.rows, rows_g, 0)
        tile_dx, tile_dw = tiling.fitting(tile, some, _of_group(w, tile.group), rows_x, rows_g)
        dx = lax.dynamic_update_slice_in_dim(dx, tile_dx.astype(dx.dtype), tile.start, 0)
        return dx, dw.at[tile.group].add(tile_dw)

    empty = jnp.zeros(padded_x.shape, x.dtype), jnp.zeros(w.shape, wide)
    dx, dw = tiling.loop(add, empty, (padded_x, padded_g, w))
    return summed_like(dx[: x.shape[0]], x), summed_like(dw.astype(w.dtype), w)


def _ragged_gradients(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"], g: Float[Array, "T F"]
) -> tuple[Float[Array, "T D"], Float[Array, "E D F"]]:
    _, pullback = jax.vjp(functools.partial(lax.ragged_dot, group_sizes=group_sizes), x, w)
    return pullback(g)


def _in_whole_tiles(
    x: Float[Array, "T D"], w: Float[Array, "E D F"], group_sizes: Int[Array, "E"]
) -> Float[Array, "T F"]:
    """`lax.ragged_dot` with rows of no group behind the others.

    Where the rows fill no whole tile, the TPU compiler makes a product with every matrix, which reads all of
    them; else it has a kernel that reads those of groups with rows.
    """
    rows = x.shape[0]
    filled = jnp.pad(x, ((0, -rows % TPU_TILE_ROWS), (0, 0)))
    product: Array = lax.ragged_dot(filled, w, group_sizes)
    return product[:rows]


PRODUCT = ByBackend(portable=lax.ragged_dot, cpu=_product, tpu=_in_whole_tiles)
GRADIENTS = ByBackend(portable=_ragged_gradients, cpu=_gradients)


def _of_group(groups: Tree, group: Array | int) -> Tree:
    def take(part: Any) -> Any:
        if isinstance(part, SlottedStack):
            return _of_group(part.slots, part.place[group])
        return lax.dynamic_index_in_dim(part, group, 0, keepdims=False)

    found: Tree = fetched(jax.tree.map(take, groups, is_leaf=lambda part: isinstance(part, SlottedStack)))
    return found


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """Some rows of one group.

    Attributes:
        group: whose rows they are.
        start: the first.
        rows: how many.
    """

    group: Int[Array, ""]
    start: Int[Array, ""]
    rows: Int[Array, ""]


@dataclass(frozen=True, kw_only=True)
class _Tiling:
    """How the rows of each group are cut into tiles.

    Attributes:
        longest: rows of a tile, at most.
        step: tiles are computed in multiples of this.
        sizes: each group's rows.
        starts: each group's first row.
        ends: how many tiles there are up to and with each group.
    """

    longest: int
    step: int
    sizes: Int[Array, "E"]
    starts: Int[Array, "E"]
    ends: Int[Array, "E"]

    def pad(self, rows: Float[Array, "T D"]) -> Float[Array, "T+{self.longest} D"]:
        """The rows with room for a tile that begins at the last of them."""
        return jnp.pad(rows, ((0, self.longest), (0, 0)))

    def fill(self, rows: Float[Array, "t F"]) -> Float[Array, "{self.longest} F"]:
        """A tile's results with zeros behind them."""
        return jnp.pad(rows, ((0, self.longest - rows.shape[0]), (0, 0)))

    def loop(self, body: Callable[[Carry, _Tile], Carry], carry: Carry, data: Tree) -> Carry:
        """`body`, which reads `data`, over all tiles in the order of their rows."""
        carry = varying_like(carry, self.ends, *jax.tree.leaves(data))
        return lax.fori_loop(0, self.ends[-1], lambda i, c: body(c, self._tile(i)), carry)

    def fetching_loop(
        self, body: Callable[[Carry, _Tile, Tree], Carry], carry: Carry, groups: Tree, most: int
    ) -> Carry:
        """`loop` over the tiles of groups in host memory, at most `most` of which have rows; `body` is given
        the group's own slices.

        The slices of the next group are on their way while those of one are computed with.
        """
        present = jnp.flatnonzero(self.sizes, size=most, fill_value=0)
        last = jnp.count_nonzero(self.sizes) - 1

        def over_tiles(carry: Carry, group: Array, mine: Tree) -> Carry:
            first = self.ends[group] - -(-self.sizes[group] // self.longest)
            return lax.fori_loop(
                first, self.ends[group], lambda i, carry: body(carry, self._tile(i), mine), carry
            )

        def step(i: Array, carried: tuple[Carry, Tree]) -> tuple[Carry, Tree]:
            following = _of_group(groups, present[i + 1])
            return over_tiles(carried[0], present[i], carried[1]), following

        # The last group has none behind it to fetch. Without any, it is group 0, which has no tiles.
        carry, mine = lax.fori_loop(0, last, step, (carry, _of_group(groups, present[0])))
        return over_tiles(carry, present[jnp.maximum(last, 0)], mine)

    def fitting(self, tile: _Tile, fn: Callable[..., Tree], *operands: Any) -> Tree:
        """``fn(size, *operands)`` for the least size, known when compiled, that holds the tile's rows."""
        sizes = range(self.step, self.longest + 1, self.step)
        branches = [functools.partial(fn, size) for size in sizes]
        return lax.switch((tile.rows - 1) // self.step, branches, *operands)

    def _tile(self, index: Array) -> _Tile:
        group = jnp.searchsorted(self.ends, index, side="right", method="compare_all")
        before = self.ends[group] - -(-self.sizes[group] // self.longest)
        skipped = (index - before) * self.longest
        rows = jnp.minimum(self.sizes[group] - skipped, self.longest)
        return _Tile(group=group, start=self.starts[group] + skipped, rows=rows)


def _tile(sizes: Int[Array, "E"], rows: int) -> _Tiling:
    """The tiling of `rows` rows, of which ``sizes[e]`` belong to group e."""
    longest, step = tile_lengths(rows, sizes.shape[0])
    return _Tiling(
        longest=longest,
        step=step,
        sizes=sizes,
        starts=jnp.cumsum(sizes) - sizes,
        ends=jnp.cumsum(-(-sizes // longest)),
    )
