"""How a model's parameters are held once they are read: on which devices, in which of their memories, and in
how many bits."""

import functools
from dataclasses import dataclass

import jax
import numpy as np
from jax.typing import DTypeLike

from jaxmodels.checkpoints.huggingface import Held
from jaxmodels.expert_memory import ExpertMemory, device_sharding, expert_paths, host_sharding
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.format import NumberFormat
from jaxmodels.layers.quantized.quantization import (
    Quantization,
    formats,
    is_quantized,
    param_bytes,
    quantized,
    quantized_params,
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
        experts: the memory of the weights of experts; that of the host goes with neither of the others.
    """

    placement: Placement | None = None
    quantization: Quantization | None = None
    experts: ExpertMemory = "device"

    def shardings(self, config: Specified) -> Params | None:
        """Where each parameter is read to, None for the default device.

        Raises:
            ValueError: a mesh that does not divide the model, or experts that cannot be in host memory.
        """
        if self.placement is not None:
            return self.placement.params(config)
        hosted = self._hosted(config)
        if not hosted:
            return None
        spec = config.spec()
        return unflatten(
            {path: host_sharding() if path in hosted else device_sharding() for path, _ in walk(spec)}, spec
        )

    def made_of(self, config: Specified, dtype: DTypeLike) -> Held | None:
        """What makes of weights in float32 what is held of them in a model of `dtype`; None for arrays.

        Raises:
            ValueError: a weight that the quantisation cannot hold; the message names it.
        """
        if self.quantization is None:
            return None
        chosen, spec = formats(config.spec(), self.quantization), dict(walk(config.spec()))
        return {
            path: functools.partial(_held, path, spec[path], form, param_dtype(spec[path], dtype))
            for path, form in chosen.items()
        }

    def params(self, config: Specified, params: Params) -> Params:
        """Parameters that were read whole, as they are held; those that are held so already stay."""
        if self.quantization is None or is_quantized(params):
            return params
        return quantized_params(config.spec(), params, self.quantization)

    def weight_bytes(self, config: Specified, dtype: DTypeLike) -> int:
        """Bytes of the parameters in the memory of one device, or of all that share this machine's; of
        quantised ones on a mesh as if all were cut alike."""
        if self.experts == "host" and jax.default_backend() != "cpu":  # whose memory that is too
            hosted = self._hosted(config)
            return sum(
                param_bytes(path, param, dtype, {})
                for path, param in walk(config.spec())
                if path not in hosted
            )
        whole = weight_bytes(config, dtype)
        here = whole if self.placement is None else self.placement.weight_bytes(config, dtype)
        if self.quantization is None:
            return here
        chosen = formats(config.spec(), self.quantization)
        few = sum(param_bytes(path, param, dtype, chosen) for path, param in walk(config.spec()))
        return here * few // whole

    def _hosted(self, config: Specified) -> frozenset[str]:
        """The parameters in host memory, by path."""
        return expert_paths(config) if self.experts == "host" else frozenset()


def _held(path: str, param: Param, form: NumberFormat, dtype: np.dtype, w: jax.Array) -> QuantizedArray:
    return quantized(path, param, w, form, dtype)
