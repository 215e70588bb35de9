"""From the name of a model to a directory: a path, a bundled model, or a Hugging Face repository."""

import importlib.resources
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxmodels.checkpoints.atomic import recover
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import expanded, mode_of, open_file, read_json_object, told_by_name
from jaxmodels.checkpoints.gguf.file import SUFFIX as GGUF_SUFFIX
from jaxmodels.checkpoints.pipeline_index import INDEX_FILE as PIPELINE_INDEX

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_SMALL = ["*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_WEIGHTS = ["*.safetensors"]
_PICKLES = ["pytorch_model*.bin", "adapter_model.bin", "medusa_lm_head.pt"]
# Beside the components of one that may be left early.
_EXIT_HEADS = "exit_heads.safetensors"
# The folders of bundled parts of models.
_DRAFT_HEADS, _THINKING = "draft_heads", "thinking_policies"
# What a directory with a model holds one of.
_INDICES = ("config.json", PIPELINE_INDEX)
# The same weights in other layouts.
_DUPLICATES = ["consolidated*", "original/*", "onnx/*"]
# The same weights of a component once more, as `diffusers` names them.
_VARIANTS = ["*.fp16.*", "*.fp16-*", "*.bf16.*", "*.bf16-*", "*.non_ema.*"]


def list_bundled() -> tuple[str, ...]:
    """Names of the models that come with the package, for `resolve`."""
    root = _bundled_root()
    if not root.is_dir():
        return ()
    return tuple(
        sorted(path.name for path in root.iterdir() if any((path / index).is_file() for index in _INDICES))
    )


def list_bundled_drafters() -> tuple[str, ...]:
    """Names of the draft heads that come with the package, for `load_drafter`."""
    return _bundled_parts(_DRAFT_HEADS)


def list_bundled_thinking() -> tuple[str, ...]:
    """Names of the policies of thinking that come with the package, for `load_thinking`."""
    return _bundled_parts(_THINKING)


def _bundled_parts(folder: str) -> tuple[str, ...]:
    root = _bundled_root() / folder
    return tuple(sorted(path.name for path in root.iterdir())) if root.is_dir() else ()


def resolve(
    name_or_path: str | os.PathLike[str], revision: str | None = None, *, allow_pickle: bool = False
) -> Path:
    """The directory of a model, or its GGUF file.

    Args:
        name_or_path: in this order, an existing directory or GGUF file, the name of a bundled model or of a
            part of one (`list_bundled`, `list_bundled_drafters`, `list_bundled_thinking`), or a Hugging Face
            repository "organisation/name", which is downloaded, or taken from the local cache. What looks
            like a path (it begins with ".", "/" or "~", or has more than one separator) is never sent to the
            hub.
        revision: branch, tag or commit of a repository.
        allow_pickle: download `pytorch_model*.bin` from a repository without safetensors.

    Raises:
        CheckpointError: it is none of the three, or the repository cannot be fetched.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise CheckpointError("the name of the model is empty; give a directory, a bundled name or a hub id")
    bundled = _bundled(name)
    is_bundled = bundled is not None
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
        return path if is_directory or bundled is None else bundled
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


def _bundled(name: str) -> Path | None:
    """The directory of a bundled model or part of one; None where there is none of this name."""
    if name in list_bundled():
        return _bundled_root() / name
    folders = (folder for folder in (_DRAFT_HEADS, _THINKING) if name in _bundled_parts(folder))
    return next((_bundled_root() / folder / name for folder in folders), None)


def _bundled_root() -> Path:
    return Path(str(importlib.resources.files("jaxmodels").joinpath("bundled")))


def is_hub_id(name: str) -> bool:
    """Whether `resolve` would look for a model of this name on the hub."""
    return bool(_HUB_ID.fullmatch(name)) and _bundled(name) is None and not mode_of(expanded(name))


def fetch_outline(repository: str, revision: str | None) -> Path:
    """The directory of a repository with its configurations, and of a pipeline also with its tokenizers; no
    weights are fetched.

    Raises:
        CheckpointError: the repository cannot be fetched.
    """
    with _told_of(repository, revision):
        directory = _snapshot(repository, revision, list(_INDICES))
        if (directory / PIPELINE_INDEX).is_file():
            directory = _snapshot(repository, revision, _within(_folders(directory), _SMALL))
    return directory


def _download(repository: str, revision: str | None, allow_pickle: bool) -> Path:
    with _told_of(repository, revision):
        directory = _snapshot(repository, revision, [PIPELINE_INDEX])
        folders = _folders(directory) if (directory / PIPELINE_INDEX).is_file() else None
        beside = [] if folders is None else [_EXIT_HEADS]
        patterns = _within(folders, _SMALL + _WEIGHTS) + beside
        directory = _snapshot(repository, revision, patterns)
        bare = [one for one in folders or [""] if not any((directory / one).glob("*.safetensors"))]
        if allow_pickle and bare:
            pickles = _within(None if folders is None else bare, _PICKLES)
            directory = _snapshot(repository, revision, patterns + pickles)
    return directory


def _folders(directory: Path) -> list[str]:
    """The folders that the index of a pipeline names with a class."""
    index = read_json_object(directory / PIPELINE_INDEX)
    return [name for name, value in index.items() if isinstance(value, list) and all(value)]


def _within(folders: list[str] | None, patterns: list[str]) -> list[str]:
    """The patterns in these folders, and small files beside them; None for the repository itself."""
    if folders is None:
        return patterns
    # A star also stands for separators, so this is of JSON everywhere.
    return ["*.json", *(f"{folder}/{pattern}" for folder in folders for pattern in patterns)]


def _snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=patterns, ignore_patterns=_DUPLICATES + _VARIANTS
        )
    )


@contextmanager
def _told_of(repository: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the hub raises its own errors and those of its HTTP client
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"cannot fetch the Hugging Face repository {repository!r}{at}, and there is no such directory: "
            f"{type(error).__name__}: {str(error).strip()}"
        ) from error
