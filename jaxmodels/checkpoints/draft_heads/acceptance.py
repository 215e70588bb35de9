"""SpecDec++'s acceptance heads as its authors publish them (https://github.com/Kaffaljidhmah2/SpecDec_pp).

``config.json`` holds two sizes. The tensors are those of a list that has the one residual layer several
times, and the output behind it: files name the layer once, or once for each time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import check_boolean, check_optional_text, check_path, floating_dtype
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.draft_heads.layout import (
    Stored,
    check_all_read,
    read_head_params,
    write_head_params,
)
from jaxmodels.checkpoints.errors import CheckpointError, told_of
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.huggingface import CONFIG_FILE, write_config
from jaxmodels.checkpoints.pickles import open_checkpoint
from jaxmodels.checkpoints.safetensors_io import TensorReader, write_tensors
from jaxmodels.checks import shown
from jaxmodels.decoding.lengths.predicted_acceptance import PredictedAcceptance
from jaxmodels.models.draft_heads.acceptance import AcceptanceHead
from jaxmodels.models.family import Table, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

FIRST = "model.0.linear"
PARTS = ("weight", "bias")


def rows(head: AcceptanceHead) -> tuple[Weight, ...]:
    """The row of each parameter."""
    layer = [Weight(f"layer/{part}", f"{FIRST}.{part}") for part in PARTS if head.layers]
    return (*layer, *(Weight(f"output/{part}", f"model.{head.layers}.{part}") for part in PARTS))


TABLE: Table[AcceptanceHead] = Table(
    model_type="acceptance head",
    weights=(),
    named_weights=rows,
    unused=(r"model\.[1-9]\d*\.linear\.(weight|bias)",),
)


def load_draft_length(
    name_or_path: str | Path,
    *,
    dtype: DTypeLike | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> PredictedAcceptance:
    """Reads an acceptance head as a length for ``Speculative(draft=..., length=...)``.

    It belongs to the draft model that it was trained on; thresholds and bounds are the policy's own fields.

    Args:
        name_or_path: a directory as SpecDec++'s authors publish it, or a hub id.
        dtype: of the parameters, as for `jaxmodels.load`.
        revision: branch, tag or commit of a hub id.
        allow_pickle: read PyTorch pickles where there are no safetensors; only for sources that you trust.

    Raises:
        CheckpointError: anything missing, corrupt or not understood.
        ValueError: an argument of a wrong kind.
    """
    check_path("name_or_path", name_or_path)
    check_optional_text("revision", revision)
    check_boolean("allow_pickle", allow_pickle)
    wanted = None if dtype is None else floating_dtype("dtype", dtype)
    directory = resolve(name_or_path, revision, allow_pickle=allow_pickle)

    def read() -> PredictedAcceptance:
        values = read_json_object(directory / CONFIG_FILE)
        head = _read_head(values, directory / CONFIG_FILE)
        tensors = open_checkpoint(directory, allow_pickle=allow_pickle)
        _check_copies(tensors)
        stored = Stored(directory=directory, values=values, tensors=tensors, target=None, dtype=wanted)
        return PredictedAcceptance(head=head, params=read_head_params(TABLE, head, stored))

    with told_of(directory):
        return read_consistently(directory, read)


def save_draft_length(length: PredictedAcceptance, path: str | Path) -> None:
    """Writes the head of a length as a directory that `load_draft_length` and its authors' code read.

    It takes the place of any other directory there. Threshold and bounds are not written.

    Args:
        length: as `load_draft_length` gives it, or made of a head.
        path: the directory.

    Raises:
        CheckpointError: the directory cannot be written.
        ValueError: an argument of a wrong kind.
    """
    check_path("path", path)
    if not isinstance(length, PredictedAcceptance):
        raise ValueError(f"length must be a PredictedAcceptance, which has a head, got {shown(length)}")
    values = {"hidden_size": length.head.d_model, "num_layers": length.head.layers}
    with replace_directory(path) as directory:
        write_config(values, directory)
        write_tensors(directory, write_head_params(TABLE, length.head, length.params))


def _read_head(values: Mapping[str, Any], file: Path) -> AcceptanceHead:
    reader = ConfigReader(values, f"{file}: config of an acceptance head")
    try:
        width, layers = reader.positive("hidden_size"), reader.take_or("num_layers", int, 0)
        check_all_read(reader)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    return AcceptanceHead(d_model=width, layers=layers)


def _check_copies(tensors: TensorReader) -> None:
    """Raises CheckpointError where the residual layers of a file are not one and the same."""
    for name in tensors.infos:
        if TABLE.is_unused(name):
            first = f"{FIRST}.{name.rpartition('.')[2]}"
            if first in tensors.infos and not np.array_equal(tensors.read(name), tensors.read(first)):
                info = tensors.infos[name]
                raise CheckpointError(
                    f"{info.file}: tensors {first!r} and {name!r} differ, and the layers of an acceptance "
                    "head are one layer that is gone through several times"
                )
