"""Where the programs of a generation come from: traced when they are first called, or loaded from files.

`jaxmodels.artefacts.compiled` has those that are loaded.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.decoding import driver
from jaxmodels.decoding.buckets import answer_bucket, capacity_bucket, prompt_bucket
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.strategy import Output, Request, Strategy
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a program's arrays are sized by.

    Attributes:
        prompt: slots of each row's prompt.
        new: slots of each row's answer.
        capacity: cache slots per row.
    """

    prompt: int
    new: int
    capacity: int


class Runner(Protocol):
    """The programs of a generation, each as in `jaxmodels.decoding.driver`, and the sizes they are for."""

    def sizes(
        self, batch: int, longest: int, max_new: int, strategy: Strategy, capacity: int | None
    ) -> Sizes:
        """The sizes for prompts of `longest` tokens at most and `max_new` new ones; `capacity` is what the
        caller asks for, None for no wish. Raises ValueError where there are no programs for such a call."""

    def keys(self, seed: int, batch: int) -> jax.Array:
        """A random key for each row."""

    def allocate(
        self, *, config: LanguageModel, batch: int, capacity: int, dtype: str,
        placement: driver.PlacesCaches | None,
    ) -> Cache: ...  # fmt: skip

    def start(
        self, params: Params, request: Request, cache: Cache, strategy: Strategy, *, config: LanguageModel,
        max_new: int,
    ) -> Any: ...  # fmt: skip

    def advance(
        self, params: Params, request: Request, carry: Any, strategy: Strategy, steps: jax.Array, *,
        config: LanguageModel,
    ) -> Any: ...  # fmt: skip

    def generate(
        self, params: Params, request: Request, cache: Cache, strategy: Strategy, *, config: LanguageModel,
        max_new: int,
    ) -> tuple[Output, Cache]: ...  # fmt: skip


class Traced:
    """Programs traced and compiled at their first call, for buckets of sizes."""

    def sizes(
        self, batch: int, longest: int, max_new: int, strategy: Strategy, capacity: int | None
    ) -> Sizes:
        prompt, new = prompt_bucket(longest, strategy.prefill_window), answer_bucket(max_new)
        if capacity is None:
            capacity = capacity_bucket(prompt, new + strategy.lookahead)
        elif prompt <= strategy.prefill_window:  # a prompt of one window is padded to what there is
            prompt = min(prompt, capacity)
        return Sizes(prompt=prompt, new=new, capacity=capacity)

    def keys(self, seed: int, batch: int) -> jax.Array:
        keys: jax.Array = row_keys(np.int32(seed), batch=batch)
        return keys

    allocate = staticmethod(driver.allocate)
    start = staticmethod(driver.start)
    advance = staticmethod(driver.advance)
    generate = staticmethod(driver.generate)


@bounded_jit(static_argnames=("batch",))
def row_keys(seed: jax.Array, *, batch: int) -> jax.Array:
    """The keys of rows 0 to batch - 1, one program for all seeds."""
    key = jax.random.key(seed)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch))


TRACED: Runner = Traced()
