"""Programs traced for devices that need not be there, with the place of every argument and result."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxmodels.decoding import driver, runners
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.expert_memory import abstract_in_host
from jaxmodels.layers.quantized.quantization import Quantization
from jaxmodels.layers.spec import Params, ParamTree, unflatten, walk
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments
from jaxmodels.tpu_configs.shardings import Placement, abstract_at


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a model's arrays are.

    Attributes:
        params, cache: one sharding for each array, or one for all.
        others: of everything else, which is small: the request, the output, a strategy's own state.
        hosted: the parameters, by path, that are in the memory of the host beside these devices.
        mesh: that the programs are traced for, None for one device.
    """

    params: Any
    cache: Any
    others: Sharding
    hosted: frozenset[str] = frozenset()
    mesh: Mesh | None = None


def on_device(device: jax.Device) -> Places:
    """All arrays on one device."""
    sharding = SingleDeviceSharding(device)
    return Places(params=sharding, cache=sharding, others=sharding)


def on_mesh(placement: Placement, config: Any, workload: Workload, capacity: int) -> Places:
    """Parameters and cache cut as `placement` says, of the `config` that it has fitted; all else is whole on
    each device.

    Raises:
        ValueError: the mesh does not divide the model.
    """
    return Places(
        params=placement.params(config),
        cache=placement.cache(config, workload.batch, capacity, workload.dtype),
        others=NamedSharding(placement.mesh, PartitionSpec()),
        mesh=placement.mesh,
    )


def program_traces(
    config: LanguageModel,
    workload: Workload,
    strategy: Strategy,
    places: Places,
    quantization: Quantization | None = None,
) -> dict[str, Callable[[], jax.stages.Traced]]:
    """What traces each program of `Runner`, by name; `workload` has a capacity.

    Raises:
        ValueError: a weight that the quantisation cannot hold.
    """
    batch, max_new, capacity = workload.batch, workload.new_tokens, workload.capacity or 0
    given = abstract_arguments(config, workload, strategy, quantization=quantization)
    params = placed_params(config.spec(), given.params, places)
    cache = _placed(given.cache, places.cache)
    request, steps = _placed(given.request, places.others), _placed(given.steps, places.others)
    carry = given.carry
    if places.hosted:  # of which a part may be carried
        carry = jax.eval_shape(
            lambda *arrays: driver.start(*arrays, strategy, config=config, max_new=max_new),
            params, given.request, given.cache,
        )  # fmt: skip
    carry_places = _carry_places(carry, given.cache, places)
    carry = _placed(carry, carry_places)

    def prefill(params: Any, request: Any, cache: Any, strategy: Any) -> Any:
        return driver.start(params, request, cache, strategy, config=config, max_new=max_new)

    def decode(params: Any, request: Any, carry: Any, strategy: Any, steps: Any) -> Any:
        return driver.advance(params, request, carry, strategy, steps, config=config)

    def generate(params: Any, request: Any, cache: Any, strategy: Any) -> Any:
        return driver.generate(params, request, cache, strategy, config=config, max_new=max_new)

    def allocate() -> Any:
        return driver.allocate(
            config=config, batch=batch, capacity=capacity, dtype=workload.dtype, placement=None
        )

    def keys(seed: Any) -> Any:
        return runners.row_keys(seed, batch=batch)

    def traced(function: Callable[..., Any], results: Any, *arguments: Any) -> Callable[[], Any]:
        # The state of a loop is given away to the next call, wherever there is one among the arguments.
        donated = (2,) if len(arguments) > 2 else ()
        jitted = jax.jit(function, out_shardings=results, donate_argnums=donated)
        return functools.partial(_trace, jitted, arguments, places.mesh)

    return {
        "prefill": traced(prefill, carry_places, params, request, cache, strategy),
        "decode": traced(decode, carry_places, params, request, carry, strategy, steps),
        "generate": traced(generate, (places.others, places.cache), params, request, cache, strategy),
        "allocate": traced(allocate, places.cache),
        "keys": traced(keys, places.others, _placed(jax.ShapeDtypeStruct((), jnp.int32), places.others)),
    }


def placed_params(spec: ParamTree, params: Params, places: Places) -> Params:
    """Abstract parameters of `spec` where they lie, in the order in which they are held there."""
    of, where = dict(walk(params)), places.params
    where = dict.fromkeys(of, where) if isinstance(where, Sharding) else dict(walk(where))
    on_devices = dict(walk(abstract_at(spec, params, places.params)))
    in_host = {path: abstract_in_host(of[path], where[path]) for path in places.hosted}
    return unflatten(on_devices | in_host, params)


def _carry_places(carry: Any, cache: Any, places: Places) -> Any:
    """A sharding for each array of a strategy's loop state: those of the cache in it are where that is."""
    leaves, structure = jax.tree.flatten(carry)
    numbered = jax.tree.unflatten(structure, range(len(leaves))).cache
    found = [places.others] * len(leaves)
    kept: Any = jax.tree.structure(numbered)
    if kept == jax.tree.structure(cache):
        spread = places.cache
        if isinstance(spread, Sharding):
            spread = jax.tree.map(lambda leaf: places.cache, cache)
        for number, place in zip(jax.tree.leaves(numbered), jax.tree.leaves(spread), strict=True):
            found[number] = place
    return jax.tree.unflatten(structure, found)


def _trace(jitted: Any, arguments: tuple[Any, ...], mesh: Mesh | None) -> jax.stages.Traced:
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        traced: jax.stages.Traced = jitted.trace(*arguments)
        return traced


def _placed(tree: Any, places: Any) -> Any:
    """Abstract arrays with a sharding each; `places` is a tree of them, or one for all."""
    if isinstance(places, Sharding):
        places = jax.tree.map(lambda leaf: places, tree)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places
    )
