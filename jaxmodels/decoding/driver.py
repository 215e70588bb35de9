"""The compiled programs around a strategy: the whole generation as one, or a prefill and chunks of steps."""

from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.strategy import Output, Request, Strategy, empty_output, still_running
from jaxmodels.layers.spec import Params
from jaxmodels.models.cache import with_kept, without_kept
from jaxmodels.models.language_model import Cache, LanguageModel


@bounded_jit(static_argnames=("config", "max_new"), donate_argnames=("cache",))
def generate(
    params: Params,
    request: Request,
    cache: Cache,
    strategy: Strategy,
    *,
    config: LanguageModel,
    max_new: int,
) -> tuple[Output, Cache]:
    """Prefill and every step as one program without host round trips. The cache is donated.

    `max_new` is the width of the output, at least ``request.max_new``; compiled once per shapes, `config`,
    strategy type and its static fields.
    """
    carry = start(params, request, cache, strategy, config=config, max_new=max_new)

    def step(carry: Any) -> Any:
        return strategy.step(config, params, request, carry)

    carry = lax.while_loop(lambda c: still_running(c.output), step, carry)
    return carry.output, without_kept(carry.cache)


@bounded_jit(static_argnames=("config", "max_new"), donate_argnames=("cache",))
def start(
    params: Params,
    request: Request,
    cache: Cache,
    strategy: Strategy,
    *,
    config: LanguageModel,
    max_new: int,
) -> Any:
    """The prefill as a program of its own: the strategy's carry, first tokens emitted."""
    output = empty_output(request.tokens.shape[0], max_new, request.pad_token)
    return strategy.prefill(config, params, request, with_kept(config, params, cache), output)


@bounded_jit(static_argnames=("config",), donate_argnames=("carry",))
def advance(
    params: Params, request: Request, carry: Any, strategy: Strategy, steps: Array, *, config: LanguageModel
) -> Any:
    """At most `steps` (data, not a shape) further steps as one program. The carry is donated."""
    stop_at = carry.output.steps + steps

    def unfinished(carry: Any) -> Array:
        return still_running(carry.output) & (carry.output.steps < stop_at)

    return lax.while_loop(unfinished, lambda c: strategy.step(config, params, request, c), carry)


class PlacesCaches(Protocol):
    """Knows where the caches of models lie on a mesh. Implementations are hashable: static in programs."""

    def __hash__(self) -> int: ...

    def cache(self, config: Any, batch: int, capacity: int, dtype: DTypeLike) -> Any:
        """The sharding of each array of what ``config.init_cache(batch, capacity, dtype)`` makes."""

    def cache_bytes(self, config: Any, batch: int, capacity: int, dtype: DTypeLike) -> int:
        """Bytes of the cache in one memory."""


@bounded_jit(static_argnames=("config", "batch", "capacity", "dtype", "placement"))
def allocate(
    *,
    config: LanguageModel,
    batch: int,
    capacity: int,
    dtype: str,
    placement: PlacesCaches | None = None,
) -> Cache:
    """An empty cache as distinct, donatable buffers, on the default device or where `placement` says."""
    cache = config.init_cache(batch, capacity, jnp.dtype(dtype))
    if placement is not None:
        cache = lax.with_sharding_constraint(cache, placement.cache(config, batch, capacity, dtype))
    # Without the barrier XLA may back equal constants by one buffer, which cannot be donated twice.
    return lax.optimization_barrier(cache)
