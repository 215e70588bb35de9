"""Parameters, requests, caches and loop states as nested dicts of plain arrays, which need no class of this
package."""

from typing import Any

import jax

from jaxmodels import struct
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

    return _dicts(jax.tree.map(plain, tree))


def unpack(like: Any, packed: Any) -> Any:
    """The inverse of `pack`; `like` is a tree of the wanted type, abstract or not.

    Raises:
        ValueError: a dict has other keys than there.
    """

    def typed(leaf: Any, wanted: Any) -> Any:
        is_key = jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(leaf) if is_key else leaf

    return jax.tree.map(typed, _as_in(like, packed), like)


def _parts(node: Any) -> dict[str, Any] | None:
    """What a part of a tree consists of, by name; None of an array and what else has no parts."""
    if isinstance(node, QuantizedArray):
        return {"numbers": node.numbers, "scales": node.scales}
    if isinstance(node, dict):
        return node
    if isinstance(node, list | tuple):
        names = getattr(node, "_fields", map(str, range(len(node))))
        return dict(zip(names, node, strict=True))
    fields = struct.data_fields(type(node))
    return None if fields is None else {name: getattr(node, name) for name in fields}


def _dicts(node: Any) -> Any:
    parts = _parts(node)
    return node if parts is None else {name: _dicts(part) for name, part in parts.items()}


def _as_in(like: Any, packed: Any) -> Any:
    """What `_dicts` made of a tree such as `like`, as it was."""
    wanted = _parts(like)
    if wanted is None:
        return packed
    if packed.keys() != wanted.keys():
        raise ValueError(f"a packed {type(like).__name__} has {sorted(wanted)}, got {sorted(packed)}")
    parts = {name: _as_in(part, packed[name]) for name, part in wanted.items()}
    if isinstance(like, QuantizedArray):
        return QuantizedArray(parts["numbers"], parts["scales"], like.dtype)
    if isinstance(like, dict):
        return parts
    if isinstance(like, list | tuple):
        return type(like)(*parts.values()) if hasattr(like, "_fields") else type(like)(parts.values())
    return like.replace(**parts)
