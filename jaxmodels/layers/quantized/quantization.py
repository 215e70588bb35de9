"""Which weights of a model are held in which format, and holding them in it."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.checks import shown
from jaxmodels.layers.memory_order import ordered_params
from jaxmodels.layers.quantized.array import QuantizedArray, dequantized, factors, held_bytes, spread
from jaxmodels.layers.quantized.blocks import inputs_of, largest, scale_shape
from jaxmodels.layers.quantized.float8 import Float8
from jaxmodels.layers.quantized.format import NumberFormat
from jaxmodels.layers.quantized.integers import Integers
from jaxmodels.layers.quantized.mxfp4 import Mxfp4
from jaxmodels.layers.quantized.packed import PackedStack
from jaxmodels.layers.spec import Param, Params, ParamTree, param_dtype, unflatten, walk


class HasSpec(Protocol):
    """A model or layer, as far as its parameters go."""

    def spec(self) -> ParamTree: ...


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The formats of a model's weights. What is no matrix of a product stays as it is: norms, biases,
    convolutions, decays, and the routers of mixtures.

    Attributes:
        matrices: of what layers multiply with; None, here and below, leaves them as they are.
        experts: of stacks of experts.
        tables: of embeddings and heads, which have a row for each token.
    """

    matrices: NumberFormat | None
    experts: NumberFormat | None
    tables: NumberFormat | None

    def format_of(self, param: Param) -> NumberFormat | None:
        """The format of a parameter, None where it is not quantised."""
        if not param.contracted:
            return None
        return {"vocab": self.tables, "experts": self.experts}.get(str(param.axes[0]), self.matrices)


_GROUPS = (128, 64, 32, 16)
_INT8, _INT4, _INT4_CHANNEL = Integers(bits=8), Integers(bits=4, groups=_GROUPS), Integers(bits=4)
_FP8, _MXFP4 = Float8(), Mxfp4()
# By the names that they are asked for by. Tables in four bits would cost more than they save. The experts
# alone in MXFP4 are what gpt-oss is published as.
QUANTIZATIONS: Mapping[str, Quantization] = {
    "int8": Quantization(matrices=_INT8, experts=_INT8, tables=_INT8),
    "int4": Quantization(matrices=_INT4, experts=_INT4, tables=_INT8),
    "int4-channel": Quantization(matrices=_INT4_CHANNEL, experts=_INT4_CHANNEL, tables=_INT8),
    "fp8": Quantization(matrices=_FP8, experts=_FP8, tables=_FP8),
    "mxfp4": Quantization(matrices=_MXFP4, experts=_MXFP4, tables=_INT8),
    "mxfp4-experts": Quantization(matrices=None, experts=_MXFP4, tables=None),
}


def find_quantization(given: "str | Quantization | None") -> Quantization | None:
    """The quantisation of a name, or the one given.

    Raises:
        ValueError: there is none of this name.
    """
    if given is None or isinstance(given, Quantization):
        return given
    if not isinstance(given, str) or given not in QUANTIZATIONS:
        raise ValueError(
            f"quantize must be one of {list(QUANTIZATIONS)} or a jaxmodels.layers.quantized Quantization, "
            f"got {shown(given)}"
        )
    return QUANTIZATIONS[given]


def formats(spec: ParamTree, quantization: Quantization) -> dict[str, NumberFormat]:
    """The format of each parameter that is quantised, by its path.

    Raises:
        ValueError: a weight that the format cannot hold, which is named, or a model without any.
    """
    found: dict[str, NumberFormat] = {}
    for path, param in walk(spec):
        chosen = quantization.format_of(param)
        if chosen is not None:
            if scale_shape(param.shape, param.contracted, chosen.groups) is None:
                raise _misfit(path, param, chosen)
            found[path] = chosen
    if not found:
        raise ValueError(
            "quantize: the model has none of the weights that would be held in few bits; leave it out"
        )
    return found


def quantized_params(spec: ParamTree, params: Params, quantization: Quantization) -> Params:
    """The parameters with the weights that `quantization` names in its formats.

    Raises:
        ValueError: see `formats`; or a weight is quantised already.
    """
    chosen, specs = formats(spec, quantization), dict(walk(spec))
    return unflatten(
        {
            path: quantized(path, specs[path], leaf, chosen[path]) if path in chosen else leaf
            for path, leaf in walk(params)
        },
        spec,
    )


def in_few_bits(config: HasSpec, params: Params, quantization: str | Quantization) -> Params:
    """The parameters of a model with its weights in few bits.

    Raises:
        ValueError: there is no quantisation of this name; see also `quantized_params`.
    """
    chosen = find_quantization(quantization)
    if chosen is None:
        raise ValueError("quantization must be a name such as 'int8' or a Quantization, got None")
    spec = config.spec()
    return ordered_params(spec, quantized_params(spec, params, chosen))


def quantized(
    path: str, param: Param, w: Any, form: NumberFormat, dtype: DTypeLike | None = None
) -> QuantizedArray:
    """A weight in a format: each block's scale from its largest magnitude, numbers rounded to the nearest.

    `dtype` is that of the array that it then stands for, the weight's own by default.

    Raises:
        ValueError: it is quantised already.
    """
    if isinstance(w, QuantizedArray):
        raise ValueError(
            f"parameter {path!r} is held as {w.numbers.dtype} already; quantise a model that is not"
        )
    blocks = scale_shape(param.shape, param.contracted, form.groups)
    if blocks is None:
        raise _misfit(path, param, form)
    return _quantized(w, blocks, form, np.dtype(jnp.dtype(w.dtype if dtype is None else dtype)))


def dequantized_params(params: Params, dtype: DTypeLike | None = None) -> Params:
    """The parameters with the arrays that quantised weights stand for, in `dtype` or in theirs."""
    return unflatten({path: dequantized(leaf, dtype) for path, leaf in walk(params)}, params)


def is_quantized(params: Params) -> bool:
    """Whether a weight is held in few bits."""
    return any(isinstance(leaf, QuantizedArray | PackedStack) for _, leaf in walk(params))


def refuse_quantized(params: Params, what: str) -> None:
    """Raises ValueError, with the parameter named, where a weight is quantised: `what` needs arrays."""
    for path, leaf in walk(params):
        if isinstance(leaf, QuantizedArray):
            raise ValueError(
                f"{what}: parameter {path!r} is held as {leaf.numbers.dtype}; load the model without "
                "quantize, or take what its method dequantized() gives"
            )


def param_bytes(path: str, param: Param, dtype: DTypeLike, chosen: Mapping[str, NumberFormat]) -> int:
    """Bytes of a parameter of a model in `dtype` whose quantised weights have the formats `chosen`."""
    held = param_dtype(param, dtype)
    form = chosen.get(path)
    blocks = None if form is None else scale_shape(param.shape, param.contracted, form.groups)
    if form is None or blocks is None:
        return math.prod(param.shape) * held.itemsize
    return held_bytes(param.shape, form.numbers) + held_bytes(blocks, form.factors)


@functools.partial(jax.jit, static_argnames=("blocks", "form", "dtype"))
def _quantized(
    w: Float[Array, "*shape"], blocks: tuple[int, ...], form: NumberFormat, dtype: np.dtype
) -> QuantizedArray:
    wide = w.astype(jnp.float32)
    scales = form.scales(largest(wide, blocks))
    numbers = form.rounded(wide / spread(factors(scales), w.shape))
    return QuantizedArray(numbers, scales, dtype)


def _misfit(path: str, param: Param, form: NumberFormat) -> ValueError:
    groups = " or ".join(map(str, form.groups))
    return ValueError(
        f"quantize: parameter {path!r} {list(param.shape)} cannot be held as {form.name} in groups of "
        f"{groups} inputs: its {inputs_of(param.shape, param.contracted)} inputs are no multiple; use one "
        "scale per output, as 'int8' and 'int4-channel' do"
    )
