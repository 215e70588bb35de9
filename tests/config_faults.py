"""Configurations with one fault each: a key dropped, doubled, of a wrong type or with a wrong value."""

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NESTED = ("linear_attn_config", "rope_parameters", "rope_scaling", "ssm_cfg", "text_config")
WRONG_TYPES = ("x", "", ["x"], [], {"x": 1}, {}, True, 1.5, [[1]], [None])
WRONG_NUMBERS = (
    0, -1, 1, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**15, 10**400, 0.0, -0.5, 1e-300, 1e300,
    float("nan"), float("inf"), -float("inf"),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A configuration of `name` with a fault at `path`, the keys from the outermost to the changed one."""

    name: str
    kind: str
    path: tuple[str, ...]
    values: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {'/'.join(self.path)}"


def faults(configurations: Mapping[str, Mapping[str, Any]], count: int, seed: int) -> Iterator[Fault]:
    """`count` faults, drawn from the configurations and from their keys alike."""
    draw, names = random.Random(seed), sorted(configurations)
    for _ in range(count):
        name = draw.choice(names)
        values = copy.deepcopy(dict(configurations[name]))
        path = draw.choice(list(_paths(values)))
        kind = draw.choice(("drop", "double", "wrong type", "wrong value"))
        holder = values
        for key in path[:-1]:
            holder = holder[key]
        _change(draw, kind, holder, path[-1])
        yield Fault(name, kind, path, values)


def _paths(values: dict[str, Any], within: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*within, key)
        if isinstance(value, dict) and key in NESTED:
            yield from _paths(value, (*within, key))


def _change(draw: random.Random, kind: str, holder: dict[str, Any], key: str) -> None:
    value = holder[key]
    if kind == "drop":
        del holder[key]
    elif kind == "double":
        holder[key] = (
            not value if isinstance(value, bool) else value * 2 if _doubles(value) else [value, value]
        )
    elif kind == "wrong type":
        holder[key] = draw.choice(WRONG_TYPES)
    elif isinstance(value, list) and value:
        changed = copy.deepcopy(value)
        changed[draw.randrange(len(changed))] = draw.choice((*WRONG_NUMBERS, *WRONG_TYPES))
        holder[key] = changed
    else:
        holder[key] = draw.choice(WRONG_NUMBERS)


def _doubles(value: Any) -> bool:
    return isinstance(value, int | float | str | list)
