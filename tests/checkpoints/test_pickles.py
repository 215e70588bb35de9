"""Pickles: refused unless asked for, equal to what torch holds, and never code."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxmodels.checkpoints import pickles
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.pickles import PickleFiles, open_checkpoint, read_pickle
from jaxmodels.checkpoints.safetensors_io import TensorFiles

torch = pytest.importorskip("torch")


def state() -> dict[str, "torch.Tensor"]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return {
        "f32": base,
        "bf16": base.bfloat16(),
        "f8": base.to(torch.float8_e4m3fn),
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "scalar": torch.tensor(3.0).bfloat16(),
        "empty": torch.zeros(0, 2),
        "mask": base > 0,
        "ids": torch.arange(5),
        "parameter": torch.nn.Parameter(base),
    }


def write_sharded(directory: Path) -> None:
    tensors = list(state().items())
    weight_map = {}
    for number, shard in enumerate((dict(tensors[:4]), dict(tensors[4:])), start=1):
        name = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(shard, directory / name)
        weight_map |= dict.fromkeys(shard, name)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def assert_holds_the_state(files: PickleFiles) -> None:
    assert files.infos.keys() == state().keys()
    for name, tensor in state().items():
        array = files.read(name)
        assert array.shape == tuple(tensor.shape) == files.infos[name].shape
        assert array.dtype.name == files.infos[name].dtype
        assert str(tensor.dtype) == f"torch.{array.dtype.name}"
        np.testing.assert_array_equal(
            array.astype(np.float64), tensor.detach().double().numpy(), err_msg=name
        )


def test_refused_by_default(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle.*pass allow_pickle=True"):
        open_checkpoint(tmp_path)
    write_sharded(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin\.index\.json is a pickle"):
        open_checkpoint(tmp_path)


def test_safetensors_come_first(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert isinstance(open_checkpoint(tmp_path, allow_pickle=True), TensorFiles)


def test_an_empty_directory_has_no_weights(tmp_path: Path) -> None:
    for allow in (True, False):
        with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
            open_checkpoint(tmp_path, allow_pickle=allow)
    with pytest.raises(CheckpointError, match=r"neither pytorch_model\.bin nor"):
        read_pickle(tmp_path)


def test_holds_what_torch_saved(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    files = open_checkpoint(tmp_path, allow_pickle=True)
    assert isinstance(files, PickleFiles)
    assert_holds_the_state(files)


def test_the_format_of_old_torch_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {name: tensor for name, tensor in state().items() if name != "f8"}  # float8 came later
    torch.save(old, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    files = read_pickle(tmp_path)
    loads = []
    monkeypatch.setattr(pickles, "_REOPEN_BYTES", 0)
    monkeypatch.setattr(pickles, "_load", lambda *file, load=pickles._load: loads.append(file) or load(*file))
    for name, tensor in old.items():
        np.testing.assert_array_equal(files.read(name).astype(np.float64), tensor.detach().double().numpy())
    assert len(loads) == 1


def test_shards_and_reopening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sharded(tmp_path)
    assert_holds_the_state(read_pickle(tmp_path))
    monkeypatch.setattr(pickles, "_REOPEN_BYTES", 0)
    assert_holds_the_state(read_pickle(tmp_path))


def test_arrays_are_the_callers_own(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    files = read_pickle(tmp_path)
    array = files.read("f32")
    array[:] = 0
    assert files.read("f32").any()


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"a": Attack()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not a readable pickle"):
        open_checkpoint(tmp_path, allow_pickle=True)


def test_refuses_truncated_and_missing_shards(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    shard = tmp_path / "pytorch_model-00002-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin is not a readable pickle"):
        read_pickle(tmp_path)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin is missing"):
        read_pickle(tmp_path)


def test_refuses_an_index_that_disagrees(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    index = tmp_path / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = "pytorch_model-00001-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="'ghost' should be in pytorch_model-00001"):
        read_pickle(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list; it must hold a dict"),
        (
            {"state_dict": {"a": torch.zeros(1)}},
            "'state_dict' is a dict; a checkpoint must map names to tensors",
        ),
    ],
)
def test_refuses_what_is_not_a_dict_of_tensors(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        read_pickle(tmp_path)


def test_refuses_missing_tensors_and_foreign_dtypes(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "pytorch_model.bin")
    files = read_pickle(tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor 'a' has dtype torch\.complex128"):
        files.read("a")
    with pytest.raises(CheckpointError, match="no tensor 'b'"):
        files.read("b")


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"needs PyTorch: pip install 'jaxmodels\[torch\]'"):
        open_checkpoint(tmp_path, allow_pickle=True)


def test_reads_the_files_that_it_opened(tmp_path: Path) -> None:
    torch.save({"only": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    files = read_pickle(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    torch.save({"only": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    np.testing.assert_array_equal(files.read("only"), np.ones(3))
