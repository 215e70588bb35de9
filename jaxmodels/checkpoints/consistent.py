"""Reading a directory as one checkpoint while saves replace it.

A save swaps whole directories (`atomic.replace_directory`), but a checkpoint is several files, each found by
its path. Reading locks the directory together with other readers, and a save waits a while for readers before
it swaps. That alone does not hold on file systems without locks or against a save that has waited enough, so
what was read counts only if the path still leads to the directory that it led to before.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import told_by_name
from jaxmodels.checkpoints.locks import shared_lock

T = TypeVar("T")
MOST_ATTEMPTS = 20


def read_consistently(directory: Path, read: Callable[[], T]) -> T:
    """What `read` gives for the files of `directory` as they were at one instant.

    Args:
        directory: a checkpoint.
        read: reads what it needs of the directory, or opens it: a file once open is not replaced any more. It
            is called again if a save replaced the directory meanwhile.

    Raises:
        CheckpointError: what `read` raises; the directory cannot be opened, or was replaced every time.
    """
    for _ in range(MOST_ATTEMPTS):
        with told_by_name(directory), shared_lock(directory) as descriptor:
            if not _is_still(directory, descriptor):  # swapped while waiting for the lock
                continue
            try:
                result = read()
            except (CheckpointError, OSError):
                if _is_still(directory, descriptor):
                    raise
                continue
            if _is_still(directory, descriptor):
                return result
    raise CheckpointError(
        f"{directory} was replaced {MOST_ATTEMPTS} times while it was read; load it when fewer saves run"
    )


def _is_still(directory: Path, descriptor: int | None) -> bool:
    """Whether a path leads to the directory that is open."""
    if descriptor is None:  # a system that neither opens nor swaps directories
        return True
    try:
        return os.path.samestat(os.stat(directory), os.fstat(descriptor))
    except FileNotFoundError:
        return False
