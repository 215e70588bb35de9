"""The directory in which the command line keeps what XLA compiled, so that the next call compiles nothing.

It is JAX's persistent compilation cache with other defaults than JAX has: on, in the user's cache directory,
for programs of any size, with a bound on the sum of them beyond which the longest unused go. Beside them,
under the same bound, are the programs of generations that need not even be traced again (see
`jaxmodels.artefacts.kept`). The variables by which JAX is told of its cache are obeyed where they are set:

    JAX_COMPILATION_CACHE_DIR=/elsewhere        another place, which JAX alone then manages
    JAX_COMPILATION_CACHE_MAX_SIZE=1000000000   another bound, in bytes
    JAX_ENABLE_COMPILATION_CACHE=false          no cache

This module imports no JAX: what it sets must stand in the environment before JAX reads it.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PLACE, BOUND = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"
SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
MOST_BYTES = 4 * 2**30
# JAX leaves out what compiled in less than a second; a start consists of a dozen such programs.
EVERY_PROGRAM = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
# The names that JAX gives to its files: programs, and when each was last used.
_PROGRAMS, _OTHERS = "*-cache", ("*-atime", ".lockfile")
# Below the default place: programs of generations, which `jaxmodels.artefacts.kept` writes.
_KEPT, KEPT_PROGRAMS, _KEPT_OTHERS = "generations", "*.executable", ("*.used",)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a cache holds.

    Attributes:
        programs: how many.
        size: bytes of their files.
    """

    programs: int
    size: int


def default_place() -> Path:
    """``jaxmodels/compiled`` in the user's cache directory, which XDG_CACHE_HOME may name."""
    given = os.environ.get("XDG_CACHE_HOME")
    home = Path(given) if given else Path("~/.cache").expanduser()
    return home / "jaxmodels" / "compiled"


def place() -> Path:
    """Where compiled programs are kept, or would be."""
    given = os.environ.get(PLACE)
    return Path(given) if given else default_place()


def kept_place() -> Path | None:
    """Where `jaxmodels.artefacts.kept` keeps programs: none where the cache is off, or in a place that the
    user has named and that is JAX's alone."""
    is_off = os.environ.get(SWITCH, "true").lower() in ("false", "0", "no", "off", "n", "f")
    is_default = os.environ.get(PLACE) == str(default_place())
    return default_place() / _KEPT if is_default and not is_off else None


def bound() -> int:
    """Bytes of all programs at most; -1 where nothing bounds them.

    Raises:
        ValueError: the variable that names it holds no whole number.
    """
    given = os.environ.get(BOUND, "-1")
    try:
        return int(given)
    except ValueError as error:
        raise ValueError(
            f"{BOUND} must be a whole number of bytes, or -1 for no bound, got {given!r}"
        ) from error


def settings() -> Mapping[str, str]:
    """The variables that turn the cache on; none where the user has named a place or nothing can be written
    to the default one, of which JAX would warn program by program."""
    if os.environ.get(PLACE) or not _is_writable(default_place()):
        return {}
    return {PLACE: str(default_place()), BOUND: str(MOST_BYTES), **EVERY_PROGRAM}


def turn_on() -> None:
    """Puts `settings` into the environment, for a JAX that is not imported yet; what is set there stays."""
    for name, value in settings().items():
        os.environ.setdefault(name, value)


def contents(directory: Path) -> Contents:
    """What the cache in a directory holds; nothing where there is no such directory."""
    programs = (*directory.glob(_PROGRAMS), *(directory / _KEPT).glob(KEPT_PROGRAMS))
    sizes = [file.stat().st_size for file in programs]
    return Contents(programs=len(sizes), size=sum(sizes))


def clear(directory: Path) -> Contents:
    """Removes the programs of a cache and what is noted of them, and nothing else; gives what was there.

    Raises:
        OSError: a file cannot be removed.
    """
    held = contents(directory)
    kept = (f"{_KEPT}/{pattern}" for pattern in (KEPT_PROGRAMS, *_KEPT_OTHERS))
    for pattern in (_PROGRAMS, *_OTHERS, *kept):
        for file in directory.glob(pattern):
            file.unlink(missing_ok=True)
    return held


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False
