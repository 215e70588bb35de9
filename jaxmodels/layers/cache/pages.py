"""Pages of keys: bounds on their logits, which pages to read, and reading them.

A cache of T slots is ``T / page`` pages of consecutive slots. Each page is cut into sub-pages, of which U in
all are kept the channelwise minimum and maximum of their keys (Quest, https://arxiv.org/abs/2406.10774, with
the finer bounds of LServe, https://arxiv.org/abs/2502.14866).
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.kv_cache import EMPTY, KVState, read_slots
from jaxmodels.layers.slot_writes import write_slots
from jaxmodels.layers.spec import buffer

NO_PAGE = -1
_FAR = 1e30  # beyond any key; finite, since it is multiplied by zeros


@struct.dataclass
class KeyBounds:
    """Bounds on the keys of each sub-page, by channel.

    Attributes:
        low, high: [B, K, U, H], the smallest and the largest.
    """

    low: jax.Array
    high: jax.Array


def empty_bounds(state: KVState, subpage: int) -> KeyBounds:
    """The bounds of an empty cache with sub-pages of `subpage` slots, both as parts of a `state_spec`."""
    batch, heads, slots, width = state.k.shape
    shape, axes = (batch, heads, slots // subpage, width), ("batch", "kv_heads", None, "head_dim")
    return KeyBounds(low=buffer(shape, axes, fill=_FAR), high=buffer(shape, axes, fill=-_FAR))


def update_bounds(
    bounds: KeyBounds, state: KVState, start: Int[Array, "B"], size: int, subpage: int
) -> KeyBounds:
    """The bounds after the slots from `start` to ``start + size`` have changed.

    Reads the touched sub-pages whole: at most `subpage` keys for one token, however long the history.
    """
    count = 1 if size == 1 else (size + subpage - 2) // subpage + 1
    count = min(count, bounds.low.shape[2])
    first = jnp.minimum(start // subpage, bounds.low.shape[2] - count)
    keys = read_slots(state.k, first * subpage, count * subpage)
    tags = jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, count * subpage, 0))(
        state.positions, first * subpage
    )
    keys = keys.reshape(*keys.shape[:2], count, subpage, keys.shape[-1])
    held = (tags != EMPTY).reshape(tags.shape[0], 1, count, subpage, 1)
    low, high = jnp.where(held, keys, _FAR).min(3), jnp.where(held, keys, -_FAR).max(3)
    return KeyBounds(low=write_slots(bounds.low, low, first), high=write_slots(bounds.high, high, first))


def bound_logits(q: Float[Array, "B K M H"], bounds: KeyBounds) -> Float[Array, "B K M U"]:
    """``sum_h max(q_h low_h, q_h high_h)``: no key of the sub-page has a larger product with the query."""
    above = jnp.einsum("bkmh,bkuh->bkmu", jnp.maximum(q, 0), bounds.high.astype(q.dtype))
    below = jnp.einsum("bkmh,bkuh->bkmu", jnp.minimum(q, 0), bounds.low.astype(q.dtype))
    return above + below


def select_pages(
    logits: Float[Array, "B K M U"], last: Int[Array, "B"], count: int, pages: int
) -> Int[Array, "B K P"]:
    """The `count` best of each row's pages before its page `last`; `NO_PAGE` where there are fewer.

    A page is worth what the best of its sub-pages is worth to the best of the key head's queries.
    """
    batch, heads = logits.shape[:2]
    by_page = logits.max(2).reshape(batch, heads, pages, -1).max(-1)
    before = jnp.arange(pages) < last[:, None, None]
    best, index = lax.top_k(jnp.where(before, by_page, -jnp.inf), min(count, pages))
    index = jnp.where(best > -jnp.inf, index, NO_PAGE).astype(jnp.int32)
    return jnp.pad(index, ((0, 0), (0, 0), (0, count - index.shape[2])), constant_values=NO_PAGE)


def gather_pages(
    buffer: Float[Array, "B K T H"], pages: Int[Array, "B K P"], page: int
) -> Float[Array, "B K C H"]:
    """The slots of these pages, one page after another."""

    def one_page(head: Float[Array, "T H"], index: Int[Array, ""]) -> Float[Array, "C H"]:
        return lax.dynamic_slice_in_dim(head, jnp.maximum(index, 0) * page, page, axis=0)

    by_row = jax.vmap(jax.vmap(jax.vmap(one_page, (None, 0))))(buffer, pages)
    return by_row.reshape(*pages.shape[:2], -1, buffer.shape[-1])


def gather_tags(tags: Int[Array, "B T"], pages: Int[Array, "B K P"], page: int) -> Int[Array, "B K C"]:
    """The tags of the same slots, empty where there is no page."""
    slots = jnp.maximum(pages, 0)[..., None] * page + jnp.arange(page)
    found = jax.vmap(lambda row, at: row[at])(tags, slots)
    return jnp.where(pages[..., None] == NO_PAGE, EMPTY, found).reshape(*pages.shape[:2], -1)
