"""Checkpoints whose weights are stored in MXFP4, read as if they were bfloat16.

MXFP4 (OCP Microscaling Formats 1.0) stores blocks of 32 numbers: each in four bits, one of sign, two of
exponent, one of mantissa, and an eight-bit exponent that they share. In a checkpoint of gpt-oss a weight
``[E, D, F]`` is two tensors of bytes: ``<name>_blocks`` [E, F, D/32, 16], the lower half of a byte first, and
``<name>_scales`` [E, F, D/32]. Every such number is a bfloat16, so nothing is lost. Models are always saved
unquantised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, UInt8

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorInfo, TensorReader, missing_tensor_message
from jaxmodels.models.hf_config import ConfigError

KEY = "quantization_config"
_BLOCKS, _SCALES = "_blocks", "_scales"
_BLOCK_SIZE = 32
_SCALE_BIAS = 127


def without_quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the key that says how weights are stored.

    Raises:
        ConfigError: they are stored in a way that is not read.
    """
    quantization = values.get(KEY)
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        if method != "mxfp4":
            raise ConfigError(
                f"key {KEY!r}: quant_method {method!r} is not read; use a checkpoint that is not "
                "quantised, or one in 'mxfp4'"
            )
    return {key: value for key, value in values.items() if key != KEY}


def dequantized(tensors: TensorReader) -> TensorReader:
    """The same tensors, with one of bfloat16 in place of each pair of blocks and scales.

    Raises:
        CheckpointError: blocks without scales or the other way round, or shapes that do not fit each other.
    """
    pairs: dict[str, tuple[str, str]] = {}
    infos: dict[str, TensorInfo] = {}
    for name, info in tensors.infos.items():
        if info.dtype != "uint8" or not name.endswith((_BLOCKS, _SCALES)):
            infos[name] = info
            continue
        whole = name.removesuffix(_BLOCKS).removesuffix(_SCALES)
        if whole not in pairs:
            pairs[whole] = (whole + _BLOCKS, whole + _SCALES)
            infos[whole] = _whole(tensors.infos, whole)
    return Dequantized(tensors, infos, pairs) if pairs else tensors


@dataclass(frozen=True)
class Dequantized:
    """A `TensorReader` made by `dequantized`; `pairs` names the blocks and scales of some of its tensors."""

    stored: TensorReader
    infos: Mapping[str, TensorInfo]
    pairs: Mapping[str, tuple[str, str]]

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`; see `TensorReader`."""
        if name not in self.pairs:
            return self.stored.read(name)
        blocks, scales = (self.stored.read(part) for part in self.pairs[name])
        whole = np.empty(self.infos[name].shape, jnp.bfloat16)
        for expert in range(len(whole)):  # one at a time bounds the memory
            whole[expert] = from_mxfp4(blocks[expert], scales[expert]).T
        return whole


@jax.jit
def from_mxfp4(blocks: UInt8[Array, "F C 16"], scales: UInt8[Array, "F C"]) -> BFloat16[Array, "F D"]:
    """The numbers of blocks, ``D = 32 * C`` in a row."""
    codes = jnp.stack([blocks & 0xF, blocks >> 4], axis=-1).reshape(*scales.shape, _BLOCK_SIZE)
    exponent, mantissa = (codes >> 1) & 0b11, codes & 1
    # In halves: 0 and 1 for an exponent of 0, else (2 + mantissa) * 2 ** (exponent - 1).
    halves = jnp.where(exponent == 0, mantissa, (2 + mantissa) << jnp.maximum(exponent, 1) - 1)
    numbers = jnp.where(codes >> 3 == 1, -1.0, 1.0) * halves.astype(jnp.float32)
    scaled = jnp.ldexp(numbers, scales[..., None].astype(jnp.int32) - (_SCALE_BIAS + 1))
    return scaled.astype(jnp.bfloat16).reshape(scales.shape[0], -1)


def _whole(infos: Mapping[str, TensorInfo], name: str) -> TensorInfo:
    """What stands in place of a pair."""
    for part in (name + _BLOCKS, name + _SCALES):
        if part not in infos:
            raise CheckpointError(missing_tensor_message(part, infos))
    blocks, scales = infos[name + _BLOCKS], infos[name + _SCALES]
    if len(scales.shape) != 3 or blocks.shape != (*scales.shape, _BLOCK_SIZE // 2):
        raise CheckpointError(
            f"{blocks.file}: tensor {blocks.name!r} has shape {list(blocks.shape)} and {scales.name!r} "
            f"{list(scales.shape)}; expected [E, F, C, {_BLOCK_SIZE // 2}] and [E, F, C]"
        )
    experts, rows, count = scales.shape
    return TensorInfo(
        name=name, shape=(experts, count * _BLOCK_SIZE, rows), dtype="bfloat16", file=blocks.file
    )
