"""The three compiled programs of a model, traced from shapes alone: no weights, no devices.

prefill settles the prompts and emits the first tokens, decode runs some more steps, generate is both with
the loop around the steps. They are what `Model.generate` and `Model.stream` run.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.typing import DTypeLike

from jaxmodels.decoding import driver
from jaxmodels.decoding.buckets import capacity_bucket
from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.generation import STOP_SLOTS
from jaxmodels.decoding.strategy import Request, Strategy
from jaxmodels.layers.quantized.quantization import Quantization, quantized_params
from jaxmodels.layers.spec import Params, abstract_params, unflatten, walk
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.tpu_configs.shardings import abstract_at

ProgramName = Literal["prefill", "decode", "generate"]
PROGRAMS: tuple[ProgramName, ...] = ("prefill", "decode", "generate")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The shapes that programs are made for.

    batch: rows. prompt: prompt slots per row. new_tokens: output slots per row. capacity: cache slots per
    row, a strategy's lookahead among them; by default as many as `Model.generate` takes. dtype: of parameters
    and cache.

    Raises:
        ValueError: a size below 1, or a capacity that does not hold prompt and answer.
    """

    batch: int = 1
    prompt: int = 128
    new_tokens: int = 128
    capacity: int | None = None
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("batch", "prompt", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"Workload: {name} must be at least 1, got {getattr(self, name)}")
        if self.capacity is not None and self.capacity < self.prompt + self.new_tokens:
            raise ValueError(
                f"Workload: capacity={self.capacity} cannot hold a prompt of {self.prompt} tokens and "
                f"{self.new_tokens} new ones; it must be at least {self.prompt + self.new_tokens}"
            )

    def slots(self, lookahead: int) -> int:
        """Cache slots per row, of a strategy with this lookahead.

        Raises ValueError where the capacity does not hold it.
        """
        needed = self.prompt + self.new_tokens + lookahead
        if self.capacity is not None and self.capacity < needed:
            raise ValueError(
                f"Workload: capacity={self.capacity} cannot hold the strategy's lookahead of {lookahead} "
                f"behind prompt and new tokens; it must be at least {needed}"
            )
        return self.capacity or capacity_bucket(self.prompt, self.new_tokens + lookahead)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Abstract arguments of the programs: trees of `jax.ShapeDtypeStruct`.

    carry: the loop state between prefill and decode, which holds the cache. steps: decode's bound.
    """

    params: Any
    request: Request
    cache: Any
    carry: Any
    steps: jax.ShapeDtypeStruct


def abstract_arguments(
    config: LanguageModel,
    workload: Workload,
    strategy: Strategy,
    sharding: Sharding | None = None,
    quantization: Quantization | None = None,
) -> Arguments:
    """The programs' arguments as shapes and dtypes, placed by `sharding` where it is given.

    quantization: the formats that weights are held in; None for all of them in the workload's dtype.

    Raises ValueError where it cannot hold a weight.
    """

    def array(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    batch = workload.batch
    request = Request(
        tokens=array(batch, workload.prompt),
        lengths=array(batch),
        max_new=array(),
        stop_tokens=array(STOP_SLOTS),
        pad_token=array(),
        keys=array(batch, dtype=jax.eval_shape(jax.random.key, 0).dtype),
    )
    params = _abstract_params(config, jnp.dtype(workload.dtype), quantization)
    capacity = workload.slots(strategy.lookahead)
    cache = jax.eval_shape(
        lambda: driver.allocate(config=config, batch=batch, capacity=capacity, dtype=workload.dtype)
    )
    carry = jax.eval_shape(
        lambda *arrays: driver.start(*arrays, strategy, config=config, max_new=workload.new_tokens),
        params, request, cache,
    )  # fmt: skip
    others: Any = (request, cache, carry, array())
    if sharding is not None:
        params = abstract_at(config.spec(), params, sharding)
        others = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), others
        )
    request, cache, carry, steps = others
    return Arguments(params=params, request=request, cache=cache, carry=carry, steps=steps)


def _abstract_params(config: LanguageModel, dtype: DTypeLike, quantization: Quantization | None) -> Params:
    spec = config.spec()
    params = abstract_params(spec, dtype)
    if quantization is None:
        return params
    held = jax.eval_shape(lambda arrays: quantized_params(spec, arrays, quantization), params)
    return unflatten(dict(walk(held)), spec)  # in the order of the specification, which JAX does not keep


def trace_programs(
    config: LanguageModel,
    workload: Workload,
    strategy: Strategy | None = None,
    sharding: Sharding | None = None,
) -> dict[ProgramName, jax.stages.Traced]:
    """The traces of all three programs, ready to be lowered for the devices of `sharding`.

    The strategy is by default what the model was trained for, see `default_strategy`.
    """
    if strategy is None:
        strategy = default_strategy(config, workload.new_tokens)
    given = abstract_arguments(config, workload, strategy, sharding)
    static: Any = {"config": config, "max_new": workload.new_tokens}
    return {
        "prefill": driver.start.trace(given.params, given.request, given.cache, strategy, **static),
        "decode": driver.advance.trace(
            given.params, given.request, given.carry, strategy, given.steps, config=config
        ),
        "generate": driver.generate.trace(given.params, given.request, given.cache, strategy, **static),
    }


# Python callbacks have one of these in their target's name on every backend; the rest are HLO and StableHLO.
_HOST_TRANSFER = re.compile(
    r'custom_call_target="[^"]*(?:callback|host)[^"]*"'
    r"|custom_call @\w*(?:callback|host)\w*"
    r"|\s(?:infeed|outfeed)\("
    r"|stablehlo\.(?:infeed|outfeed)"
    r"|is_host_transfer ?= ?true",
    re.IGNORECASE,
)


def host_transfers(program: str) -> tuple[str, ...]:
    """What in a program's text (HLO or StableHLO) would talk to the host while it runs; empty if nothing.

    Found are callbacks into Python, host sends and receives, infeeds and outfeeds.
    """
    return tuple(sorted({match.group() for match in _HOST_TRANSFER.finditer(program)}))
