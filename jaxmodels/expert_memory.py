"""The experts of mixtures in the memory of the host: which parameters they are, which models can have them
there, and how they come there."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxmodels.checks import shown
from jaxmodels.layers.host_memory import MEMORY_KIND, in_host_memory
from jaxmodels.layers.moe.dispatch import Dropless
from jaxmodels.layers.moe.kept_experts import FETCHED_EACH_TIME, HostExperts
from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.packed import PackedStack, packed
from jaxmodels.layers.spec import Param, Params, abstract_params, walk
from jaxmodels.models.block import AnticipatingBlock
from jaxmodels.models.costs import Specified

M = TypeVar("M")
ExpertMemory = Literal["device", "host"]


# The mesh axes that share experts, and the features of each, by the logical axes that they cut.
_SHARED_OVER = {"experts": ("expert",), "mlp": ("tensor",)}


def check_expert_memory(experts: Any, mesh: Mesh | None = None) -> ExpertMemory:
    """The memory that `experts` names.

    Raises:
        ValueError: it is no memory and no `HostExperts`; the devices, of the mesh or by default, read no
            memory of the host by themselves; or several of them would keep experts.
    """
    if not isinstance(experts, HostExperts) and experts not in ("device", "host"):
        raise ValueError(f"experts must be 'device', 'host' or a HostExperts, got {shown(experts)}")
    if isinstance(experts, HostExperts) and experts.kept and mesh is not None and mesh.size > 1:
        raise ValueError(
            f"experts={experts} with a mesh of {mesh.size} devices: experts are kept on a single device; "
            "give experts='host', or leave out the mesh"
        )
    if experts != "device":
        device = _default_device() if mesh is None else mesh.local_devices[0]
        kinds = [memory.kind for memory in device.addressable_memories()]
        if MEMORY_KIND not in kinds:
            raise ValueError(
                f"experts='host': {device.platform} has no {MEMORY_KIND} memory, only "
                f"{', '.join(kinds)}; leave it out"
            )
    return "device" if experts == "device" else "host"


def fetching(config: M, experts: ExpertMemory | HostExperts) -> M:
    """The model whose mixtures keep and fetch experts in host memory as `experts` says.

    Raises:
        ValueError: fewer are kept than one token chooses, or a block cannot fetch ahead; the message names
            the layer.
    """
    if not isinstance(experts, HostExperts) or not experts.kept:
        return config
    stack: Any = config
    for i, block in enumerate(stack.blocks):
        if isinstance(block.ffn, MoE):
            most = min(_slots_per_token(block.ffn), block.ffn.experts.num_experts)
            if experts.kept < most:
                raise ValueError(
                    f"experts={experts}: a token chooses up to {most} experts of 'blocks/{i}/ffn'; keep as "
                    "many at least, or give experts='host'"
                )
            if experts.ahead and not isinstance(block, AnticipatingBlock):
                raise ValueError(
                    f"experts={experts}: 'blocks/{i}' is a {type(block).__name__}, which cannot tell ahead "
                    "what its experts will be given; leave out ahead"
                )
    blocks = [
        replace(block, ffn=replace(block.ffn, in_host=experts)) if isinstance(block.ffn, MoE) else block
        for block in stack.blocks
    ]
    result: M = replace(stack, blocks=tuple(blocks))
    return result


def _slots_per_token(ffn: MoE) -> int:
    """The most experts that the router sends one token to."""
    token = jax.ShapeDtypeStruct((1, 1, ffn.d_model), jnp.float32)
    routing = jax.eval_shape(ffn.router, abstract_params(ffn.router.spec()), token)
    return int(routing.experts.shape[-1])


def told(config: Any, params: Params) -> str:
    """Where the experts of a model are, as --experts takes it; parameters may be abstract."""
    if not in_host_memory(params):
        return "device"
    ways = {b.ffn.in_host for b in getattr(config, "blocks", ()) if isinstance(b.ffn, MoE)}
    (way,) = ways or {FETCHED_EACH_TIME}
    return ",".join(["host", *(f"{name}={value}" for name, value in vars(way).items() if value)])


def expert_paths(config: Specified) -> frozenset[str]:
    """The weights of all experts, by path: what takes part in a step only where a token chose it.

    Raises:
        ValueError: the model has none, or a layer computes with all of its experts at once; the message
            names the layer.
    """
    paths = [path for path, param in walk(config.spec()) if param.is_expert_stack]
    if not paths:
        raise ValueError("experts='host': the model has no mixture of experts; leave it out")
    blocks: Any = getattr(config, "blocks", ())
    for path in paths:
        part, _, rest = path.partition("/")
        number, _, layer = rest.partition("/")
        ffn = blocks[int(number)].ffn if part == "blocks" and layer.startswith("ffn/") else None
        if not (isinstance(ffn, MoE) and isinstance(ffn.dispatch, Dropless)):
            way = f" with dispatch={ffn.dispatch}" if isinstance(ffn, MoE) else ""
            raise ValueError(
                f"experts='host': {path!r} belongs to a layer that computes with all of its experts at "
                f"once{way}; leave it out"
            )
    return frozenset(paths)


def device_sharding() -> Sharding:
    """The default device's own memory."""
    return SingleDeviceSharding(_default_device())


def host_sharding(place: Sharding) -> Sharding:
    """The host memory that each of these devices reads by itself, cut over them alike."""
    # Of a single-device sharding JAX does not always note the memory in the type of an array.
    if not isinstance(place, NamedSharding):
        (device,) = place.device_set
        place = NamedSharding(Mesh(np.array([device]), ("device",)), PartitionSpec())
    return place.with_memory_kind(MEMORY_KIND)


def check_cut(path: str, param: Param, place: Sharding) -> None:
    """Raises ValueError, with the parameter and the mesh axes named, where a mesh cuts experts otherwise than
    each device fetches its own: over "expert" by their number, over "tensor" by their inner features."""
    if not isinstance(place, NamedSharding):
        return
    for axis, logical in enumerate(param.axes):
        shared = _SHARED_OVER.get(str(logical), ())
        wanted = tuple(name for name in shared if place.mesh.shape.get(name, 1) > 1)
        if _cut(place, axis) != wanted:
            found, meant = (
                " and ".join(map(repr, names)) or "no axis" for names in (_cut(place, axis), wanted)
            )
            raise ValueError(
                f"experts='host' with a mesh: {logical!r} of parameter {path!r} is cut over {found} of the "
                f"mesh, and each device fetches its own experts where that is {meant}; use a mesh of data, "
                "expert and tensor, and rules that cut experts by default"
            )


def sharing_inputs(place: Sharding) -> int:
    """How many devices have parts of the inputs of one expert's matrix."""
    if not isinstance(place, NamedSharding):
        return 1
    return math.prod(place.mesh.shape[name] for name in _cut(place, 1))


def packed_in_host(w: QuantizedArray, place: Sharding) -> PackedStack:
    """A quantised stack, which lies so in the memory of devices, in that of their host: each device's part is
    one block for each expert."""
    made = _packing(place)(w)
    return replace(made, rows=jax.device_put(made.rows, host_sharding(place)))


def abstract_in_host(leaf: Any, place: Sharding) -> Any:
    """A weight of experts, abstract, that would lie so on devices: as it lies in the memory of their host."""
    if isinstance(leaf, QuantizedArray):
        leaf = jax.eval_shape(functools.partial(packed, blocks=sharing_inputs(place)), leaf)
    there = host_sharding(place)
    return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=there), leaf)


@functools.cache
def _packing(place: Sharding) -> Callable[[QuantizedArray], PackedStack]:
    made = functools.partial(packed, blocks=sharing_inputs(place))
    return jax.jit(made, out_shardings=place)


def _cut(place: NamedSharding, axis: int) -> tuple[str, ...]:
    """The mesh axes that a dimension is cut over."""
    names = place.spec[axis] if axis < len(place.spec) else None
    return (names,) if isinstance(names, str) else tuple(names or ())


def _default_device() -> jax.Device:
    (device,) = jnp.zeros(()).devices()
    return device
