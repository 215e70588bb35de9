"""Parameters, requests, caches and loop states as nested dicts of plain arrays, which need no class of this
package."""

from typing import Any

import jax
from flax import serialization

from jaxmodels.layers.quantized.array import QuantizedArray


def pack(tree: Any) -> Any:
    """Parameters, a request, cache or carry as nested dicts of plain arrays.

    Random keys become their uint32 data, and a quantised weight its "numbers" and "scales".
    """

    def plain(leaf: Any) -> Any:
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        data = jax.random.key_data
        return jax.eval_shape(data, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else data(leaf)

    return serialization.to_state_dict(jax.tree.map(plain, tree))


def unpack(like: Any, packed: Any) -> Any:
    """The inverse of `pack`; `like` is a tree of the wanted type, abstract or not."""

    def typed(leaf: Any, wanted: Any) -> Any:
        is_key = jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(leaf) if is_key else leaf

    return jax.tree.map(typed, serialization.from_state_dict(like, packed), like)


def _parts(w: QuantizedArray) -> dict[str, Any]:
    return {"numbers": w.numbers, "scales": w.scales}


def _of_parts(like: QuantizedArray, parts: dict[str, Any]) -> QuantizedArray:
    return QuantizedArray(parts["numbers"], parts["scales"], like.dtype)


serialization.register_serialization_state(QuantizedArray, _parts, _of_parts)
