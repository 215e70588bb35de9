"""Locks on directories and files, for as long as a descriptor is open; a killed process gives its locks up.

Where the system (Windows) or the file system has none, nothing is locked: whoever uses them must be correct
without, only less so.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_POLL_SECONDS = 0.02


def has_locks() -> bool:
    """Whether the system has any."""
    return fcntl is not None


def try_lock(descriptor: int) -> bool:
    """Locks an open file or directory against everyone else; False where another has it already.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def shared_lock(directory: Path) -> Iterator[int | None]:
    """Holds a directory open and locked together with other readers; waits while it is being swapped.

    Yields its descriptor, or None on a system without locks.

    Raises:
        OSError: the directory cannot be opened.
    """
    if fcntl is None:
        yield None
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(directory: Path, wait_seconds: float) -> Iterator[None]:
    """Holds a directory locked against readers, or goes on without after `wait_seconds`.

    Raises:
        OSError: the directory cannot be opened.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + wait_seconds
        with suppress(OSError):  # a file system without locks
            while not try_lock(descriptor) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def only_holder(file: Path) -> Iterator[bool]:
    """Holds a file, made if need be, locked against everyone else; yields False where another has it.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        is_held = True
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                is_held = try_lock(descriptor)
        yield is_held
    finally:
        os.close(descriptor)
