"""How many bytes of a kind of array a compiled decode loop writes per step, read from the compiled program.

Every instruction of the loop's body that makes an array as large as one of the given shapes counts with what
it writes: all of it, or the update where it writes a part of its operand in place. Loops inside count as
often as they run, and those whose number of turns is data as often as the caller says.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

WRITES_NOTHING = {
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "opt-barrier", "after-all", "while",
    "conditional", "call", "partition-id",
}  # fmt: skip
IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}
SHAPE = re.compile(r"[a-z]+(\d+)\w*\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation. rest: operands and attributes as they are printed."""

    is_root: bool
    name: str
    shape: str
    opcode: str
    rest: str

    def called(self, attribute: str) -> str | None:
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.rest)
        return found and found[1]

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.split("), ")[0])

    def turns(self) -> int | None:
        """How often a loop runs, where the compiler knows."""
        found = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', self.rest)
        return int(found[1]) if found else None


def computations(hlo: str) -> tuple[str, Mapping[str, list[Instruction]]]:
    """The name of the entry and the instructions of all computations."""
    found: dict[str, list[Instruction]] = {}
    entry, inside = "", ""
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "(" in line:
            header = line.removeprefix("ENTRY ").lstrip("%")
            inside = re.split(r"[ (]", header)[0]
            entry = inside if line.startswith("ENTRY") else entry
            found[inside] = []
        elif (match := INSTRUCTION.match(line)) and inside:
            found[inside].append(Instruction(bool(match[1]), *match.groups()[1:]))
    return entry, found


def arrays(shape: str) -> Iterator[tuple[tuple[int, ...], int]]:
    """Dimensions and bytes of each array of a printed shape."""
    for bits, sizes in SHAPE.findall(shape):
        dimensions = tuple(int(size) for size in sizes.split(",") if size)
        yield dimensions, math.prod(dimensions) * int(bits) // 8


def bytes_written(hlo: str, shapes: set[tuple[int, ...]], turns: float) -> float:
    """Bytes of arrays of as many entries as one of `shapes` that a step of the program's outer loop writes.

    Args:
        turns: of each inner loop whose number of turns is data, in the mean of the steps.
    """
    entry, found = computations(hlo)
    wanted = {math.prod(shape) for shape in shapes}

    def of_fusion(instruction: Instruction) -> float:
        body = found[instruction.called("calls") or ""]
        by_name = {one.name: one for one in body}
        root = next(one for one in body if one.is_root)
        written = [by_name[name] for name in root.operands()] if root.opcode == "tuple" else [root]
        return sum(of_result(one, by_name) for one in written)

    def of_result(instruction: Instruction, names: Mapping[str, Instruction]) -> float:
        while instruction.opcode == "bitcast":
            instruction = names[instruction.operands()[0]]
        if instruction.opcode == "parameter":
            return 0.0
        if instruction.opcode in IN_PLACE and any(
            math.prod(d) in wanted for d, _ in arrays(instruction.shape)
        ):
            update = names[instruction.operands()[IN_PLACE[instruction.opcode]]]
            return sum(size for _, size in arrays(update.shape))
        return sum(size for dims, size in arrays(instruction.shape) if math.prod(dims) in wanted)

    def of_computation(name: str, is_step: bool) -> float:
        total = 0.0
        names = {one.name: one for one in found[name]}
        for one in found[name]:
            if one.opcode == "while":
                times = 1.0 if not is_step else one.turns() or turns
                total += times * of_computation(one.called("body") or "", True)
            elif one.opcode == "call":
                total += of_computation(one.called("to_apply") or "", is_step)
            elif is_step and one.opcode == "fusion":
                total += of_fusion(one)
            elif is_step and one.opcode not in WRITES_NOTHING:
                total += of_result(one, names)
        return total

    return of_computation(entry, False)
