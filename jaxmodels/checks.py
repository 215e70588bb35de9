"""The one check of numbers that users, files and requests hand over: of their kind, finite and in range.

Python, NumPy and JAX numbers are treated alike. What a traced program hands over has no value yet and passes.
"""

import math
from typing import Any

import jax
import numpy as np

# The largest value of an int32, which is what counts and token ids become on the device.
MOST_INT32 = 2**31 - 1


def is_traced(value: object) -> bool:
    """Whether a value is known only inside a compiled program, or stands for such a value in a pytree."""
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct | jax.stages.ArgInfo):
        return True
    return type(value) is object  # what JAX rebuilds a pytree with to look at its structure


def is_whole(value: object) -> bool:
    """Whether a value is one integer: of Python, NumPy or JAX, and no bool."""
    if is_traced(value):
        return False
    scalar = _scalar(value)
    return isinstance(scalar, int) and not isinstance(scalar, bool)


def whole(name: str, value: Any, *, low: int = 0, high: int = MOST_INT32) -> int:
    """`value` as a Python integer: a Python, NumPy or JAX integer from `low` to `high`.

    Raises:
        ValueError: it is of another kind (a bool, a float, text, an array of several numbers) or out of
            range; the message names `name` and the value.
    """
    scalar = _scalar(value)
    if isinstance(scalar, bool) or not isinstance(scalar, int):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    if not low <= scalar <= high:
        raise ValueError(f"{name} must be a whole number {_range(low, high)}, got {shown(value)}")
    return scalar


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_included: bool = True,
) -> float:
    """`value` as a finite Python float: a Python, NumPy or JAX number from `low` (or above it) to `high`.

    Raises:
        ValueError: it is of another kind, NaN, infinite, beyond what a float holds, or out of range; the
            message names `name` and the value.
    """
    scalar = _scalar(value)
    if isinstance(scalar, bool) or not isinstance(scalar, int | float):
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    try:
        converted = float(scalar)
    except OverflowError:
        converted = math.inf
    too_low = converted < low if low_included else converted <= low
    if not math.isfinite(converted) or too_low or converted > high:
        bounds = _range(low, high, low_included)
        raise ValueError(
            f"{name} must be a finite number{' ' + bounds if bounds else ''}, got {shown(value)}"
        )
    return converted


def shown(value: object, most: int = 80) -> str:
    """A value's `repr` for a message, on one line, cut where it is long."""
    try:
        text = " ".join(line.strip() for line in repr(value).splitlines())
    except Exception:  # Python prints no integer of more than 4,300 digits; JAX no array given away
        long = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else None
        text = long or f"an object of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _scalar(value: Any) -> Any:
    """The Python number in a NumPy or JAX scalar; anything else as it is."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0 and not _is_key(value):
        value = np.asarray(value)
        if value.dtype.kind == "V" or value.dtype.name == "bfloat16":  # the small floats of ml_dtypes
            value = value.astype(np.float32)
        return value.item()
    return value


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _range(low: float, high: float, low_included: bool = True) -> str:
    parts, sign = [], ">=" if low_included else ">"
    if low != -math.inf:
        parts.append(f"{sign} {low:g}" if isinstance(low, float) else f"{sign} {low}")
    if high != math.inf:
        parts.append(f"<= {high:g}" if isinstance(high, float) else f"<= {high}")
    return " and ".join(parts)
