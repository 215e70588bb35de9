"""Nothing is kept: a window's queries read the window's own keys."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.cache.policy import Heads, Projections, attend_slots, rotated
from jaxmodels.layers.kv_cache import allowed_by_position, range_in_use, window_tags
from jaxmodels.layers.window import Window


@dataclass(frozen=True)
class WindowOnly:
    """No slots at all: for masks under which a window sees nothing of the history, such as `StageAlone` with
    one stage in each window. Under others a token misses the history that it would see."""

    def check(self, heads: Heads) -> None:
        """It fits every layer."""

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> tuple[()]:
        return ()

    def write(
        self, heads: Heads, new: Projections, state: tuple[()], window: Window
    ) -> tuple[Projections, tuple[()]]:
        """Held are the rotated projections."""
        return rotated(heads, new, window), ()

    def read(
        self, heads: Heads, held: Projections, pending: tuple[()], window: Window
    ) -> Float[Array, "B S N H"]:
        slots = window, window_tags(window), jnp.zeros_like(window.start), heads.reach, None, heads.chunk
        return attend_slots(
            heads,
            held.q,
            *(jnp.swapaxes(a, 1, 2) for a in (held.k, held.v)),
            allowed=allowed_by_position(*slots),
            key_range=range_in_use(*slots),
            sink_logits=held.sink_logits,
        )

    def commit(
        self,
        heads: Heads,
        pending: tuple[()],
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> tuple[()]:
        return ()

    def limit(self, heads: Heads, state: tuple[()]) -> int | None:
        """Any number of tokens."""
        return None

    def keys_read(self, heads: Heads, context: int) -> float:
        """Those of the window, which all lie in the context."""
        return context if heads.reach is None else min(context, heads.reach)
