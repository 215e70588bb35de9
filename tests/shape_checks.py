"""Checks the shapes and dtypes that functions of `jaxmodels.layers` declare, wherever a test calls them.

Other annotations are mypy's business: to compare a value with a Protocol, say, would call its properties.
Fields of dataclasses are left alone as well, since trees hold anything while JAX maps over them. What
declares no arrays is left as it is: jaxtyping's own import hook wraps it too, a sixth of the suite's time.
"""

import ast
import importlib.machinery
import sys
import types
import typing

import beartype
import jaxtyping

PACKAGE = "jaxmodels.layers"
# Not in a module's source, since the decorator must be found without an import there.
_DECORATOR = "__shape_checked__"


def install() -> None:
    """Has the modules of `jaxmodels.layers` checked that are imported from now on."""
    sys.meta_path.insert(0, _Finder)


def shape_checked(function):
    """The function with the arrays that it takes and gives checked at every call; itself if none are."""
    if not any(map(_holds_arrays, function.__annotations__.values())):
        return function
    return jaxtyping.jaxtyped(function, typechecker=_checked)


def _checked(function):
    hints = function.__annotations__
    function.__annotations__ = {
        name: _of_any_library(hint) for name, hint in hints.items() if _holds_arrays(hint)
    }
    try:
        return beartype.beartype(function)
    finally:
        function.__annotations__ = hints


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname != PACKAGE and not fullname.startswith(PACKAGE + "."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        path = self.get_filename(fullname)
        tree = _Decorated().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module):
        setattr(module, _DECORATOR, shape_checked)
        super().exec_module(module)


class _Decorated(ast.NodeTransformer):
    """Decorates functions, nearer to them than any other decorator."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.decorator_list.append(ast.Name(_DECORATOR, ast.Load()))
        return node


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
