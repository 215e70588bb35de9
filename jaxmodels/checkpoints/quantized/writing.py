"""Models whose weights are held in few bits, written as compressed-tensors; see `compressed_tensors`.

Matrices ``[F, D]`` are written as they are held: whole numbers "pack-quantized", FP8 "float-quantized", MXFP4
"mxfp4-pack-quantized". All else is written in the model's dtype: embeddings and heads, which libraries expect
so, and weights that a checkpoint stores in another form, such as stacks of experts in one tensor.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.quantized.packed import WORD_BITS
from jaxmodels.checkpoints.safetensors_io import TensorToWrite
from jaxmodels.layers.quantized.array import QuantizedArray, bits_of, dequantized, spread
from jaxmodels.models.family import Tensor

_WEIGHT = ".weight"
_WHOLE = {"num_bits": 8, "type": "int", "format": "pack-quantized"}
# By the dtype of the numbers, how compressed-tensors calls them.
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "int8": _WHOLE,
    "int4": {**_WHOLE, "num_bits": 4},
    "float8_e4m3fn": {**_WHOLE, "type": "float", "format": "float-quantized"},
    "float4_e2m1fn": {"num_bits": 4, "type": "float", "format": "mxfp4-pack-quantized"},
}


@dataclass(frozen=True)
class Compressed:
    """A tensor that is written as numbers and scales.

    Attributes:
        tensor: of the family's table.
        numbers: the dtype of its numbers.
        scales: [F, G], exponents or in the dtype of the model.
    """

    tensor: Tensor
    numbers: str
    scales: np.ndarray

    @property
    def module(self) -> str:
        return self.tensor.name.removesuffix(_WEIGHT)

    @property
    def group_size(self) -> int | None:
        """Inputs that share a scale, None where all of an output do."""
        groups = self.scales.shape[1]
        return None if groups == 1 else self.tensor.shape[1] // groups

    def to_write(self, leaves: Mapping[str, Any]) -> Iterator[TensorToWrite]:
        """The tensors of the checkpoint; numbers are made when their turn comes."""
        rows, columns = self.tensor.shape
        name, bits = self.tensor.name, bits_of(self.numbers)

        def numbers() -> np.ndarray:
            return self.tensor.export(_map_quantized(leaves, self.tensor, _numbers))

        def write(suffix: str, shape: tuple[int, ...], dtype: Any, read: Callable[[], np.ndarray]) -> Any:
            return TensorToWrite(name=name + suffix, shape=shape, dtype=np.dtype(dtype), read=read)

        yield write("_scale", self.scales.shape, self.scales.dtype, lambda: self.scales)
        if self.numbers == "float8_e4m3fn":
            yield write("", (rows, columns), jnp.float8_e4m3fn, lambda: numbers().astype(jnp.float8_e4m3fn))
        elif self.numbers == "float4_e2m1fn":
            yield write("_packed", (rows, columns // 2), np.uint8, lambda: packed_halves(numbers()))
        else:
            words = -(-columns * bits // WORD_BITS)
            yield write("_packed", (rows, words), np.int32, lambda: packed_words(numbers(), bits))
            yield write("_shape", (2,), np.int64, lambda: np.asarray([rows, columns], np.int64))


def compressed(tensors: Iterable[Tensor], leaves: Mapping[str, Any]) -> list[Compressed]:
    """Those of a family's tensors that can be written as they are held."""
    return [found for tensor in tensors if (found := _compressed(tensor, leaves)) is not None]


def settings(written: Iterable[Compressed]) -> dict[str, Any]:
    """The ``quantization_config`` of a checkpoint with these tensors."""
    modules: dict[tuple[str, int | None], list[str]] = {}
    for one in written:
        modules.setdefault((one.numbers, one.group_size), []).append(one.module)
    groups = {}
    for i, ((numbers, size), names) in enumerate(modules.items()):
        kind = dict(_KINDS[numbers])
        form = kind.pop("format")
        blocks = {"strategy": "channel"} if size is None else {"strategy": "group", "group_size": size}
        weights = {**kind, **blocks, "symmetric": True, "dynamic": False}
        groups[f"group_{i}"] = {"targets": names, "weights": weights, "format": form}
    forms = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": forms.pop() if len(forms) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [],
    }


def as_arrays(leaves: Mapping[str, Any], tensor: Tensor) -> dict[str, Any]:
    """The parameters in a tensor, as the arrays that they stand for."""
    return _map_quantized(leaves, tensor, dequantized)


def packed_words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers [F, D], ``2 ** (bits - 1)`` added, in words of 32 bits from the lowest bits on."""
    per_word = WORD_BITS // bits
    shifted = (numbers.astype(np.int32) + 2 ** (bits - 1)).astype(np.uint32)
    padded = np.pad(shifted, ((0, 0), (0, -numbers.shape[1] % per_word)))
    places = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    parts = padded.reshape(len(numbers), -1, per_word) << places
    return np.bitwise_or.reduce(parts, axis=-1).view(np.int32)


def packed_halves(numbers: np.ndarray) -> np.ndarray:
    """Numbers of E2M1 [F, D] two to a byte, the first in the lower half."""
    codes = numbers.astype(jnp.float4_e2m1fn).view(np.uint8)
    return np.ascontiguousarray(codes[:, ::2] | codes[:, 1::2] << 4)


def _compressed(tensor: Tensor, leaves: Mapping[str, Any]) -> Compressed | None:
    parts = [leaves[part.row.ours] for part in tensor.parts]
    is_table = any(part.param.axes[0] == "vocab" for part in tensor.parts)
    if is_table or len(tensor.shape) != 2 or not tensor.name.endswith(_WEIGHT):
        return None
    if not all(isinstance(part, QuantizedArray) for part in parts):
        return None
    kinds = {(part.numbers.dtype.name, part.scales.dtype, part.dtype) for part in parts}
    if len(kinds) != 1:
        return None
    ((numbers, scale_dtype, dtype),) = kinds
    scale_dtype = scale_dtype if scale_dtype == np.uint8 else dtype
    spread_out = tensor.export(_map_quantized(leaves, tensor, functools.partial(_scales, dtype=scale_dtype)))
    counts = {_groups(part, leaf) for part, leaf in zip(tensor.parts, parts, strict=True)}
    blocks = spread_out.reshape(tensor.shape[0], counts.pop(), -1)
    if counts or not (blocks == blocks[..., :1]).all():
        return None
    return Compressed(tensor, numbers, np.ascontiguousarray(blocks[..., 0]))


def _groups(part: Any, leaf: QuantizedArray) -> int:
    """How many scales an output has."""
    axes = part.param.contracted
    return int(np.prod([leaf.scales.shape[axis] for axis in axes]))


def _map_quantized(leaves: Mapping[str, Any], tensor: Tensor, change: Callable[[Any], Any]) -> dict[str, Any]:
    """The parameters in a tensor, quantised ones changed."""
    found = {part.row.ours: leaves[part.row.ours] for part in tensor.parts}
    return {path: change(leaf) if isinstance(leaf, QuantizedArray) else leaf for path, leaf in found.items()}


def _numbers(leaf: QuantizedArray) -> np.ndarray:
    """The numbers in a dtype of whole bytes that holds them exactly."""
    whole = jnp.issubdtype(leaf.numbers.dtype, jnp.integer)
    return np.asarray(leaf.numbers.astype(jnp.int8 if whole else jnp.float32))


def _scales(leaf: QuantizedArray, dtype: Any) -> np.ndarray:
    """Each number's scale."""
    return np.broadcast_to(np.asarray(spread(leaf.scales, leaf.shape)), leaf.shape).astype(dtype)
