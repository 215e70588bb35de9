"""The one error that reading or writing a checkpoint raises for bad input."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written.

    Every message names the file, tensor or key, the value got, and what would be right.
    """
