"""Portable artefacts: a model's programs lowered for CUDA, TPU and CPU on any machine.

An artefact is a `jax.export.Exported`: StableHLO with its calling convention. ``serialize()`` turns it into
bytes (which needs the extra ``jaxmodels[export]``) and `jax.export.deserialize` turns those back. It runs
without jaxmodels: arguments and results are nested dicts of arrays (see `pack`).

    prefill(params, request, cache) -> carry        carry["output"], carry["cache"], ...
    decode(params, request, carry, steps) -> carry  at most `steps` further steps
    generate(params, request, cache) -> {"output": ..., "cache": ...}

Branches that depend on the platform are resolved when an artefact is called, not when it is made.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import serialization
from jax import export

from jaxmodels.decoding import driver
from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.tpu_configs.programs import (
    PROGRAMS,
    Arguments,
    ProgramName,
    Workload,
    abstract_arguments,
)

PLATFORMS = ("cpu", "cuda", "tpu")


def pack(tree: Any) -> Any:
    """A request, cache or carry as nested dicts of plain arrays; random keys become their uint32 data."""

    def plain(leaf: Any) -> Any:
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        data = jax.random.key_data
        return jax.eval_shape(data, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else data(leaf)

    return serialization.to_state_dict(jax.tree.map(plain, tree))


def unpack(like: Any, packed: Any) -> Any:
    """The inverse of `pack`; `like` is a tree of the wanted type, abstract or not."""

    def typed(leaf: Any, wanted: Any) -> Any:
        is_key = jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(leaf) if is_key else leaf

    return jax.tree.map(typed, serialization.from_state_dict(like, packed), like)


def export_programs(
    config: LanguageModel,
    workload: Workload,
    *,
    strategy: Strategy | None = None,
    platforms: Sequence[str] = PLATFORMS,
    programs: Sequence[ProgramName] = PROGRAMS,
) -> dict[ProgramName, export.Exported]:
    """The programs of a model as one artefact each, for all of `platforms` at once.

    The cache and the carry are donated if the caller donates them:
    ``jax.jit(artefact.call, donate_argnums=2)``. The strategy's numbers are constants of the artefact.

    Raises:
        ValueError: an unknown platform or program, or no platform.
    """
    if unlisted := set(programs) - set(PROGRAMS):
        raise ValueError(f"programs: got {sorted(unlisted)}; known are {', '.join(PROGRAMS)}")
    if not platforms or (unknown := set(platforms) - {*PLATFORMS, "rocm"}):
        got = sorted(unknown) if platforms else list(platforms)
        raise ValueError(f"platforms: got {got}; known are {', '.join(PLATFORMS)} and rocm")
    if strategy is None:
        strategy = default_strategy(config, workload.new_tokens)
    given = abstract_arguments(config, workload, strategy)
    params, request = given.params, pack(given.request)
    prefill, decode, generate = _plain_programs(config, workload.new_tokens, strategy, given)
    arguments: dict[ProgramName, tuple[Any, ...]] = {
        "prefill": (prefill, params, request, pack(given.cache)),
        "decode": (decode, params, request, pack(given.carry), given.steps),
        "generate": (generate, params, request, pack(given.cache)),
    }
    return {
        name: export.export(jax.jit(function, donate_argnums=2), platforms=list(platforms))(*abstract)
        for name, (function, *abstract) in ((name, arguments[name]) for name in programs)
    }


def _plain_programs(
    config: LanguageModel, max_new: int, strategy: Strategy, like: Arguments
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """The driver's programs between nested dicts."""

    def prefill(params: Any, request: Any, cache: Any) -> Any:
        request, cache = unpack(like.request, request), unpack(like.cache, cache)
        return pack(driver.start(params, request, cache, strategy, config=config, max_new=max_new))

    def decode(params: Any, request: Any, carry: Any, steps: Any) -> Any:
        request, carry = unpack(like.request, request), unpack(like.carry, carry)
        return pack(driver.advance(params, request, carry, strategy, steps, config=config))

    def generate(params: Any, request: Any, cache: Any) -> Any:
        request, cache = unpack(like.request, request), unpack(like.cache, cache)
        output, cache = driver.generate(params, request, cache, strategy, config=config, max_new=max_new)
        return {"output": pack(output), "cache": pack(cache)}

    return prefill, decode, generate
