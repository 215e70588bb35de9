"""Forms that are not read are recognised, and what is said of each tells what to do."""

import json
import shutil
from pathlib import Path

import pytest

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.unreadable import check_readable
from jaxmodels.io import Format

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 15\n"
ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"})
MLX = json.dumps({"model_type": "llama", "quantization": {"group_size": 64, "bits": 4}})

# A name for the test, the files of the directory, and what is said of it.
KINDS = [
    (
        "pointer",
        {"config.json": "{}", "model.safetensors": POINTER},
        r"model\.safetensors is a Git LFS pointer.*git lfs pull",
    ),
    ("pointer-config", {"config.json": POINTER}, r"config\.json is a Git LFS pointer"),
    (
        "pointer-tokenizer",
        {"config.json": "{}", "tokenizer.json": POINTER},
        r"tokenizer\.json is a Git LFS pointer",
    ),
    (
        "adapter",
        {"adapter_config.json": ADAPTER, "adapter_model.safetensors": "x"},
        r"a LORA adapter and no model; load 'org/base' with it: jaxmodels\.load\('org/base', adapter='/",
    ),
    (
        "adapter-of-nothing",
        {"adapter_config.json": "{"},
        "an? adapter and no model; load its base model with it",
    ),
    (
        "mistral",
        {"params.json": "{}", "consolidated.safetensors": "x"},
        r"vendor's own code \(params\.json, consolidated\.safetensors\)",
    ),
    (
        "meta",
        {"params.json": "{}", "consolidated.00.pth": "x"},
        r"vendor's own code \(params\.json, consolidated\.00\.pth\)",
    ),
    ("mlx", {"config.json": "{}", "weights.npz": "x"}, r"weights\.npz holds weights of MLX"),
    (
        "mlx-quantised",
        {"config.json": MLX, "model.safetensors": "x"},
        "quantised by MLX .*'bits': 4.*--dequantize",
    ),
    ("onnx", {"config.json": "{}", "model.onnx": "x"}, r"weights for ONNX alone \(model\.onnx\)"),
    ("tensorflow", {"config.json": "{}", "tf_model.h5": "x"}, "weights for TensorFlow alone"),
    ("flax", {"config.json": "{}", "flax_model.msgpack": "x"}, "weights for Flax alone"),
    ("torch", {"config.json": "{}", "model.pth": "x"}, "weights for TorchScript or bare PyTorch alone"),
    (
        "below",
        {"checkpoint-5/config.json": "{}", "trainer_state.json": "{}"},
        r"has some below it: checkpoint-5; give one of them, .*checkpoint-5",
    ),
]


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.mark.parametrize(
    ("files", "message"), [pytest.param(files, message, id=name) for name, files, message in KINDS]
)
def test_what_to_do_is_said(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        jm.load(write(tmp_path, files))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"adapter_config.json": ADAPTER},  # merged: the weights are there too
        {"params.json": "{}", "consolidated.safetensors": "x"},
        {"model.onnx": "x", "tf_model.h5": "x"},
        {"checkpoint-5/config.json": "{}"},
        {"pytorch_model.bin": POINTER, "notes.json": POINTER},  # not what is read
    ],
    ids=str,
)
def test_what_lies_beside_a_readable_checkpoint_does_not_matter(
    tmp_path: Path, files: dict[str, str]
) -> None:
    copy = shutil.copytree(resolve("tiny-mamba2"), tmp_path / "model")
    write(copy, files)
    assert jm.load(copy).config == jm.load("tiny-mamba2").config


@pytest.mark.parametrize("format", ["hf", "orbax"])
def test_own_checkpoints_are_readable(tmp_path: Path, format: Format) -> None:
    jm.save(jm.load("tiny-mamba2"), tmp_path / "model", format)
    check_readable(tmp_path / "model")


def test_an_adapter_that_peft_writes(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, peft.LoraConfig(r=1, target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    place = str(tmp_path / "base")
    with pytest.raises(CheckpointError) as caught:
        jm.load(tmp_path / "a")
    assert f"load {place!r} with it: jaxmodels.load({place!r}, adapter=" in str(caught.value)


def test_the_command_line_says_so_too(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from jaxmodels.cli import app

    write(tmp_path, {"adapter_config.json": ADAPTER})
    for command in (["inspect", str(tmp_path)], ["generate", "x", "--model", str(tmp_path)]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert "LORA adapter and no model" in result.stderr
