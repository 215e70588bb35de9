"""bitsandbytes: four bits (NF4 and FP4, https://arxiv.org/abs/2305.14314) and eight (https://arxiv.org/abs/2208.07339).

Four bits: ``<name>`` holds the codes of a weight in row order, two to a byte, the upper half first;
``<name>.quant_map`` the 16 numbers that the codes stand for; ``<name>.absmax`` the factor of each block of
codes; and ``<name>.quant_state.bitsandbytes__nf4`` (or ``__fp4``) bytes of JSON with shape, dtype and block
size. Where the factors are quantised again, `absmax` holds codes of ``<name>.nested_quant_map``, whose
blocks have the factors ``<name>.nested_absmax``, and an offset from the JSON is added.

Eight bits: ``<name>.weight`` in int8, and ``<name>.SCB`` with the greatest magnitude of each row.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, UInt8

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.quantized.format import Arrays, Infos, StoredWeight, misfit, parts_of
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checks import number, shown, whole

_STATE = ".quant_state.bitsandbytes__"
_ROW_FACTORS = ".SCB"
_DTYPES = ("float32", "bfloat16", "float16")
# The library multiplies by this instead of dividing by 127.
_PER_127 = np.float32(7.874015718698502e-3)


@dataclass(frozen=True)
class BitsAndBytes:
    """A `Format`. dtype: that weights of eight bits are decoded to; those of four say it themselves."""

    dtype: str

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """See `Format`."""
        for name in tensors.infos:
            if _STATE in name:
                yield _four_bits(tensors, name)
            elif name.endswith(_ROW_FACTORS):
                yield self._eight_bits(tensors.infos, name.removesuffix(_ROW_FACTORS))

    def is_dropped(self, name: str) -> bool:
        """See `Format`."""
        return False

    def _eight_bits(self, infos: Infos, name: str) -> StoredWeight:
        needed = {"numbers": f"{name}.weight", "scales": f"{name}{_ROW_FACTORS}"}
        parts = parts_of(infos, needed, {"arrangement": f"{name}.weight_format"})
        shape = infos[parts["numbers"]].shape
        if len(shape) != 2 or infos[parts["scales"]].shape != shape[:1]:
            raise misfit(infos, parts, "[F, D] and [F]")

        def decode(arrays: Arrays) -> np.ndarray:
            if arrays.get("arrangement", np.zeros(())).any():
                raise CheckpointError(
                    f"{infos[parts['arrangement']].file}: {parts['arrangement']!r} says that the weight is "
                    "arranged for one kernel; expected 0, rows in order: save the model again with "
                    "bitsandbytes 0.45 or newer"
                )
            return np.asarray(from_int8(arrays["numbers"], arrays["scales"], self.dtype))

        return StoredWeight(
            name=parts["numbers"], shape=shape, dtype=self.dtype, tensors=parts, decode=decode
        )


def read_bitsandbytes(settings: Mapping[str, Any], dtype: str) -> BitsAndBytes:
    """The format for a ``quantization_config``; everything that matters to reading is in the tensors."""
    return BitsAndBytes(dtype)


@functools.partial(jax.jit, static_argnames=("dtype",))
def from_int8(numbers: Int8[Array, "F D"], greatest: Float[Array, "F"], dtype: str) -> Float[Array, "F D"]:
    """Rows whose greatest magnitude is stored as 127."""
    return (numbers.astype(jnp.float32) * greatest[:, None] * _PER_127).astype(dtype)


@functools.partial(jax.jit, static_argnames=("shape", "block", "dtype"))
def from_codes(
    codes: UInt8[Array, " count"],
    meanings: Float[Array, " codes"],
    factors: Float[Array, " blocks"],
    shape: tuple[int, ...],
    block: int,
    dtype: str,
) -> Float[Array, "..."]:
    """The numbers that codes stand for, each times the factor of its block; codes beyond `shape` are fill."""
    count = math.prod(shape)
    numbers = jnp.pad(meanings[codes[:count]], (0, factors.size * block - count)).reshape(-1, block)
    return (numbers * factors[:, None]).reshape(-1)[:count].reshape(shape).astype(dtype)


@functools.partial(jax.jit, static_argnames=("shape", "block", "dtype"))
def from_nibbles(
    packed: UInt8[Array, " count/2"],
    meanings: Float[Array, "16"],
    factors: Float[Array, " blocks"],
    shape: tuple[int, ...],
    block: int,
    dtype: str,
) -> Float[Array, "..."]:
    """`from_codes` of two codes to a byte, the upper half first."""
    codes = jnp.stack([packed >> 4, packed & 0xF], axis=-1).reshape(-1)
    return from_codes(codes, meanings, factors, shape, block, dtype)


@dataclass(frozen=True)
class _State:
    """What the bytes of JSON say of a weight of four bits. nested_block: None where factors are floats."""

    shape: tuple[int, ...]
    dtype: str
    block: int
    nested_block: int | None
    offset: float

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def _four_bits(tensors: TensorReader, state_name: str) -> StoredWeight:
    infos = tensors.infos
    name = state_name.partition(_STATE)[0]
    state = _read_state(tensors, state_name)
    needed = {"codes": name, "meanings": f"{name}.quant_map", "factors": f"{name}.absmax"}
    if state.nested_block is not None:
        needed |= {
            "nested_meanings": f"{name}.nested_quant_map",
            "nested_factors": f"{name}.nested_absmax",
        }
    parts = parts_of(infos, needed, {})
    blocks = -(-state.count // state.block)
    stored = math.prod(infos[name].shape) * np.dtype(infos[name].dtype).itemsize
    sizes = {"meanings": 16, "factors": blocks}
    if state.nested_block is not None:
        sizes |= {"nested_meanings": 256, "nested_factors": -(-blocks // state.nested_block)}
    if stored < -(-state.count // 2) or any(infos[parts[role]].shape != (n,) for role, n in sizes.items()):
        raise misfit(infos, parts, f"two codes to a byte for {list(state.shape)}, then {sizes}")

    def decode(arrays: Arrays) -> np.ndarray:
        factors = arrays["factors"]
        if state.nested_block is not None:
            nested = (arrays["nested_meanings"], arrays["nested_factors"])
            factors = from_codes(factors, *nested, (blocks,), state.nested_block, "float32")
            factors = factors + np.float32(state.offset)
        packed = arrays["codes"].reshape(-1).view(np.uint8)
        return np.asarray(
            from_nibbles(packed, arrays["meanings"], factors, state.shape, state.block, state.dtype)
        )

    return StoredWeight(
        name=name, shape=state.shape, dtype=state.dtype, tensors={**parts, "state": state_name}, decode=decode
    )


def _read_state(tensors: TensorReader, name: str) -> _State:
    """Raises CheckpointError where the bytes are not the JSON object that the library writes."""
    try:
        values = json.loads(tensors.read(name).tobytes())
        nested = values.get("nested_blocksize")
        if values["dtype"] not in _DTYPES:
            raise ValueError(f"dtype must be one of {_DTYPES}, got {shown(values['dtype'])}")
        return _State(
            shape=tuple(whole("shape", size, low=1) for size in values["shape"]),
            dtype=values["dtype"],
            block=whole("blocksize", values["blocksize"], low=1),
            nested_block=None if nested is None else whole("nested_blocksize", nested, low=1),
            offset=number("nested_offset", values.get("nested_offset", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{tensors.infos[name].file}: tensor {name!r} must hold the JSON that bitsandbytes writes: "
            f"{type(error).__name__}: {error}"
        ) from error
