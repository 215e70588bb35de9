"""What ties a directory to one run: one trainer at a time, one recipe, one set of tokens."""

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.locks import only_holder
from jaxmodels.training.recipe import Recipe, load_recipe, recipe_to_dict, save_recipe

LOCK_FILE = ".lock"
RECIPE_FILE = "recipe.json"
DATA_FILE = "data.json"


@contextmanager
def only_trainer(directory: Path) -> Iterator[None]:
    """Keeps other trainers out of a run's directory, which is made if need be.

    Raises:
        ValueError: another process, or another call in this one, trains there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output_dir {str(directory)!r} cannot be made a directory: {error.strerror or error}"
        ) from error
    with only_holder(directory / LOCK_FILE) as is_alone:
        if not is_alone:
            raise ValueError(
                f"{str(directory)!r} is being trained in by another process; wait until it has ended, or "
                "choose another output_dir"
            )
        yield


def is_claimed(directory: Path) -> bool:
    """Whether a run has begun there. What a call that failed before has left is not gone on with."""
    return (directory / RECIPE_FILE).exists()


def claim(directory: Path, recipe: Recipe) -> None:
    """Ties a directory to one recipe, once its data are there and its model can be built."""
    if not is_claimed(directory):
        save_recipe(recipe, directory / RECIPE_FILE)


def check_owner(directory: Path, recipe: Recipe) -> None:
    """Looks whether a directory is free or this recipe's: a run gone on with by another would be neither.

    Raises:
        ValueError: it belongs to another recipe.
    """
    path = directory / RECIPE_FILE
    if not path.exists():
        return
    saved, given = recipe_to_dict(load_recipe(path)), recipe_to_dict(recipe)
    changed = [f"{key}: {saved[key]!r} -> {given[key]!r}" for key in saved if saved[key] != given[key]]
    if changed:
        raise ValueError(
            f"{str(directory)!r} holds a run of another recipe ({'; '.join(changed)}); choose another "
            "output_dir"
        )


def check_unchanged(directory: Path, streams: Mapping[str, np.ndarray]) -> None:
    """Notes the size and checksum of token streams, or compares them with those noted before.

    Raises:
        ValueError: the data changed since the run began.
    """
    path = directory / DATA_FILE
    found = {
        name: {"tokens": len(tokens), "crc32": zlib.crc32(tokens.tobytes())}
        for name, tokens in streams.items()
    }
    if not path.exists() or not is_claimed(directory):
        replace_file(path, json.dumps(found, indent=2) + "\n")
    elif (saved := read_json_object(path)) != found:
        raise ValueError(
            f"the data changed since the run in {str(directory)!r} began: it had {saved}, now {found}; "
            "choose another output_dir"
        )
