"""States as frozen dataclasses of arrays, which are pytrees.

What `flax.struct` has under the same names, without the import of a library of layers, which takes a tenth of
a start of the command line.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

_T = TypeVar("_T")
_STATIC = "static in a pytree"


def field(*, pytree_node: bool = True, **options: Any) -> Any:
    """A field as `dataclasses.field` makes it; without `pytree_node` it is hashable and part of a pytree's
    structure."""
    return dataclasses.field(metadata={_STATIC: not pytree_node}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(kind: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass and a pytree, with a method `replace(**fields)`.

    Its fields hold subtrees, but for those that `field` declares otherwise. Not for policies, for whose
    structures see `jaxmodels.pytrees.register_dataclass`.
    """
    made: Any = dataclasses.dataclass(frozen=True)(kind)
    fields = dataclasses.fields(made)
    static = [one.name for one in fields if one.metadata.get(_STATIC)]
    made._data_fields = tuple(one.name for one in fields if one.name not in static)
    made.replace = dataclasses.replace
    jax.tree_util.register_dataclass(made, made._data_fields, static)  # noqa: TID251 (of states)
    return kind


def data_fields(kind: type) -> tuple[str, ...] | None:
    """The fields of a class made by `dataclass` that hold subtrees; None of another class."""
    found: tuple[str, ...] | None = vars(kind).get("_data_fields")
    return found
