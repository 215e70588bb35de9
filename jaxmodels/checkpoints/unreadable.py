"""Directories in forms that are not read, recognised so that a message can say what to do instead.

Each kind is one function from a directory to a sentence, or to None where it is of another kind; they are
tried in the order of `KINDS`. To recognise another kind, add its function there.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.atomic import CHECKPOINT_FILES
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import open_file, read_json_object, told_by_name
from jaxmodels.checks import shown

_LFS_MARK = b"version https://git-lfs.github.com/spec/v1"
_WEIGHTS = ("*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin*", "params", "*.gguf")
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_IN_SAFETENSORS = "use the form of the same model with config.json and model.safetensors"


@dataclass(frozen=True)
class Listing:
    """A directory and the names in it."""

    directory: Path
    names: tuple[str, ...]

    def matching(self, *patterns: str) -> list[str]:
        """The names that match one of the patterns."""
        return [name for name in self.names if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def to_be_read(self) -> list[str]:
        """The files that a load reads: pickles only where there are no safetensors."""
        names = self.matching(*CHECKPOINT_FILES)
        has_safetensors = any("safetensors" in name for name in names)
        return [name for name in names if not (has_safetensors and name.startswith("pytorch_model"))]

    def has_weights(self) -> bool:
        """Whether there are weights that could be a whole model's."""
        whole = (name for name in self.matching(*_WEIGHTS) if name not in _ADAPTER_FILES)
        return any(not name.startswith("consolidated") for name in whole)

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty where it holds none."""
        with suppress(CheckpointError):
            return read_json_object(self.directory / name)
        return {}


def check_readable(directory: Path) -> None:
    """Says what to do with a directory of a known kind that is not read, or whose files are none.

    Raises:
        CheckpointError: it is such a directory.
    """
    with told_by_name(directory):
        names = tuple(sorted(path.name for path in directory.iterdir())) if directory.is_dir() else ()
        listing = Listing(directory, names)
        for name in listing.to_be_read():
            check_file(directory / name)
        for kind in KINDS:
            sentence = kind(listing)
            if sentence is not None:
                raise CheckpointError(sentence)


def check_file(file: Path) -> None:
    """Raises `CheckpointError` where a file of a checkpoint is none, or a note of where the file is kept."""
    try:
        with open_file(file) as opened:
            begins = opened.read(len(_LFS_MARK))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is a symbolic link to a file that is not there; fetch it") from error
    if begins == _LFS_MARK:
        raise CheckpointError(
            f"{file} is a Git LFS pointer, a note of where the file is kept, and not the file itself; fetch "
            f"it with `git lfs pull` in {file.parent}"
        )


def _adapter(listing: Listing) -> str | None:
    if "adapter_config.json" not in listing.names or listing.has_weights():
        return None
    settings = listing.json("adapter_config.json")
    kind, base = settings.get("peft_type"), settings.get("base_model_name_or_path")
    named = repr(base) if isinstance(base, str) and base else "its base model"
    return (
        f"{listing.directory} holds a{'' if kind is None else f' {kind}'} adapter and no model; load "
        f"{named} with it: jaxmodels.load({named if base else '...'}, adapter={str(listing.directory)!r})"
    )


def _native_layout(listing: Listing) -> str | None:
    if "params.json" not in listing.names or "config.json" in listing.names:
        return None
    files = ["params.json", *listing.matching("consolidated*")]
    return (
        f"{listing.directory} is in the layout of the vendor's own code ({', '.join(files[:3])}), which is "
        f"not read; {_IN_SAFETENSORS}, or convert it with the script convert_llama_weights_to_hf or "
        "convert_mistral_weights_to_hf of transformers' repository"
    )


def _mlx_arrays(listing: Listing) -> str | None:
    files = listing.matching("weights*.npz")
    if not files or listing.has_weights():
        return None
    return f"{listing.directory / files[0]} holds weights of MLX, which are not read; {_IN_SAFETENSORS}"


def _mlx_quantised(listing: Listing) -> str | None:
    settings = listing.json("config.json").get("quantization")
    if not isinstance(settings, dict) or "group_size" not in settings:
        return None
    return (
        f"{listing.directory} is quantised by MLX (key 'quantization' of config.json is {shown(settings)}), "
        "which is not read; use the model that it was made from, or undo it with mlx_lm.convert --dequantize"
    )


# Files of one framework alone, and what it is called.
_OF_OTHER_FRAMEWORKS = {
    "ONNX": ("*.onnx", "onnx"),
    "TensorFlow": ("tf_model.h5", "tf_model*.h5", "saved_model.pb"),
    "Flax": ("flax_model*.msgpack",),
    "OpenVINO": ("openvino_model.xml",),
    "Core ML": ("*.mlpackage", "*.mlmodel", "coreml"),
    "TorchScript or bare PyTorch": ("*.pt", "*.pth", "*.ckpt"),
    "NeMo": ("*.nemo",),
}


def _other_framework(listing: Listing) -> str | None:
    if listing.has_weights():
        return None
    for framework, patterns in _OF_OTHER_FRAMEWORKS.items():
        files = listing.matching(*patterns)
        if files:
            return (
                f"{listing.directory} holds weights for {framework} alone ({', '.join(files[:3])}), which "
                f"are not read; {_IN_SAFETENSORS}"
            )
    return None


def _checkpoints_below(listing: Listing) -> str | None:
    if "config.json" in listing.names or listing.has_weights():
        return None
    below = [name for name in listing.names if (listing.directory / name / "config.json").is_file()]
    if not below:
        return None
    return (
        f"{listing.directory} is no checkpoint and has some below it: {', '.join(below[:5])}; give one of "
        f"them, {listing.directory / below[0]} for instance"
    )


KINDS: tuple[Callable[[Listing], str | None], ...] = (
    _adapter,
    _native_layout,
    _mlx_arrays,
    _mlx_quantised,
    _other_framework,
    _checkpoints_below,
)
