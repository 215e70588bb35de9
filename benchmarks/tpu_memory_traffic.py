"""Bytes that a compiled TPU program moves to and from the memory outside the chip, from its text.

The compiler's own count of accessed bytes has three more things in it, so that it says little of what a step
waits for: what stays on the chip, a copy onto the chip as three times its size, and all experts of a grouped
product, of which the kernel reads those that have rows.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

BYTES = {"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8}
FOUR = 4  # of all other types
# Instructions that move nothing, or whose moving is told by the instruction that begins it.
STILL = frozenset(
    ("after-all", "bitcast", "constant", "copy-done", "get-tuple-element", "iota", "parameter", "slice-done",
     "tuple", "async-done", "async-update")
)  # fmt: skip
# Instructions that run others, and under which keys they name them. Of branches the costliest counts.
RUNS: Mapping[str, tuple[str, ...]] = {
    "while": ("body", "condition"),
    "call": ("to_apply",),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
}
# Through these a value is the same one.
SAME = frozenset(("bitcast", "reshape", "tuple"))
IN_PLACE = "dynamic-update-slice"
TOUCHES_A_PART = frozenset(("dynamic-slice", "gather", IN_PLACE))
GROUPED_PRODUCT = "%ragged-dot-none"


@dataclass(frozen=True)
class Array:
    """A result or an operand: its bytes, its dimensions, and whether it lies outside the chip."""

    size: int
    dimensions: tuple[int, ...]
    is_outside: bool

    @property
    def moved(self) -> int:
        return self.size if self.is_outside else 0


@dataclass(frozen=True)
class Instruction:
    """One line: its name, its results, what it does, its operands' names, and the line."""

    name: str
    results: tuple[Array, ...]
    does: str
    operands: tuple[str, ...]
    line: str

    def named(self, *keys: str) -> list[str]:
        """The computations that it names under these keys."""
        found = re.findall(rf"\b(?:{'|'.join(keys)})=(\{{[^}}]*\}}|%[\w.-]+)", self.line)
        return re.findall(r"%[\w.-]+", " ".join(found))


@dataclass(frozen=True)
class Program:
    """A compiled program's computations by name, each with its instructions by name.

    Attributes:
        computations: all of them.
        entry: the name of the first to run.
        chosen: for each number of experts in a stack, to how many a step sends its tokens.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str
    chosen: Mapping[int, int]

    @cached_property
    def traffic(self) -> float:
        """Bytes of one run, the body of each loop run once."""
        return self._of(self.entry)

    def _of(self, computation: str) -> float:
        instructions = self.computations[computation]
        return sum(self._moved(it, instructions) for it in instructions.values())

    def _moved(self, it: Instruction, around: Mapping[str, Instruction]) -> float:
        if it.does in STILL:
            return 0
        if it.does in RUNS:
            inner = [self._of(name) for name in it.named(*RUNS[it.does])]
            return max(inner) if it.does == "conditional" else sum(inner)
        operands = [array for name in it.operands for array in around[name].results]
        if it.does == "fusion":
            return self._of_fusion(it, operands)
        if it.does.endswith("-start"):
            made = it.results[0 if it.does == "copy-start" else len(operands)]
            return made.moved + (made.size if operands[0].is_outside else 0)
        if it.does in TOUCHES_A_PART:
            part = around[it.operands[1]].results[0] if it.does == IN_PLACE else it.results[0]
            return part.size * (operands[0].is_outside + it.results[0].is_outside)
        is_grouped = it.name.startswith(GROUPED_PRODUCT)
        read = sum(self._of_experts(array) if is_grouped else array.moved for array in operands)
        return read + sum(array.moved for array in it.results)

    def _of_experts(self, operand: Array) -> float:
        count = operand.dimensions[0] if len(operand.dimensions) == 3 else 1
        return operand.moved * self.chosen.get(count, count) / count

    def _of_fusion(self, it: Instruction, operands: list[Array]) -> float:
        """Of operands of which only a part is touched, and of results that are written in place, the part."""
        inside = self.computations[it.named("calls")[0]]
        parameters = sorted(
            (one for one in inside.values() if one.does == "parameter"),
            key=lambda one: int(one.line.rpartition("parameter(")[2].partition(")")[0]),
        )
        read = sum(
            min(array.size, _part_read(one.name, inside))
            for array, one in zip(operands, parameters, strict=True)
            if array.is_outside
        )
        root = next(one for one in inside.values() if "ROOT " in one.line)
        written = zip(it.results, _parts_written(root, inside), strict=True)
        return read + sum(min(array.size, part) for array, part in written if array.is_outside)


def _part_read(name: str, inside: Mapping[str, Instruction]) -> float:
    """Bytes of a fusion's parameter that it reads."""
    read = 0.0
    for one in inside.values():
        if name not in one.operands:
            continue
        if one.does in SAME:
            read += _part_read(one.name, inside)
        elif one.does in TOUCHES_A_PART and one.operands[0] == name:
            read += one.results[0].size if one.does != IN_PLACE else 0
        else:
            return math.inf
    return read


def _parts_written(one: Instruction, inside: Mapping[str, Instruction]) -> Iterator[float]:
    """Bytes of each of a fusion's results that it writes."""
    if one.does in SAME:
        for name in one.operands:
            yield from _parts_written(inside[name], inside)
    elif one.does == IN_PLACE:
        yield inside[one.operands[1]].results[0].size
    else:
        yield from (array.size for array in one.results)


def program_of(text: str, chosen: Mapping[int, int] | None = None) -> Program:
    """Reads a compiled program's text; see `Program`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, instructions = "", {}
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?(%[\w.-]+) .*->.*\{$", line):
            instructions = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif it := _instruction(line):
            instructions[it.name] = it
    return Program(computations, entry, chosen or {})


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s*(?:ROOT )?(%[\w.-]+) = (.+?) ([a-z][\w-]*)\(([^)]*)\)", line)
    if found is None:
        return None
    name, types, does, operands = found.groups()
    results = []
    for kind, dimensions, layout in re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", types):
        shape = tuple(int(one) for one in dimensions.split(",") if one)
        results.append(Array(BYTES.get(kind, FOUR) * math.prod(shape), shape, "S(" not in layout))
    return Instruction(name, tuple(results), does, tuple(re.findall(r"%[\w.-]+", operands)), line)
