"""The one error that reading or writing a checkpoint raises for bad input."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written.

    Every message names the file, tensor or key, the value got, and what would be right.
    """


@contextmanager
def told_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever parsers and libraries raise about a checkpoint's files into a `CheckpointError`.

    Most faults are found and named where they are; this is for those that nobody thought of.
    """
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be read: {type(error).__name__}: {error}") from error
