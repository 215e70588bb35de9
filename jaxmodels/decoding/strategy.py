"""What a decoding strategy is: a prefill and a step, driven by one loop that is the same for all of them."""

from dataclasses import replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Cache, Decoder


@struct.dataclass
class Request:
    """One batch of prompts and when to stop. All of it is data: none of it causes a compilation.

    tokens: i32[B, S], prompts padded on the right. lengths: i32[B], their lengths, at least 1.
    max_new: i32, tokens to generate per row at most. stop_tokens: i32[any], a row ends after any of them.
    pad_token: i32, fills rows beyond their end. keys: one random key per row.
    """

    tokens: jax.Array
    lengths: jax.Array
    max_new: jax.Array
    stop_tokens: jax.Array
    pad_token: jax.Array
    keys: jax.Array


@struct.dataclass
class LogProbs:
    """Log-probabilities under the model itself, before any penalty, temperature or filter.

    chosen: f32[B, max_new]. top_ids: i32[B, max_new, n] and top: f32[B, max_new, n], most probable first.
    """

    chosen: jax.Array
    top_ids: jax.Array
    top: jax.Array


@struct.dataclass
class Output:
    """What has been generated so far.

    tokens: i32[B, max_new], the padding token beyond each row's length. lengths: i32[B], stop token included.
    done: bool[B]. steps: i32, model calls after the prefill. log_probs: None unless asked for.
    """

    tokens: jax.Array
    lengths: jax.Array
    done: jax.Array
    steps: jax.Array
    log_probs: LogProbs | None = None


class Carry(Protocol):
    """A strategy's loop state: a pytree whose type never changes, with the output among its fields."""

    @property
    def output(self) -> Output: ...
    @property
    def cache(self) -> Cache: ...


class Strategy(Protocol):
    """A decoding method, written against `Decoder.peek` and `Decoder.commit` alone. A pytree.

    `prefill` settles the prompt and emits each row's first tokens; `step` emits at least one more token for
    every row that is not done. Both are traced.
    """

    def prefill(
        self, config: Decoder, params: Params, request: Request, cache: Cache, output: Output
    ) -> Any: ...

    def step(self, config: Decoder, params: Params, request: Request, carry: Any) -> Any: ...


def empty_output(batch: int, max_new: int, pad_token: Int[Array, ""]) -> Output:
    """Room for `max_new` tokens per row."""
    return Output(
        tokens=jnp.full((batch, max_new), pad_token, jnp.int32),
        lengths=jnp.zeros((batch,), jnp.int32),
        done=jnp.zeros((batch,), bool),
        steps=jnp.zeros((), jnp.int32),
    )


def emit(output: Output, token: Int[Array, "B"], request: Request) -> Output:
    """Appends one token to every row that is not done, and ends rows that stop or are full."""
    rows = jnp.arange(token.shape[0])
    slot = jnp.where(output.done, output.tokens.shape[1], output.lengths)
    lengths = output.lengths + ~output.done
    stopped = (token[:, None] == request.stop_tokens[None, :]).any(1)
    return replace(
        output,
        tokens=output.tokens.at[rows, slot].set(token, mode="drop"),
        lengths=lengths,
        done=output.done | stopped | (lengths >= request.max_new),
    )


def still_running(output: Output) -> Bool[Array, ""]:
    """Whether any row has tokens to come."""
    return ~output.done.all()
