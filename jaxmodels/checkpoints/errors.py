"""The one error that reading or writing a checkpoint raises for bad input."""

import json
from pathlib import Path
from typing import Any


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written.

    Every message names the file, tensor or key, the value got, and what would be right.
    """


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        CheckpointError: the file is absent, not UTF-8 JSON, or holds something other than an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} does not exist; it must hold a JSON object") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); fetch or write it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a JSON {type(value).__name__}; it must hold an object")
    return value
