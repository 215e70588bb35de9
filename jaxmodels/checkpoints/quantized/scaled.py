"""Weights in eight bits, each with scales that its numbers are multiplied by.

``<name>`` holds the numbers in float8 or int8, ``<name>_scale_inv`` or ``<name>_scale`` the scales: one for
the whole tensor, one per row (output channel), or one per block, where blocks at the edges may be cut off.
Whole numbers may have a zero point, ``<name>_zero_point``, shaped as the scales. So store:

- DeepSeek-V3 (https://arxiv.org/abs/2412.19437, section 3.3), Qwen3, MiniMax and others, ``quant_method:
  "fp8"``: blocks of `weight_block_size`, 128 x 128 most often;
- AutoFP8 of vLLM, also ``"fp8"``: one scale;
- FBGEMM, ``"fbgemm_fp8"`` (Llama 3.1 405B): one scale per row;
- compressed-tensors of llm-compressor and ModelOpt, whose settings are read beside this file.

Scales of activations and of caches are dropped: what is multiplied here is not rounded.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxmodels.checkpoints.quantized.format import Arrays, Infos, StoredWeight, misfit, parts_of
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checks import shown, whole
from jaxmodels.models.hf_config import ConfigError

# Rows and columns that share a scale.
Block: TypeAlias = tuple[int, int]

SCALE_SUFFIXES = ("_scale_inv", "_scale")
# Of activations and of key/value caches.
DROPPED_SUFFIXES = (
    "input_scale", "input_scale_ub", "input_zero_point", "activation_scale", "output_scale",
    "output_zero_point", "k_scale", "v_scale", "q_scale", "kv_scale", "k_zero_point", "v_zero_point",
)  # fmt: skip
_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Scaled:
    """A `Format`. blocks: shapes of the blocks that may share a scale. dtype: that weights are decoded to."""

    blocks: tuple[Block, ...]
    dtype: str

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """See `Format`."""
        infos = tensors.infos
        for name, info in infos.items():
            eight_bits = info.dtype.startswith("float8") or info.dtype == "int8"
            if eight_bits and not name.endswith((*SCALE_SUFFIXES, "_zero_point")):
                yield self._weight(infos, name)

    def is_dropped(self, name: str) -> bool:
        """See `Format`."""
        return name.endswith(DROPPED_SUFFIXES)

    def _weight(self, infos: Infos, name: str) -> StoredWeight:
        stored = [name + suffix for suffix in SCALE_SUFFIXES if name + suffix in infos]
        scales = stored[0] if stored else name + SCALE_SUFFIXES[len(self.blocks) == 0]
        parts = parts_of(infos, {"numbers": name, "scales": scales}, {"zeros": f"{name}_zero_point"})
        shape = infos[name].shape
        layout = _layout(shape, infos[scales].shape, self.blocks)
        if layout is None or ("zeros" in parts and infos[parts["zeros"]].shape != infos[scales].shape):
            blocks = "".join(f", or one per block of {list(block)}" for block in self.blocks)
            raise misfit(infos, parts, f"one scale, one per row{blocks}")

        def decode(arrays: Arrays) -> np.ndarray:
            scales = factors(arrays["scales"]).reshape(layout.grid)
            zeros = arrays["zeros"].astype(np.float32).reshape(layout.grid) if "zeros" in arrays else None
            return np.asarray(from_scaled(arrays["numbers"], scales, zeros, layout.repeats, self.dtype))

        return StoredWeight(name=name, shape=shape, dtype=self.dtype, tensors=parts, decode=decode)


def read_fp8(settings: Mapping[str, Any], dtype: str) -> Scaled:
    """The format for a ``quantization_config`` of DeepSeek-V3's or AutoFP8's kind.

    Raises:
        ConfigError: `weight_block_size` is not a pair of sizes.
    """
    block = settings.get("weight_block_size")
    return Scaled(() if block is None else (read_block("weight_block_size", block),), dtype)


def read_fbgemm(settings: Mapping[str, Any], dtype: str) -> Scaled:
    """The format for a ``quantization_config`` of FBGEMM's kind; `activation_scale_ub` concerns kernels."""
    return Scaled((), dtype)


def read_block(key: str, value: Any) -> Block:
    """A pair of sizes. Raises ConfigError for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"{key} must be a pair of sizes such as [128, 128], got {shown(value)}")
    rows, columns = (whole(key, size, low=1) for size in value)
    return rows, columns


def factors(scales: np.ndarray) -> np.ndarray:
    """Scales as float32. Those in uint8 are exponents of two (the E8M0 of OCP Microscaling)."""
    if scales.dtype == np.uint8:
        return np.ldexp(np.float32(1), scales.astype(np.int32) - _EXPONENT_BIAS)
    return scales.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("repeats", "dtype"))
def from_scaled(
    numbers: Shaped[Array, "*shape"],
    scales: Float[Array, "*grid"],
    zeros: Float[Array, "*grid"] | None,
    repeats: tuple[int, ...],
    dtype: str,
) -> Float[Array, "*shape"]:
    """``(numbers - zeros) * scales`` where each scale counts for `repeats` numbers along each axis."""

    def spread(grid: jax.Array) -> jax.Array:
        for axis, times in enumerate(repeats):
            grid = jnp.repeat(grid, times, axis=axis) if times > 1 else grid
        return grid[tuple(slice(size) for size in numbers.shape)]

    whole = numbers.astype(jnp.float32)
    centred = whole if zeros is None else whole - spread(zeros)
    return (centred * spread(scales)).astype(dtype)


@dataclass(frozen=True)
class _Layout:
    """How scales lie over numbers: their shape with the axes of the numbers, and how often each is repeated
    along an axis. An axis of length 1 is broadcast."""

    grid: tuple[int, ...]
    repeats: tuple[int, ...]


def _layout(shape: tuple[int, ...], scales: tuple[int, ...], blocks: tuple[Block, ...]) -> _Layout | None:
    """None where the shapes do not fit."""
    once = (1,) * len(shape)
    if all(size == 1 for size in scales):
        return _Layout(once, once)
    if len(scales) == 1:
        scales = (*scales, *once[1:])
    if len(scales) != len(shape):
        return None
    if all(there in (1, size) for size, there in zip(shape, scales, strict=True)):
        return _Layout(scales, once)
    for block in blocks:
        repeats = (*(1,) * (len(shape) - 2), *block)
        grid = tuple(-(-size // times) for size, times in zip(shape, repeats, strict=True))
        if grid == scales:
            return _Layout(scales, repeats)
    return None
