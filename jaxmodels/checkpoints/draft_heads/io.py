"""`load_drafter` and `save_drafter`: draft heads from and to directories of the published forms."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import check_boolean, check_optional_text, check_path, floating_dtype
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.draft_heads import (
    dflash,
    dflash_speculators,
    dflash_transformers,
    eagle3_original,
    medusa,
    mtp,
    speculators,
)
from jaxmodels.checkpoints.draft_heads.forms import form_of
from jaxmodels.checkpoints.draft_heads.layout import Layout, Stored
from jaxmodels.checkpoints.errors import CheckpointError, told_of
from jaxmodels.checkpoints.files import mode_of, read_json_object
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.huggingface import CONFIG_FILE, write_config
from jaxmodels.checkpoints.safetensors_io import write_tensors
from jaxmodels.checks import shown, whole
from jaxmodels.decoding.drafters.drafter import Drafter
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.language_model import LanguageModel

LAYOUTS: tuple[Layout, ...] = (
    speculators.LAYOUT,
    dflash_speculators.LAYOUT,
    dflash_transformers.LAYOUT,
    dflash.LAYOUT,
    eagle3_original.LAYOUT,
    medusa.LAYOUT,
    medusa.VLLM_LAYOUT,
    mtp.LAYOUT,
)


def load_drafter(
    name_or_path: str | Path,
    target: Any = None,
    *,
    size: int | None = None,
    dtype: DTypeLike | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Any:
    """Reads a draft head: a directory in a published form, a bundled name, or a hub id.

    Gives a `Drafter` for ``Speculative(draft=...)``, which also takes the name itself.

    Args:
        name_or_path: such as ``"tiny-qwen3-eagle3"``.
        target: the model that it is to draft for, or its configuration, with which the head is compared. Some
            forms cannot be read without, as they leave out what follows from it.
        size: tokens drafted per round; by default what the configuration says, else the drafter's own.
        dtype: of the parameters, as for `jaxmodels.load`.
        revision: branch, tag or commit of a hub id.
        allow_pickle: read PyTorch pickles where there are no safetensors; only for sources that you trust.

    Raises:
        CheckpointError: anything missing, corrupt or not understood; a head for another target.
        ValueError: an argument of a wrong kind.
    """
    check_path("name_or_path", name_or_path)
    check_optional_text("revision", revision)
    check_boolean("allow_pickle", allow_pickle)
    wanted = None if dtype is None else floating_dtype("dtype", dtype)
    config = _config_of(target)
    directory = resolve(name_or_path, revision, allow_pickle=allow_pickle)

    def read() -> Any:
        values = read_json_object(directory / CONFIG_FILE)
        layout = _layout_of(values, directory / CONFIG_FILE)
        tensors = layout.open(directory, allow_pickle=allow_pickle)
        stored = Stored(directory=directory, values=values, tensors=tensors, target=config, dtype=wanted)
        return layout.read(stored)

    with told_of(directory):
        try:
            drafter = read_consistently(directory, read)
            if config is not None:
                drafter.head.check_target(config)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        except ValueError as error:
            raise CheckpointError(f"{directory / CONFIG_FILE}: {error}") from error
    return drafter if size is None else replace(drafter, size=whole("size", size, low=1))


def save_drafter(drafter: Drafter, path: str | Path, *, layout: str | None = None) -> None:
    """Writes a drafter's head as a directory that `load_drafter` and other engines read.

    It takes the place of any other directory there.

    Args:
        drafter: as `load_drafter` gives it, or made of a head.
        path: the directory.
        layout: the published form; by default the one that the head was read in.

    Raises:
        CheckpointError: the head has no such form, or the directory cannot be written.
        ValueError: an argument of a wrong kind.
    """
    check_path("path", path)
    head: Any = getattr(drafter, "head", None)
    if head is None:
        raise ValueError(f"drafter must be one with a head, as load_drafter gives, got {shown(drafter)}")
    name = head.layout if layout is None else layout
    found = next((one for one in LAYOUTS if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in LAYOUTS)
        raise ValueError(f"layout must be one of {known}, got {shown(name)}")
    try:
        written = found.write(drafter)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    with replace_directory(path) as directory:
        write_config(written.values, directory)
        write_tensors(directory, written.tensors, stem=written.stem)


def is_drafter(name_or_path: str | Path, revision: str | None = None) -> bool:
    """Whether a name is that of a draft head, and not of a model; see `load_drafter`.

    Raises CheckpointError where there is neither.
    """
    directory = resolve(name_or_path, revision)
    file = directory / CONFIG_FILE
    if directory.is_file() or not mode_of(file):  # a GGUF file, or a pipeline
        return False
    values = read_json_object(file)
    return form_of(values) is not None


def _layout_of(values: Mapping[str, Any], file: Path) -> Layout:
    name = form_of(values)
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    named = {key: values.get(key) for key in ("architectures", "speculators_model_type", "model_type")}
    raise CheckpointError(
        f"{file} describes no draft head: {shown(named)}; known forms are "
        f"{', '.join(layout.name for layout in LAYOUTS)}"
    )


def _config_of(target: Any) -> LanguageModel | None:
    config = getattr(target, "config", target)
    if config is not None and not isinstance(config, LanguageModel):
        raise ValueError(f"target must be a model, as load gives, or None, got {shown(target)}")
    return config
