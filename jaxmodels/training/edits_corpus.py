"""A corpus of edits: a function of the standard library, what to rename in it, and the function renamed.

Continuing such a text is the everyday case of a model that repeats its prompt with small changes.

    python -m jaxmodels.training.edits_corpus runs/edits

writes ``train/`` and ``held-out/`` with a text file per edit, of the two halves of `stdlib_split`.
"""

import argparse
import ast
import builtins
import keyword
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.training.stdlib_corpus import stdlib_split

FEWEST_LINES, MOST_LINES, MOST_CHARACTERS = 4, 24, 900
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEPT = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"self", "cls"}


@dataclass(frozen=True)
class Edit:
    """A text that asks for an edit, and its answer.

    Attributes:
        prompt: the function, a comment that says what to rename, and the first line of the answer.
        answer: the rest of the renamed function.
    """

    prompt: str
    answer: str


def edits(files: Sequence[Path], seed: int = 0) -> Iterator[Edit]:
    """An edit of every function and method of a fitting length, in the order of the files."""
    chance = random.Random(seed)
    for path in files:
        for source in _functions(path):
            words = sorted(set(_WORD.findall(source)) - _KEPT)
            names = [word for word in words if len(word) > 2]
            if len(names) < 2:
                continue
            old, other = chance.sample(names, 2)
            new = chance.choice([f"{old}_{other}"[:24], f"new_{old}", f"{old}2", f"my_{old}", f"{old}_again"])
            renamed = re.sub(rf"\b{re.escape(old)}\b", new, source)
            first, rest = renamed.split("\n", 1)
            yield Edit(f"{source}\n\n\n# The same with {new} for {old}:\n{first}\n", f"{rest}\n")


def _functions(path: Path) -> Iterator[str]:
    """The sources of a file's functions and methods, without the indentation of their definition."""
    try:
        text = path.read_text("utf-8")
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # files that are there to be refused
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
            continue
        body = lines[node.lineno - 1 : node.end_lineno]
        source = "\n".join(line[node.col_offset :] for line in body)
        if FEWEST_LINES <= len(body) <= MOST_LINES and len(source) <= MOST_CHARACTERS:
            yield source


def write_edits(directory: Path, most: int) -> None:
    """Writes at most `most` edits of each half of the library, drawn at random, as text files.

    Args:
        directory: made if need be; files of the same names are replaced.
        most: edits of each half.
    """
    split = stdlib_split()
    for name, files in (("train", split.train), ("held-out", split.held_out)):
        found = list(edits(files))
        random.Random(0).shuffle(found)
        (directory / name).mkdir(parents=True, exist_ok=True)
        for i, edit in enumerate(found[:most]):
            (directory / name / f"{i:05d}.txt").write_text(edit.prompt + edit.answer, "utf-8")


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--most", type=int, default=24000, help="edits of each half at most")
    arguments = parser.parse_args()
    write_edits(arguments.directory, arguments.most)


if __name__ == "__main__":
    main()
