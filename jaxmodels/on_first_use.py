"""Packages whose names are imported when they are first asked for."""

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Collection[str]], *, packages: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` (PEP 562) of a package that imports what it names on first use.

    Every module that a start does not import makes it shorter.

    Args:
        package: its `__name__`.
        homes: modules below it, each with the names that the package has of it.
        packages: modules below it that are such names themselves.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next time it is found without asking
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of, *packages})

    return find, listed
