"""The experts of mixtures in the memory of the host: which parameters they are, and which models can have
them there."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxmodels.checks import shown
from jaxmodels.layers.host_memory import MEMORY_KIND
from jaxmodels.layers.moe.dispatch import Dropless
from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.spec import walk
from jaxmodels.models.costs import Specified

ExpertMemory = Literal["device", "host"]


def check_expert_memory(experts: Any) -> ExpertMemory:
    """`experts` as it was given.

    Raises:
        ValueError: it is no memory, or the default device reads no memory of the host by itself.
    """
    if experts not in ("device", "host"):
        raise ValueError(f"experts must be 'device' or 'host', got {shown(experts)}")
    if experts == "host":
        kinds = [memory.kind for memory in _default_device().addressable_memories()]
        if MEMORY_KIND not in kinds:
            raise ValueError(
                f"experts='host': {jax.default_backend()} has no {MEMORY_KIND} memory, only "
                f"{', '.join(kinds)}; leave it out"
            )
    return "host" if experts == "host" else "device"


def expert_paths(config: Specified) -> frozenset[str]:
    """The weights of all experts, by path: what takes part in a step only where a token chose it.

    Raises:
        ValueError: the model has none, or a layer computes with all of its experts at once; the message
            names the layer.
    """
    paths = [path for path, param in walk(config.spec()) if param.axes[0] == "experts" and param.contracted]
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


def host_sharding() -> Sharding:
    """The host memory that the default device reads by itself."""
    # Of a single-device sharding JAX does not always note the memory in the type of an array.
    mesh = Mesh(np.array([_default_device()]), ("device",))
    return NamedSharding(mesh, PartitionSpec(), memory_kind=MEMORY_KIND)


def device_sharding() -> Sharding:
    """The default device's own memory."""
    return SingleDeviceSharding(_default_device())


def _default_device() -> jax.Device:
    (device,) = jnp.zeros(()).devices()
    return device
