"""Where the parameters and caches of a model lie on a mesh, from their logical axes alone.

Meshes of real devices, of the devices that a TPU topology describes, and `jax.sharding.AbstractMesh` all do.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding
from jax.typing import DTypeLike

from jaxmodels.layers.host_memory import MEMORY_KIND, in_host_memory
from jaxmodels.layers.memory_order import ordered, place_of
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.spec import Buffer, Param, Params, ParamTree, param_dtype, unflatten, walk
from jaxmodels.models.costs import Specified
from jaxmodels.tpu_configs.repeated_heads import Config, repeated_params, with_repeated_kv_heads
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules

AnyMesh: TypeAlias = Mesh | AbstractMesh


@runtime_checkable
class Describing(Protocol):
    """A model that describes its cache before it makes one."""

    def cache_spec(self, batch: int, capacity: int) -> Any:
        """What `init_cache` makes, with a `Buffer` in the place of each array."""


def param_shardings(config: Specified, mesh: AnyMesh, rules: Rules = DEFAULT_RULES) -> Params:
    """The sharding of each parameter of `config`, in the tree of its `spec()`.

    Raises:
        ValueError: a dimension that the mesh does not divide; the message names the parameter, the logical
            and the mesh axis, and both sizes.
    """
    spec = config.spec()
    return unflatten(
        {path: _sharding(f"parameter {path!r}", param, mesh, rules) for path, param in walk(spec)}, spec
    )


def cache_shardings(
    config: Any,
    mesh: AnyMesh,
    rules: Rules = DEFAULT_RULES,
    batch: int = 1,
    capacity: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> Any:
    """The sharding of each array of the cache that ``config.init_cache(batch, capacity, dtype)`` makes.

    The cache of a model that does not describe it is whole on every device.

    Raises:
        ValueError: as `param_shardings`, of the cache's arrays.
    """
    if not isinstance(config, Describing):
        cache = jax.eval_shape(functools.partial(config.init_cache, batch, capacity, dtype))
        return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), cache)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _sharding(f"the cache's {_readable(path)}", leaf, mesh, rules),
        config.cache_spec(batch, capacity),
    )


def bytes_per_device(leaves: Any, shardings: Any, dtype: DTypeLike) -> int:
    """Bytes on each device of a tree of `Param` or `Buffer`, cut as the tree of `shardings` says."""

    def size(leaf: Param | Buffer, sharding: NamedSharding) -> int:
        return math.prod(sharding.shard_shape(leaf.shape)) * param_dtype(leaf, dtype).itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, leaves, shardings)))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A mesh, and the rules by which models and their caches lie on it."""

    mesh: Mesh
    rules: Rules = DEFAULT_RULES

    @property
    def sizes(self) -> dict[str, int]:
        """Devices along each axis of the mesh."""
        return dict(self.mesh.shape)

    def fitted(self, config: Config) -> Config:
        """The model with heads that others share repeated until the mesh divides them; see
        `with_repeated_kv_heads`."""
        devices = math.prod(self.sizes[axis] for axis in self.rules.axes("kv_heads"))
        return with_repeated_kv_heads(config, devices)

    def params(self, config: Specified) -> Params:
        """See `param_shardings`."""
        return param_shardings(config, self.mesh, self.rules)

    def placed(self, config: Specified, params: Params) -> Params:
        """The parameters of `config`, in memory or on another mesh, as those of ``fitted(config)`` where they
        belong. Arrays that lie there already are shared."""
        wider = self.fitted(config)
        return self.put(wider, params if wider is config else repeated_params(config, wider, params))

    def put(self, config: Specified, params: Params) -> Params:
        """The parameters of `config` where they belong, no head repeated; those in host memory are there.

        Raises:
            ValueError: a parameter in host memory is not beside the devices that it belongs to.
        """
        places, specs = dict(walk(self.params(config))), dict(walk(config.spec()))
        for path, leaf in walk(params):
            _check_in_place(path, leaf, places[path])
        return unflatten(
            {path: ordered(specs[path], _placed(leaf, places[path])) for path, leaf in walk(params)}, params
        )

    def abstract(self, config: Specified, params: Params) -> Params:
        """Abstract parameters of `config` where they belong."""
        return abstract_at(config.spec(), params, self.params(config))

    def cache(self, config: Any, batch: int, capacity: int, dtype: DTypeLike) -> Any:
        """See `cache_shardings`."""
        return cache_shardings(config, self.mesh, self.rules, batch, capacity, dtype)

    def rows(self, batch: int) -> NamedSharding:
        """The sharding of what has one entry, or one array, for each row of a batch."""
        return NamedSharding(self.mesh, self.rules.partition("a batch", (batch,), ("batch",), self.sizes))

    def weight_bytes(self, config: Specified, dtype: DTypeLike) -> int:
        """Bytes of the parameters in the memory of one device, or of all that share this machine's."""
        return self._shared * bytes_per_device(config.spec(), self.params(config), dtype)

    def cache_bytes(self, config: Any, batch: int, capacity: int, dtype: DTypeLike) -> int:
        """The same of a cache; 0 for a model that does not describe it."""
        if not isinstance(config, Describing):
            return 0
        shardings = self.cache(config, batch, capacity, dtype)
        return self._shared * bytes_per_device(config.cache_spec(batch, capacity), shardings, dtype)

    @property
    def _shared(self) -> int:
        """How many devices of the mesh have one memory: on CPU all of the process's, elsewhere one."""
        return len(self.mesh.local_devices) if jax.default_backend() == "cpu" else 1


def abstract_at(spec: ParamTree, params: Params, places: Any) -> Params:
    """Abstract parameters where they lie, in the order in which they are held there.

    Args:
        spec: of which they are.
        params: their shapes and dtypes.
        places: a sharding for each, in the tree of `spec`, or one for all.
    """
    specs = dict(walk(spec))
    where = dict.fromkeys(specs, places) if isinstance(places, Sharding) else dict(walk(places))

    def placed(path: str, leaf: Any) -> Any:
        return jax.tree.map(
            lambda part, place: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=place),
            leaf,
            place_of(specs[path], sharding_of(leaf, where[path])),
        )

    return unflatten({path: placed(path, leaf) for path, leaf in walk(params)}, params)


def _placed(leaf: Any, sharding: NamedSharding) -> Any:
    return leaf if in_host_memory(leaf) else jax.device_put(leaf, sharding_of(leaf, sharding))


def _check_in_place(path: str, leaf: Any, sharding: NamedSharding) -> None:
    """Raises ValueError where a parameter lies in the host memory of other devices than it belongs to."""
    if not in_host_memory(leaf):
        return
    (rows,) = jax.tree.leaves(leaf)
    if not rows.sharding.is_equivalent_to(sharding.with_memory_kind(MEMORY_KIND), rows.ndim):
        raise ValueError(
            f"parameter {path!r} lies in host memory, and not beside the devices of this mesh; load the "
            "model with experts='host' and the mesh"
        )


def sharding_of(leaf: Any, sharding: Sharding) -> Any:
    """The sharding of a parameter whose numbers lie so; of a quantised one, those of both its parts."""
    if not isinstance(leaf, QuantizedArray):
        return sharding
    scales = sharding
    if isinstance(sharding, NamedSharding):
        parts = scale_partition(sharding.spec, leaf.scales.shape, dict(sharding.mesh.shape))
        scales = NamedSharding(sharding.mesh, parts)
    return QuantizedArray(sharding, scales, leaf.dtype)  # type: ignore[arg-type]


def scale_partition(
    numbers: PartitionSpec, blocks: tuple[int, ...], sizes: Mapping[str, int]
) -> PartitionSpec:
    """How the scales of a quantised weight, an array of shape `blocks`, are cut where its numbers are cut so:
    as those are, and whole along dimensions in which there are too few."""
    parts = []
    for count, part in zip(blocks, (*numbers, *(None,) * len(blocks)), strict=False):
        axes = (part,) if isinstance(part, str) else part or ()
        devices = math.prod(sizes[axis] for axis in axes)
        parts.append(None if count % devices else part)
    return PartitionSpec(*parts)


def _sharding(name: str, leaf: Param | Buffer, mesh: AnyMesh, rules: Rules) -> NamedSharding:
    return NamedSharding(mesh, rules.partition(name, leaf.shape, leaf.axes, dict(mesh.shape)))


def _readable(path: tuple[Any, ...]) -> str:
    """A place in a tree such as "layers/0/keys"."""
    parts = (
        getattr(key, "name", None) or getattr(key, "key", None) or getattr(key, "idx", "") for key in path
    )
    return "/".join(map(str, parts))
