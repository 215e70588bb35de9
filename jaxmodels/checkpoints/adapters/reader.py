"""An adapter directory as `peft` writes it: ``adapter_config.json`` and ``adapter_model.safetensors``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxmodels.checkpoints.adapters.settings import LoraSettings, read_settings
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.pickles import read_pickle
from jaxmodels.checkpoints.safetensors_io import TensorReader, open_tensors

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"

_PREFIX = "base_model.model."
# What follows a module's name. The name of the adapter, "default", is in files that peft did not write.
_NAME = re.compile(
    r"(?P<module>.+?)(?P<base>(\.base_layer)*)\."
    r"(?P<part>lora_[AB]\.(?:default\.)?weight|lora_B\.(?:default\.)?bias|lora_embedding_[AB]"
    r"|lora_magnitude_vector(?:\.weight)?"
    r"|token_adapter\.trainable_tokens_delta|(?:modules_to_save\.)?(?:default\.)?(?:weight|bias))"
)
_PARTS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_B.bias": "shift",
    "lora_embedding_A": "embedding_down",
    "lora_embedding_B": "embedding_up",
    "lora_magnitude_vector": "magnitudes",
    "lora_magnitude_vector.weight": "magnitudes",
    "token_adapter.trainable_tokens_delta": "token_rows",
    "weight": "weight",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        file: that its tensors are from.
        settings: of its configuration.
        modules: by the module's name and what it is ("down", "up", "magnitudes", ...), each tensor in
            float32. Tensors of what a module wraps are under the name with ``.base_layer``.
    """

    file: Path
    settings: LoraSettings
    modules: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)


def read_adapter(
    name_or_path: str | Path, revision: str | None = None, *, allow_pickle: bool = False
) -> Adapter:
    """Reads an adapter into memory.

    Args:
        name_or_path: a directory or a hub id.
        revision: branch, tag or commit of a hub id.
        allow_pickle: read ``adapter_model.bin`` where there are no safetensors. Only for sources you trust.

    Raises:
        CheckpointError: there is no such adapter, it is of another type than LoRA, or a tensor is unknown.
    """
    directory = resolve(name_or_path, revision, allow_pickle=allow_pickle)
    settings = read_settings(directory)
    tensors = _open(directory, allow_pickle)
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, info in tensors.infos.items():
        found = _NAME.fullmatch(name.removeprefix(_PREFIX))
        if found is None:
            raise CheckpointError(
                f"{info.file}: tensor {name!r} of shape {list(info.shape)} is no part of a LoRA adapter; "
                "expected names such as 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'"
            )
        part = found["part"].replace("default.", "").removeprefix("modules_to_save.")
        parts = modules.setdefault(found["module"] + found["base"], {})
        parts[_PARTS[part]] = tensors.read(name).astype(np.float32)
    if not modules:
        raise CheckpointError(f"{directory} holds an adapter without a single tensor; fetch or save it again")
    return Adapter(file=info.file, settings=settings, modules=modules)


def _open(directory: Path, allow_pickle: bool) -> TensorReader:
    if not (directory / WEIGHTS_FILE).exists() and (directory / PICKLE_FILE).exists():
        if not allow_pickle:
            raise CheckpointError(
                f"{directory / PICKLE_FILE} is a pickle, which can run code when it is read, and there are "
                "no safetensors beside it; pass allow_pickle=True if you trust its source"
            )
        return read_pickle(directory, PICKLE_FILE)
    return open_tensors(directory, WEIGHTS_FILE)
