"""A text corpus that every Python already has: the sources of its own standard library.

Which files count, and which side of the split each falls on, depends only on the installed Python's
library, so training on it needs no download. About 27 MB in CPython 3.11; distributions that strip `test`
leave about 9 MB.
"""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Tables written by generators, or prose stored as one literal: they are data, and nearly incompressible or
# nearly repeated, so they would say little about how well a model reads code.
_GENERATED = ("encodings/", "pydoc_data/", "html/entities.py", "lib2to3/tests/data/")
_NOT_STDLIB = ("site-packages/", "dist-packages/", "__pycache__/", "config-")
_HELD_OUT_PER_THOUSAND = 30


@dataclass(frozen=True)
class Split:
    """Disjoint training and held-out files, each sorted by path."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def stdlib_split(root: Path | None = None) -> Split:
    """Splits the standard library's `.py` files by file: about 3 % of them are held out.

    A file is held out when the SHA-256 of its path relative to `root` says so, so the split does not change
    when files come or go. Left out of both sides: `site-packages`, generated tables (the character maps of
    `encodings`, `pydoc_data`, `html/entities.py`), test data of lib2to3, files that are empty or not UTF-8,
    and exact copies of a file that sorts earlier.

    Args:
        root: the library to read; the running interpreter's own by default.

    Raises:
        FileNotFoundError: `root` holds no usable `.py` file.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else Path(root)
    train: list[Path] = []
    held_out: list[Path] = []
    seen: set[bytes] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        if any(relative.startswith(part) or f"/{part}" in relative for part in _NOT_STDLIB):
            continue
        if relative.startswith(_GENERATED):
            continue
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if not content.strip() or digest in seen or not _is_utf8(content):
            continue
        seen.add(digest)
        (held_out if _is_held_out(relative) else train).append(path)
    if not train:
        raise FileNotFoundError(f"stdlib_split: no Python sources under {str(root)!r}")
    return Split(tuple(train), tuple(held_out))


def _is_held_out(relative: str) -> bool:
    bucket = int.from_bytes(hashlib.sha256(relative.encode()).digest()[:4], "big") % 1000
    return bucket < _HELD_OUT_PER_THOUSAND


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
