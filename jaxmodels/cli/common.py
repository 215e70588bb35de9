"""What several commands share: the default model, option types, finding a `config.json`, printing."""

import importlib.util
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxmodels.expert_memory import ExpertMemory
    from jaxmodels.layers.moe.kept_experts import HostExperts
    from jaxmodels.models.decoder import Decoder

DEFAULT_MODEL = "tiny-mamba2"
MODEL_HELP = "A checkpoint directory, the name of a bundled model, or a Hugging Face id 'organisation/name'"

ConfigName = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}, or a config.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read PyTorch pickles, which can run code, from this source.")
]
Verify = Annotated[
    bool,
    typer.Option("--verify/--no-verify", help="Compare the files with the checksums saved beside them."),
]
TextOnly = Annotated[
    bool, typer.Option("--text-only", help="Of a model that also sees or hears, the language model alone.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", help="Merge this LoRA adapter into the weights: a directory or an id. Repeatable."
    ),
]

Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="Hold the weights in few bits: int8, int4, int4-channel, fp8, mxfp4 or mxfp4-experts.",
    ),
]
ExpertsIn = Annotated[
    str,
    typer.Option(
        "--experts",
        metavar="MEMORY",
        help="Where the experts of a mixture are: device, or host, from where steps fetch those they need; "
        "host,kept=8 keeps 8 of each layer on the device, and host,kept=8,ahead=2 fetches 2 of them ahead.",
    ),
]
OnMesh = Annotated[
    str | None,
    typer.Option(
        "--mesh", help="Devices that share the model: sizes of axes, as tensor=4 or data=2,tensor=2."
    ),
]


class DType(StrEnum):
    """Dtypes of parameters."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def experts_from(text: str) -> "ExpertMemory | HostExperts":
    """What --experts asks for: "device", "host", or how experts come from there, as "host,kept=8,ahead=2".

    Raises:
        ValueError: it is of another form, or the numbers do not fit each other.
    """
    memory, *numbers = text.split(",")
    if not numbers and memory in ("device", "host"):
        return "host" if memory == "host" else "device"
    found = {name: value for name, _, value in (number.partition("=") for number in numbers)}
    if memory != "host" or not set(found) <= {"kept", "ahead"} or not all(map(str.isdecimal, found.values())):
        raise ValueError(f"--experts must be device, host, or as host,kept=8,ahead=2, got {text!r}")
    from jaxmodels.layers.moe.kept_experts import HostExperts

    return HostExperts(**{name: int(value) for name, value in found.items()})


def mesh_of(sizes: str | None) -> "Mesh | None":
    """The mesh that --mesh asks for.

    Raises:
        ValueError: it is of another form, or there are not as many devices.
    """
    if sizes is None:
        return None
    from jaxmodels.tpu_configs.mesh import make_mesh, mesh_sizes

    with told_of_option("mesh"):
        asked: dict[str, Any] = {**mesh_sizes(sizes)}
        return make_mesh(**asked)


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(values, indent=2, ensure_ascii=False))


# Bytes of a text that a command reads: more than any model has tokens for.
LARGEST_TEXT = 2**28


def read_text(name: str, file: BinaryIO) -> str:
    """The UTF-8 text that a file or a pipe holds, with line breaks as ``\\n``; messages call it `name`.

    Raises:
        ValueError: it is not UTF-8, or larger than `LARGEST_TEXT`.
    """
    content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"{name} holds more than {LARGEST_TEXT:,} bytes; give a shorter text")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text (byte 0x{content[error.start]:02x} at offset {error.start}); "
            "re-encode it"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_file(file: Path) -> str:
    """`read_text` of the file that --file names, which may be a pipe.

    Raises:
        ValueError: as `read_text`, or a pipe that nothing has been written to and nobody can write to.
    """
    name = f"--file {str(file)!r}"
    with open(file, "rb", opener=_open_at_once) as opened:
        text = read_text(name, opened)
        if not text and stat.S_ISFIFO(os.fstat(opened.fileno()).st_mode):
            raise ValueError(f"{name} is a pipe that nobody writes to; begin to write to it first")
        return text


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, and a named pipe without waiting for somebody who opens its other end."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return descriptor


@contextmanager
def told_of_option(name: str) -> Iterator[None]:
    """Puts the option's name before what is said against its value."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from error


def check_plot(plot: Path | None) -> None:
    """Raises ValueError where a plot is asked for and nothing is installed that draws it."""
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'jaxmodels[plot]'")


def tell(message: str) -> None:
    """A line on standard error, where it does not mix with results."""
    print(message, file=sys.stderr, flush=True)


def read_config(
    name_or_path: str, revision: str | None = None, *, text_only: bool = False
) -> tuple["Decoder", Path]:
    """The configuration of a model, without its weights, and the file that it came from.

    Args:
        name_or_path: what `jaxmodels.load` takes, or a ``config.json`` itself. Of a Hugging Face id only
            that file is fetched.
        revision: of a Hugging Face id.
        text_only: the language model of one that also sees images.

    Raises:
        CheckpointError: there is no such model, or it is not one of the zoo.
    """
    from jaxmodels.checkpoints.errors import CheckpointError
    from jaxmodels.checkpoints.files import read_json_object
    from jaxmodels.checkpoints.quantized import without_quantization
    from jaxmodels.models.families import config_from_hf

    file = _config_file(name_or_path, revision)
    try:
        values = without_quantization(read_json_object(file))
        return config_from_hf(values, text_only=text_only), file
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _config_file(name_or_path: str, revision: str | None) -> Path:
    from jaxmodels.checkpoints.errors import CheckpointError
    from jaxmodels.checkpoints.files import expanded
    from jaxmodels.checkpoints.hub import list_bundled, resolve
    from jaxmodels.checkpoints.huggingface import CONFIG_FILE
    from jaxmodels.checkpoints.unreadable import check_readable

    path = expanded(name_or_path)
    if path.is_file():
        return path
    looks_like_an_id = name_or_path.count("/") == 1 and name_or_path[0] not in "./~"
    if path.is_dir() or name_or_path in list_bundled() or not looks_like_an_id:
        directory = resolve(name_or_path, revision)
        check_readable(directory)
        return directory / CONFIG_FILE
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name_or_path, CONFIG_FILE, revision=revision))
    except Exception as error:  # the hub raises its own errors and those of its HTTP client
        raise CheckpointError(
            f"cannot fetch {CONFIG_FILE} of the Hugging Face repository {name_or_path!r}, and there is no "
            f"such file or directory: {type(error).__name__}: {str(error).strip()}"
        ) from error
