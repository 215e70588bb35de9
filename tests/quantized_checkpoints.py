"""What tests of quantised checkpoints share: storing the linear layers of a small one, and reading it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import jaxmodels as jm
from jaxmodels.checkpoints.huggingface import open_weights

VALUES = {
    "model_type": "qwen2",
    "vocab_size": 29,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "dtype": "float16",
}


@dataclass(frozen=True)
class Bench:
    """tensors: of the checkpoint, in float16. directory: where `write` puts another. linears: names."""

    tensors: Mapping[str, torch.Tensor]
    directory: Path

    @property
    def linears(self) -> list[str]:
        """The layers that get quantised, without ``.weight``."""
        return [name.removesuffix(".weight") for name in self.tensors if name.endswith("_proj.weight")]

    def write(self, tensors: Mapping[str, torch.Tensor], settings: Any, **values: Any) -> Path:
        """A checkpoint of these tensors whose configuration says that they are quantised."""
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, self.directory / "model.safetensors")
        config = {**VALUES, "quantization_config": settings, **values}
        (self.directory / "config.json").write_text(json.dumps(config))
        return self.directory

    def store(
        self, settings: Any, pack: Callable[[str, torch.Tensor], tuple[dict[str, torch.Tensor], torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Writes the checkpoint with each linear layer as `pack` stores it; gives the weights it stands for.

        `pack` takes a layer's name and weight, and gives the stored tensors and the weight that they mean.
        """
        stored, meant = dict(self.tensors), dict(self.tensors)
        for name in self.linears:
            parts, meant[f"{name}.weight"] = pack(name, stored.pop(f"{name}.weight"))
            stored |= parts
        self.write(stored, settings)
        return meant


def assert_reads(directory: Path, meant: Mapping[str, torch.Tensor]) -> None:
    """A checkpoint reads as these tensors, bit for bit, and as a model of them."""
    reader = open_weights(directory)
    assert set(reader.infos) == set(meant)
    for name, tensor in meant.items():
        info, array = reader.infos[name], reader.read(name)
        assert (info.shape, info.dtype) == (array.shape, array.dtype.name), name
        assert array.dtype.name == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy(), err_msg=name)
    model = jm.load(directory, "float32")
    jm.save(model, directory / "saved")
    for name, tensor in load_file(directory / "saved" / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, meant[name].float(), err_msg=name)
