"""Processors as pytrees: what the user gave outside of compiled programs, arrays inside."""

from collections.abc import Callable, Iterable
from typing import Any

import jax


def register(processor: type, field: str, to_arrays: Callable[[Any], Any] = lambda value: value) -> None:
    """Makes a dataclass of one field a pytree whose leaves are those of that field.

    A tuple goes through `to_arrays`, so that other tokens of the same number of slots compile nothing, while
    outside of compiled programs the field compares and prints as it was given. What JAX puts into the field
    is not checked as users' values are.
    """

    def flatten(made: Any) -> tuple[tuple[Any], None]:
        value = getattr(made, field)
        return (to_arrays(value) if type(value) is tuple else value,), None

    def unflatten(_: None, children: Iterable[Any]) -> Any:
        made: Any = object.__new__(processor)
        object.__setattr__(made, field, next(iter(children)))
        return made

    jax.tree_util.register_pytree_node(processor, flatten, unflatten)
