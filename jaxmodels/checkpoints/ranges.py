"""Whether numbers are finite, and survive a cast to a dtype of smaller range."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.layers.quantized.array import QuantizedArray, dequantized
from jaxmodels.layers.spec import Params, walk


def is_narrower(stored: DTypeLike, wanted: DTypeLike) -> bool:
    """Whether a dtype has larger exponents than the other, as bfloat16 has than float16."""
    return int(jnp.finfo(stored).maxexp) > int(jnp.finfo(wanted).maxexp)


def check_range(name: str, tensor: Any, dtype: DTypeLike) -> None:
    """Raises `CheckpointError` if finite numbers of a tensor become infinite as `dtype`.

    It costs a pass over the tensor where `dtype` has smaller exponents, and nothing elsewhere.
    """
    if not is_narrower(tensor.dtype, dtype):
        return
    is_wide = tensor.dtype == np.float64  # which JAX would narrow before it looks
    beyond, largest = (_beyond if is_wide else _beyond_on_device)(tensor, np.dtype(dtype))
    if int(beyond):
        raise CheckpointError(
            f"tensor {name!r} holds {int(beyond)} numbers of up to {float(largest):g}, which are infinite as "
            f"{np.dtype(dtype).name} (at most {float(jnp.finfo(dtype).max):g}); take "
            "dtype='bfloat16' or 'float32'"
        )


def check_infinities(params: Params, dtype: DTypeLike) -> None:
    """Raises `CheckpointError` if parameters that were cast to `dtype` while they were read are infinite.

    It costs a pass over them where `dtype` has smaller exponents than float32, and nothing elsewhere.
    """
    if not is_narrower(np.float32, dtype):
        return
    for path, leaf in walk(params):
        if leaf.dtype == np.dtype(dtype) and bool(jnp.isinf(leaf).any()):
            raise CheckpointError(
                f"parameter {path!r} holds numbers that are infinite as {np.dtype(dtype).name}; load it with "
                "dtype='bfloat16' or 'float32'"
            )


def warn_of_non_finite(params: Params) -> None:
    """Warns where parameters are NaN or infinite; names the first of them. It costs a pass over all."""
    floats = {path: leaf for path, leaf in walk(params) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    # One after another: on CPU, programs of several devices that run at the same time can block each other.
    counts = {path: int(_count_non_finite(leaf)) for path, leaf in floats.items()}
    bad = {path: count for path, count in counts.items() if count}
    if bad:
        path = next(iter(bad))
        warnings.warn(
            f"{sum(bad.values())} numbers of {len(bad)} parameters are NaN or infinite, {bad[path]} of them "
            f"in {path!r}; they are saved as they are, and a model with them computes no usable logits",
            stacklevel=3,
        )


@jax.jit
def _count_non_finite(leaf: jax.Array | QuantizedArray) -> jax.Array:
    return (~jnp.isfinite(dequantized(leaf))).sum()


def _beyond(tensor: Any, dtype: np.dtype) -> tuple[Any, Any]:
    """How many finite numbers become infinite, and the largest size of a finite number."""
    finite = abs(tensor) < float("inf")
    count = (finite & ~(abs(tensor.astype(dtype)) < float("inf"))).sum()
    return count, abs(tensor).max(initial=0, where=finite)


_beyond_on_device = functools.partial(jax.jit, static_argnames=("dtype",))(_beyond)
