"""`jaxmodels convert`: rewrites a checkpoint in another format, layout or dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmodels.cli.common import (
    MODEL_HELP,
    Adapters,
    AllowPickle,
    DType,
    Quantize,
    Revision,
    TextOnly,
    Verify,
    tell,
)

if TYPE_CHECKING:
    from jaxmodels.checkpoints.huggingface import Progress
    from jaxmodels.models.decoder import Decoder


LARGEST_SHARD_GB = 1_000_000


class Format(StrEnum):
    """Forms of a checkpoint directory."""

    HF = "hf"
    ORBAX = "orbax"


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help=MODEL_HELP)],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write.")],
    to: Annotated[Format, typer.Option(help="Hugging Face (safetensors) or Orbax.")],
    family: Annotated[
        str | None,
        typer.Option(help="Write the layout of this family, such as mamba2 for an original Mamba-2."),
    ] = None,
    dtype: Annotated[
        DType | None, typer.Option(help="Of the parameters; by default as they are stored.")
    ] = None,
    quantize: Quantize = None,
    max_shard_gb: Annotated[
        float | None, typer.Option(help="With --to hf: gigabytes per file at most, 2 by default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the checkpoint that DST holds.")
    ] = False,
    adapter: Adapters = None,
    allow_pickle: AllowPickle = False,
    text_only: TextOnly = False,
    verify: Verify = True,
    revision: Revision = None,
) -> None:
    """Convert a checkpoint between Hugging Face and Orbax, between layouts, or to another dtype.

    With --quantize, weights are rounded to few bits and written as compressed-tensors.
    Tokenizer and generation settings go along. DST is replaced as a whole once everything is written.
    """
    from jaxmodels.checkpoints.atomic import check_replaceable

    check_replaceable(destination)  # before the weights are read
    held = any((destination / name).exists() for name in ("config.json", "model_index.json"))
    if held and not overwrite:
        raise ValueError(f"{destination} holds a checkpoint already; give --overwrite to replace it")
    if to is Format.ORBAX and max_shard_gb is not None:
        raise ValueError("--max-shard-gb applies to --to hf alone: Orbax chooses its own files")
    if to is Format.ORBAX and quantize is not None:
        raise ValueError("--quantize applies to --to hf alone, which writes compressed-tensors")
    if max_shard_gb is not None and not 0 < max_shard_gb <= LARGEST_SHARD_GB:
        raise ValueError(
            f"--max-shard-gb must be above 0 and at most {LARGEST_SHARD_GB:,}, got {max_shard_gb}"
        )
    import jaxmodels as jm
    from jaxmodels.checkpoints.hub import resolve
    from jaxmodels.checkpoints.huggingface import read_config
    from jaxmodels.checkpoints.pipeline_index import is_pipeline
    from jaxmodels.layers.spec import walk
    from jaxmodels.models.costs import weight_bytes

    directory = resolve(source, revision, allow_pickle=allow_pickle)
    if is_pipeline(directory):
        if to is not Format.HF or family is not None:
            raise ValueError(f"{source!r} is an image model, which has one form: --to hf without --family")
        if adapter or text_only or quantize:
            option = "--adapter" if adapter else "--text-only" if text_only else "--quantize"
            raise ValueError(f"{option} is of language models, and {source!r} draws images; leave it out")
        _convert_images(directory, destination, dtype, max_shard_gb, allow_pickle, verify)
        return
    config, metadata = read_config(directory, text_only=text_only)
    if family is not None:
        _in_family(config, family)  # before the weights are read: what has no such form fails at once
    wanted = dtype.value if dtype else _stored_dtype(directory, metadata.get("dtype"), allow_pickle)
    total = weight_bytes(config, wanted)
    with _progress("reading", total) as progress:
        model = jm.load(
            directory,
            wanted,
            allow_pickle=allow_pickle,
            text_only=text_only,
            verify=verify,
            adapter=adapter or (),
            progress=progress,
            quantize=quantize,
        )
    target = model.decoder if family is None else _in_family(model.decoder, family)
    with _progress("writing", total) as progress:
        shard = _shard_bytes(max_shard_gb)
        jm.save(
            replace(model, config=target), destination, to.value, max_shard_bytes=shard, progress=progress
        )
    written = sum(leaf.nbytes for _, leaf in walk(model.params))
    kind = wanted if quantize is None else f"{wanted} with weights in {quantize}"
    tell(f"{destination}: {target.family}, {kind}, {written / 1e6:,.1f} MB of parameters, {to.value}")


def _convert_images(
    directory: Path,
    destination: Path,
    dtype: DType | None,
    max_shard_gb: float | None,
    allow_pickle: bool,
    verify: bool,
) -> None:
    import jaxmodels as jm

    wanted = _stored_dtype_of_all(directory, allow_pickle) if dtype is None else dtype.value
    model = jm.load(directory, wanted, allow_pickle=allow_pickle, verify=verify)
    jm.save(model, destination, max_shard_bytes=_shard_bytes(max_shard_gb))
    tell(f"{destination}: {model.pipeline}, {wanted}")


def _stored_dtype_of_all(directory: Path, allow_pickle: bool) -> str:
    """The dtype that all components of a pipeline are stored in."""
    from jaxmodels.checkpoints.arguments import closest_dtype
    from jaxmodels.checkpoints.huggingface import open_weights, stored_dtype
    from jaxmodels.checkpoints.pickles import PICKLE_FILE, PICKLE_INDEX_FILE
    from jaxmodels.checkpoints.registered import STEM
    from jaxmodels.checkpoints.safetensors_io import open_tensors

    found = {}
    for stem in (STEM, "model"):
        for weights in sorted(directory.glob(f"*/{stem}*.safetensors")):
            single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
            tensors = open_tensors(weights.parent, single, index)
            found[weights.parent.name] = closest_dtype(stored_dtype(tensors))
    for name in (PICKLE_FILE, PICKLE_INDEX_FILE):
        for folder in (weights.parent for weights in sorted(directory.glob(f"*/{name}"))):
            if folder.name not in found:
                pickled = open_weights(folder, allow_pickle=allow_pickle)
                found[folder.name] = closest_dtype(stored_dtype(pickled))
    if len(set(found.values())) != 1:
        told = ", ".join(f"{name} in {dtype}" for name, dtype in found.items()) or "none"
        raise ValueError(f"{directory}: give --dtype, since components are not stored in one: {told}")
    return next(iter(found.values()))


def _shard_bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else max(1, round(gigabytes * 1e9))


def _in_family(config: "Decoder", family: str) -> "Decoder":
    """The same model under another family's name, if that family's layout can express it."""
    from jaxmodels.models.families import config_to_hf, list_families

    if family not in list_families():
        raise ValueError(f"--family {family!r} is not known; the families are: {', '.join(list_families())}")
    relabelled = replace(config, family=family)
    try:
        config_to_hf(relabelled)
    except ValueError as error:
        raise ValueError(f"--family {family}: a {config.family} model has no such form: {error}") from error
    return relabelled


def _stored_dtype(directory: Path, declared: object, allow_pickle: bool) -> str:
    from jaxmodels.checkpoints import orbax
    from jaxmodels.checkpoints.arguments import closest_dtype
    from jaxmodels.checkpoints.huggingface import open_weights, stored_dtype

    if not orbax.is_orbax(directory):
        return closest_dtype(stored_dtype(open_weights(directory, allow_pickle=allow_pickle)))
    if not isinstance(declared, str):
        raise ValueError(f"{directory / 'config.json'}: key 'dtype' is {declared!r}; give --dtype")
    return declared


@contextmanager
def _progress(verb: str, total: int) -> "Iterator[Progress]":
    """A bar on standard error that counts bytes and names the current tensor."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[name]}", style="dim"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=total, name="")
        yield lambda name, size: bar.update(task, advance=size, name=name)
        bar.update(task, name="")
