"""From the name of a model to a directory: a path, a bundled model, or a Hugging Face repository."""

import importlib.resources
import os
import re
import stat
from pathlib import Path

from jaxmodels.checkpoints.atomic import recover
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import expanded, mode_of, open_file, told_by_name
from jaxmodels.checkpoints.gguf.file import SUFFIX as GGUF_SUFFIX

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_PICKLES = ["pytorch_model*.bin", "adapter_model.bin"]
# What a directory with a model holds one of.
_INDICES = ("config.json", "model_index.json")
# The same weights in other layouts.
_DUPLICATES = ["consolidated*", "original/*", "onnx/*"]


def list_bundled() -> tuple[str, ...]:
    """Names of the models that come with the package, for `resolve`."""
    root = _bundled_root()
    if not root.is_dir():
        return ()
    return tuple(
        sorted(path.name for path in root.iterdir() if any((path / index).is_file() for index in _INDICES))
    )


def resolve(
    name_or_path: str | os.PathLike[str], revision: str | None = None, *, allow_pickle: bool = False
) -> Path:
    """The directory of a model, or its GGUF file.

    Args:
        name_or_path: in this order, an existing directory or GGUF file, the name of a bundled model
            (`list_bundled`), or a Hugging Face repository "organisation/name", which is downloaded, or taken
            from the local cache. What looks like a path (it begins with ".", "/" or "~", or has more than one
            separator) is never sent to the hub.
        revision: branch, tag or commit of a repository.
        allow_pickle: download `pytorch_model*.bin` from a repository without safetensors.

    Raises:
        CheckpointError: it is none of the three, or the repository cannot be fetched.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise CheckpointError("the name of the model is empty; give a directory, a bundled name or a hub id")
    is_bundled = name in list_bundled()
    may_be_elsewhere = isinstance(name_or_path, str) and (is_bundled or _HUB_ID.fullmatch(name))
    with told_by_name(name):
        path = expanded(name)
        if not may_be_elsewhere:  # a save may have been killed just while it replaced the directory
            recover(path)
        mode = mode_of(path)
    is_directory = stat.S_ISDIR(mode)
    if is_directory or is_bundled:
        if revision is not None:
            raise CheckpointError(f"revision is {revision!r}, but {name!r} is not a Hugging Face repository")
        return path if is_directory else _bundled_root() / name
    if mode:
        open_file(path).close()  # says what it is if it is no file
        if path.suffix == GGUF_SUFFIX:
            return path
        raise CheckpointError(f"{path} is a file; give the directory {path.parent} that holds the checkpoint")
    if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name):
        return _download(name, revision, allow_pickle)
    raise CheckpointError(
        f"{name!r} is no model: there is no such directory, it is not a bundled model "
        f"({', '.join(list_bundled()) or 'none are installed'}), and it does not have the form "
        "'organisation/name' of a Hugging Face repository"
    )


def _bundled_root() -> Path:
    return Path(str(importlib.resources.files("jaxmodels").joinpath("bundled")))


def _download(repository: str, revision: str | None, allow_pickle: bool) -> Path:
    import huggingface_hub

    def fetch(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns, ignore_patterns=_DUPLICATES
            )
        )

    try:
        directory = fetch(_FILES)
        if allow_pickle and not any(directory.glob("*.safetensors")):
            directory = fetch(_FILES + _PICKLES)
    except Exception as error:  # the hub raises its own errors and those of its HTTP client
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"cannot fetch the Hugging Face repository {repository!r}{at}, and there is no such directory: "
            f"{type(error).__name__}: {str(error).strip()}"
        ) from error
    return directory
