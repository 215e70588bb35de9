"""Layers and large numbers in a few words."""

import dataclasses
import string
from typing import Any

# Said once for the whole model, or derived from what is shown.
_HIDDEN_FIELDS = ("d_model", "dim", "eps", "axis")
# Parts of a layer that say much about it.
_SPELT_OUT = ("experts", "rope", "router", "shared")


def summarise(layer: Any) -> str:
    """A layer as its type and the settings that are not at their defaults."""
    parts = []
    for f in dataclasses.fields(layer):
        value = getattr(layer, f.name)
        if f.name in _HIDDEN_FIELDS or value == f.default:
            continue
        if not dataclasses.is_dataclass(value):
            parts.append(f"{f.name}={value:g}" if isinstance(value, float) else f"{f.name}={value}")
        elif f.name in _SPELT_OUT:
            parts.append(f"{f.name}={summarise(value)}")
        else:
            parts.append(f"{f.name}={type(value).__name__}")
    return f"{type(layer).__name__}({', '.join(parts)})"


def letter(index: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    times, rest = divmod(index, 26)
    return string.ascii_uppercase[rest] + (str(times) if times else "")


def scaled(value: float, unit: str) -> str:
    """Three significant digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000 or prefix == "T":
            digits = f"{value:.0f}" if value == int(value) and not prefix else f"{value:.3g}"
            return f"{digits} {prefix}{unit}"
        value /= 1000
    raise AssertionError("unreachable: the last prefix takes every value")


def print_lines(lines: list[tuple[str, str]]) -> None:
    """A table of names and what is said of each, without rules between them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    Console(highlight=False, markup=False).print(table)
