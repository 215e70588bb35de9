"""How a model's parameters are held once they are read: on which devices, in which of their memories, and in
how many bits."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from jaxmodels.checkpoints.huggingface import Held
from jaxmodels.expert_memory import (
    ExpertMemory,
    check_cut,
    device_sharding,
    expert_paths,
    host_sharding,
    packed_in_host,
    sharing_inputs,
)
from jaxmodels.layers.memory_order import ordered
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.blocks import scale_shape
from jaxmodels.layers.quantized.format import NumberFormat
from jaxmodels.layers.quantized.packed import PackedStack
from jaxmodels.layers.quantized.quantization import (
    Quantization,
    formats,
    is_quantized,
    param_bytes,
    quantized,
)
from jaxmodels.layers.spec import Param, Params, param_dtype, unflatten, walk
from jaxmodels.models.costs import Specified, weight_bytes
from jaxmodels.tpu_configs.shardings import Placement


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Where the parameters of a model lie, and in which formats.

    Attributes:
        placement: the mesh that they are spread over, None for one device.
        quantization: the formats of the weights, None for arrays.
        experts: the memory of the weights of experts; on a mesh that of each device, or of its host.
    """

    placement: Placement | None = None
    quantization: Quantization | None = None
    experts: ExpertMemory = "device"

    def shardings(self, config: Specified) -> Params | None:
        """Where each parameter is read to, None for the default device.

        Raises:
            ValueError: a mesh that does not divide the model, or experts that cannot be in host memory.
        """
        if self.placement is None and self.experts == "device":
            return None
        # What is read in order to be quantised comes to the host behind that.
        few = {} if self.quantization is None else formats(config.spec(), self.quantization)
        there = self.hosted(config) - few.keys()
        places = {
            path: host_sharding(place) if path in there else place
            for path, place in self._places(config).items()
        }
        return unflatten(places, config.spec())

    def hosted(self, config: Specified) -> frozenset[str]:
        """The parameters in host memory, by path.

        Raises:
            ValueError: the model has no experts that can be there, or the mesh cuts them otherwise than each
                device fetches its own.
        """
        if self.experts == "device":
            return frozenset()
        hosted, places, spec = expert_paths(config), self._places(config), dict(walk(config.spec()))
        for path in sorted(hosted):
            check_cut(path, spec[path], places[path])
        return hosted

    def made_of(self, config: Specified, dtype: DTypeLike | None = None) -> Held | None:
        """What makes of weights in float32 what is held of them in a model of `dtype`, or of weights in their
        own; None for arrays.

        Raises:
            ValueError: a weight that the quantisation cannot hold, or a mesh cannot share in host memory; the
                message names it.
        """
        if self.quantization is None:
            return None
        spec, hosted, made = dict(walk(config.spec())), self.hosted(config), dict[str, Any]()
        places = self._places(config) if hosted else {}
        for path, form in formats(config.spec(), self.quantization).items():
            held = None if dtype is None else param_dtype(spec[path], dtype)
            made[path] = functools.partial(_held, path, spec[path], form, held)
            if path in hosted:
                _check_shared(path, spec[path], form, sharing_inputs(places[path]))
                made[path] = functools.partial(_held_in_host, made[path], places[path])
        return made

    def params(self, config: Specified, params: Params) -> Params:
        """Parameters that were read whole, as they are held; those that are held so already stay."""
        made = None if is_quantized(params) else self.made_of(config)
        if made is None:
            return params
        held = {path: made[path](leaf) if path in made else leaf for path, leaf in walk(params)}
        return unflatten(held, params)

    def weight_bytes(self, config: Specified, dtype: DTypeLike) -> int:
        """Bytes of the parameters in the memory of one device, or of all that share this machine's; of
        quantised ones on a mesh as if all were cut alike."""
        whole = weight_bytes(config, dtype)
        here = whole if self.placement is None else self.placement.weight_bytes(config, dtype)
        chosen = {} if self.quantization is None else formats(config.spec(), self.quantization)
        elsewhere = self.hosted(config) if jax.default_backend() != "cpu" else ()  # whose memory that is too
        kept = sum(
            param_bytes(path, param, dtype, chosen)
            for path, param in walk(config.spec())
            if path not in elsewhere
        )
        return here * kept // whole

    def _places(self, config: Specified) -> dict[str, Sharding]:
        """The devices of each parameter."""
        if self.placement is None:
            return {path: device_sharding() for path, _ in walk(config.spec())}
        return dict(walk(self.placement.params(config)))


def _held(
    path: str, param: Param, form: NumberFormat, dtype: np.dtype | None, w: jax.Array
) -> QuantizedArray:
    return ordered(param, quantized(path, param, w, form, dtype))


def _held_in_host(make: Callable[[jax.Array], QuantizedArray], place: Sharding, w: jax.Array) -> PackedStack:
    return packed_in_host(make(w), place)


def _check_shared(path: str, param: Param, form: NumberFormat, devices: int) -> None:
    """Raises ValueError where devices would share the inputs of a group that has one scale."""
    blocks = scale_shape(param.shape, param.contracted, form.groups)
    groups = 1 if blocks is None else blocks[-2]
    if groups > 1 and groups % devices:
        raise ValueError(
            f"experts='host' with quantize and a mesh: parameter {path!r} has {groups} groups of inputs with "
            f"a scale each as {form.name}, which mesh axis 'tensor' of size {devices} does not divide "
            "evenly; choose another size, or one scale per output, as 'int8' and 'int4-channel' have"
        )
