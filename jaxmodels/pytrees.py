"""Dataclasses as pytrees whose structures compare by their class."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax


def register_dataclass(kind: type, data_fields: Sequence[str], meta_fields: Sequence[str]) -> None:
    """Makes a dataclass a pytree: `data_fields` hold its children, `meta_fields` what is static and hashable.

    The same contract as `jax.tree_util.register_dataclass`, which must not be used for policies: at least up
    to jaxlib 0.10.2, the structures of two dataclasses registered there are equal if they have as many fields
    and equal static ones, whatever their classes. Where their hashes then share a bucket, JAX's caches of
    compiled programs answer for one policy with the program of another. Classes of `flax.struct` are
    registered there too; they serve as states, which always reach a program beside the policy or
    configuration that they belong to.

    Raises:
        ValueError: The two lists together are not the fields of `kind`.
    """
    data, meta = tuple(data_fields), tuple(meta_fields)
    fields = sorted(field.name for field in dataclasses.fields(kind) if field.init)
    if sorted(data + meta) != fields:
        raise ValueError(f"{kind.__name__} has the fields {fields}, registered are {data + meta}")
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def values(made: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(getattr(made, name) for name in names)

    def flatten(made: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return values(made, data), values(made, meta)

    def flatten_with_keys(made: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        return tuple(zip(keys, values(made, data), strict=True)), values(made, meta)

    def unflatten(static: tuple[Any, ...], children: Iterable[Any]) -> Any:
        return kind(**dict(zip(meta, static, strict=True)), **dict(zip(data, children, strict=True)))

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
