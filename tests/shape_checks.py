"""Checks the shapes and dtypes that functions of `jaxmodels.layers` declare, wherever a test calls them.

Other annotations are mypy's business: to compare a value with a Protocol, say, would call its properties.
Fields of dataclasses are left alone as well, since trees hold anything while JAX maps over them.
"""

import types
import typing

import beartype
import jaxtyping


def install() -> None:
    """Has the modules of `jaxmodels.layers` checked that are imported from now on."""
    jaxtyping.install_import_hook("jaxmodels.layers", "shape_checks.checked")


def checked(function):
    """The function with the arrays that it takes and gives checked at every call."""
    hints = function.__annotations__
    arrays = {name: _of_any_library(hint) for name, hint in hints.items() if _holds_arrays(hint)}
    if function.__name__ == "__init__" or not arrays:
        return function
    function.__annotations__ = arrays
    try:
        return beartype.beartype(function)
    finally:
        function.__annotations__ = hints


def _is_array(hint) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def _holds_arrays(hint) -> bool:
    return _is_array(hint) or any(map(_holds_arrays, typing.get_args(hint)))


def _of_any_library(hint):
    """The annotation for NumPy's arrays too, which tests hand over in place of JAX's."""
    if _is_array(hint):
        return hint.dtype[typing.Any, hint.dim_str]
    inside = tuple(map(_of_any_library, typing.get_args(hint)))
    if not inside:
        return hint
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.Union[inside] if union else typing.get_origin(hint)[inside]  # noqa: UP007
