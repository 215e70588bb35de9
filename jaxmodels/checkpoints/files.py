"""Files of a checkpoint, opened so that whatever is wrong with one is said by its name."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from jaxmodels.checkpoints.errors import CheckpointError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Of the names in messages; longer ones are cut.
_LONGEST_NAME = 300
# A named pipe that nobody writes to would make opening wait for ever.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def told_by_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what the system says against a path (no permission, too long a name, a zero byte in it, a circle
    of symbolic links) into a `CheckpointError` that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        named = os.fspath(error.filename or path)
        named = named if len(named) <= _LONGEST_NAME else f"{named[:_LONGEST_NAME]}..."
        raise CheckpointError(f"{named} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if "\0" not in os.fspath(path):
            raise
        raise CheckpointError(f"{os.fspath(path)!r} is no path: it contains a zero byte") from error


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home directory of a user in the place of ``~`` or ``~user``.

    Raises:
        CheckpointError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"{os.fspath(path)!r} is no path: {error}") from error


def mode_of(path: Path) -> int:
    """Type and permissions of what a path leads to; 0 where there is nothing.

    Raises:
        OSError: that cannot be told.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def open_file(path: Path) -> BinaryIO:
    """A regular file, or a symbolic link to one, opened for unbuffered reading.

    Raises:
        CheckpointError: it cannot be opened, or is a directory, a pipe, a socket or a device.
        FileNotFoundError: it does not exist.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise CheckpointError(f"{path} is {_KINDS.get(kind, 'no file')}; it must be a regular file")
    return open(descriptor, "rb", buffering=0)


def lasting_path(file: BinaryIO, path: Path) -> Path:
    """A path to an open file that leads to it even after another has taken its name, where the system has
    such paths; else `path`."""
    lasting = Path(f"/proc/self/fd/{file.fileno()}")
    return lasting if lasting.exists() else path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        CheckpointError: it cannot be opened as `open_file` does, or is not UTF-8.
        FileNotFoundError: it does not exist.
    """
    with open_file(path) as file, told_by_name(path):
        content = file.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is absent, not UTF-8 JSON, or holds something other than an object.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; it must hold a JSON object") from error
    return parse_json_object(text, path)


def parse_json_object(text: str, path: Path) -> dict[str, Any]:
    """The JSON object in `text`, which was read from `path`.

    Raises:
        CheckpointError: it is not JSON, or something other than an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a plain ValueError
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch or write it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; it must hold an object")
    return value
