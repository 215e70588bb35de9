"""Checkpoints whose weights are stored in few bits, read as if they were bfloat16.

Two formats, of which each weight is a pair of tensors:

MXFP4 (OCP Microscaling Formats 1.0; the experts of gpt-oss): blocks of 32 numbers, each in four bits, one of
sign, two of exponent, one of mantissa, and an eight-bit exponent that they share. A weight ``[E, D, F]`` is
the bytes ``<name>_blocks`` [E, F, D/32, 16], the lower half of a byte first, and ``<name>_scales``
[E, F, D/32]. Every such number is a bfloat16, so nothing is lost.

FP8 in blocks (DeepSeek-V3, https://arxiv.org/abs/2412.19437, section 3.3; the FP8 checkpoints of Qwen3 and
others): ``<name>`` in float8, [F, D], and ``<name>_scale_inv``, a factor for each 128 x 128 of it.

Models are always saved unquantised.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float, UInt8

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorInfo, TensorReader, missing_tensor_message
from jaxmodels.models.hf_config import ConfigError

KEY = "quantization_config"
METHODS = ("mxfp4", "fp8")
FP8_BLOCK = 128
_BLOCKS, _SCALES, _FACTORS = "_blocks", "_scales", "_scale_inv"
_BLOCK_SIZE = 32
_SCALE_BIAS = 127

Infos: TypeAlias = Mapping[str, TensorInfo]


def is_quantized(values: Mapping[str, Any]) -> bool:
    """Whether a configuration says that weights are stored quantised."""
    return values.get(KEY) is not None


def without_quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the key that says how weights are stored.

    Raises:
        ConfigError: they are stored in a way that is not read.
    """
    quantization = values.get(KEY)
    if quantization is not None:
        known = quantization if isinstance(quantization, Mapping) else {"quant_method": quantization}
        method = known.get("quant_method")
        if method not in METHODS:
            raise ConfigError(
                f"key {KEY!r}: quant_method {method!r} is not read; use a checkpoint that is not quantised, "
                f"or by one of {METHODS}"
            )
        block = known.get("weight_block_size", [FP8_BLOCK, FP8_BLOCK])
        if method == "fp8" and list(block or ()) != [FP8_BLOCK, FP8_BLOCK]:
            raise ConfigError(
                f"key {KEY!r}: weight_block_size {block!r} is not read; expected {[FP8_BLOCK, FP8_BLOCK]}"
            )
    return {key: value for key, value in values.items() if key != KEY}


def dequantized(tensors: TensorReader) -> TensorReader:
    """The same tensors, with one of bfloat16 in place of each quantised pair.

    Raises:
        CheckpointError: one half of a pair without the other, or shapes that do not fit each other.
    """
    pairs: dict[str, Pair] = {}
    infos: dict[str, TensorInfo] = {}
    for name, info in tensors.infos.items():
        pair = _pair(name, info)
        if pair is None:
            infos[name] = info
        elif pair.name not in pairs:
            pairs[pair.name] = pair
            infos[pair.name] = _whole(tensors.infos, pair)
    return Dequantized(tensors, infos, pairs) if pairs else tensors


@dataclass(frozen=True)
class Pair:
    """Two tensors that hold one weight. shape: of the weight, from theirs. decode: the weight itself."""

    name: str
    numbers: str
    scales: str
    shape: Callable[[TensorInfo, TensorInfo], tuple[int, ...] | None]
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Dequantized:
    """A `TensorReader` made by `dequantized`; `pairs` are those of its tensors that are stored as such."""

    stored: TensorReader
    infos: Infos
    pairs: Mapping[str, Pair]

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`; see `TensorReader`."""
        pair = self.pairs.get(name)
        if pair is None:
            return self.stored.read(name)
        return pair.decode(self.stored.read(pair.numbers), self.stored.read(pair.scales))


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


@jax.jit
def from_fp8(numbers: Float[Array, "F D"], factors: Float[Array, "f d"]) -> BFloat16[Array, "F D"]:
    """The numbers times the factor of their block; blocks at the edges may be cut off."""
    rows, columns = numbers.shape
    spread = jnp.repeat(jnp.repeat(factors.astype(jnp.float32), FP8_BLOCK, axis=0), FP8_BLOCK, axis=1)
    return (numbers.astype(jnp.float32) * spread[:rows, :columns]).astype(jnp.bfloat16)


def _pair(name: str, info: TensorInfo) -> Pair | None:
    """The pair that a stored tensor is one half of, if it is."""
    if info.dtype == "uint8" and name.endswith((_BLOCKS, _SCALES)):
        whole = name.removesuffix(_BLOCKS).removesuffix(_SCALES)
        return Pair(whole, whole + _BLOCKS, whole + _SCALES, _mxfp4_shape, _decode_mxfp4)
    if info.dtype.startswith("float8_e4m3") or name.endswith(_FACTORS):
        whole = name.removesuffix(_FACTORS)
        return Pair(whole, whole, whole + _FACTORS, _fp8_shape, _decode_fp8)
    return None


def _whole(infos: Infos, pair: Pair) -> TensorInfo:
    """What stands in place of a pair."""
    for part in (pair.numbers, pair.scales):
        if part not in infos:
            raise CheckpointError(missing_tensor_message(part, infos))
    numbers, scales = infos[pair.numbers], infos[pair.scales]
    shape = pair.shape(numbers, scales)
    if shape is None:
        raise CheckpointError(
            f"{numbers.file}: tensor {numbers.name!r} has shape {list(numbers.shape)} and {scales.name!r} "
            f"{list(scales.shape)}, which do not fit each other; expected [E, F, C, {_BLOCK_SIZE // 2}] and "
            f"[E, F, C], or [F, D] and [F / {FP8_BLOCK}, D / {FP8_BLOCK}], rounded up"
        )
    return TensorInfo(name=pair.name, shape=shape, dtype="bfloat16", file=numbers.file)


def _mxfp4_shape(blocks: TensorInfo, scales: TensorInfo) -> tuple[int, ...] | None:
    if len(scales.shape) != 3 or blocks.shape != (*scales.shape, _BLOCK_SIZE // 2):
        return None
    experts, rows, count = scales.shape
    return experts, count * _BLOCK_SIZE, rows


def _decode_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    experts, rows, count = scales.shape
    whole = np.empty((experts, count * _BLOCK_SIZE, rows), jnp.bfloat16)
    for expert in range(experts):  # one at a time bounds the memory
        whole[expert] = from_mxfp4(blocks[expert], scales[expert]).T
    return whole


def _fp8_shape(numbers: TensorInfo, factors: TensorInfo) -> tuple[int, ...] | None:
    blocks = tuple(-(-size // FP8_BLOCK) for size in numbers.shape)
    return numbers.shape if len(numbers.shape) == 2 and factors.shape == blocks else None


def _decode_fp8(numbers: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return np.array(from_fp8(numbers, factors))
