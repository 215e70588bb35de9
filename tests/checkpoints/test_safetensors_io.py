"""Safetensors read and written: parity with the library, bounded memory, and every kind of broken file."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorToWrite, open_tensors, write_tensors


def awkward_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    floats = {
        f"w.{np.dtype(dtype).name}": rng.normal(size=(3, 5)).astype(dtype)
        for dtype in (
            np.float64,
            np.float32,
            np.float16,
            ml_dtypes.bfloat16,
            ml_dtypes.float8_e4m3fn,
            ml_dtypes.float8_e5m2,
            ml_dtypes.float8_e8m0fnu,
        )
    }
    return floats | {
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "odd_bytes": np.arange(7, dtype=np.uint8),
        "flags": np.array([True, False, True]),
        "transposed": np.arange(12, dtype=np.int32).reshape(3, 4).T,
        "ünïcode.weight": np.arange(3, dtype=np.int64),
    }


def to_write(tensors: dict[str, np.ndarray]) -> list[TensorToWrite]:
    return [
        TensorToWrite(name=name, shape=array.shape, dtype=array.dtype, read=lambda array=array: array)
        for name, array in tensors.items()
    ]


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name].astype(np.float64), array.astype(np.float64), err_msg=name)


def read_all(directory: Path) -> dict[str, np.ndarray]:
    files = open_tensors(directory)
    return {name: files.read(name) for name in files.infos}


def write_sharded(directory: Path) -> dict[str, np.ndarray]:
    tensors = {f"layer.{i}": np.full((4, 4), i, np.float32) for i in range(5)}
    write_tensors(directory, to_write(tensors), max_shard_bytes=2 * 64)
    return tensors


def test_round_trip_of_every_dtype(tmp_path: Path) -> None:
    tensors = awkward_tensors()
    assert write_tensors(tmp_path, to_write(tensors)) == (tmp_path / "model.safetensors",)
    assert_same(read_all(tmp_path), tensors)
    infos = open_tensors(tmp_path).infos
    assert infos["w.bfloat16"].dtype == "bfloat16"
    assert infos["transposed"].shape == (4, 3)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    torch_safetensors = pytest.importorskip("safetensors.torch")
    tensors = awkward_tensors()
    write_tensors(tmp_path, to_write(tensors))
    loaded = torch_safetensors.load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert tuple(loaded[name].shape) == array.shape
        np.testing.assert_array_equal(loaded[name].double().numpy(), array.astype(np.float64), err_msg=name)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3, ml_dtypes.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same(read_all(tmp_path), tensors)


def test_shards_and_index(tmp_path: Path) -> None:
    tensors = write_sharded(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 64
    assert index["weight_map"]["layer.4"] == "model-00003-of-00003.safetensors"
    assert load_file(tmp_path / "model-00001-of-00003.safetensors").keys() == {"layer.0", "layer.1"}
    assert_same(read_all(tmp_path), tensors)


def test_tensors_of_even_sizes_are_aligned_in_the_file(tmp_path: Path) -> None:
    even = {
        f"even.{i}": np.full((4, 4 + 4 * i), i, dtype) for i, dtype in enumerate((np.float32, np.float64))
    }
    write_tensors(tmp_path, to_write(awkward_tensors() | even))
    files = open_tensors(tmp_path)
    assert all(files.offsets[name] % 64 == 0 for name in even)
    assert all(files.offsets[name] % np.dtype(info.dtype).itemsize == 0 for name, info in files.infos.items())


def test_arrays_are_writable_and_the_file_is_not(tmp_path: Path) -> None:
    write_tensors(tmp_path, to_write(awkward_tensors()))
    files = open_tensors(tmp_path)
    files.read("w.float32")[:] = 0
    assert files.read("w.float32").any()


def test_one_tensor_is_held_while_writing(tmp_path: Path) -> None:
    alive = []

    class Tracked(np.ndarray):
        def __del__(self) -> None:
            alive.remove(id(self))

    def make() -> np.ndarray:
        assert len(alive) == 0, "an earlier tensor is still in memory"
        array = np.zeros(8, np.float32).view(Tracked)
        alive.append(id(array))
        return array

    tensors = [TensorToWrite(name=f"t{i}", shape=(8,), dtype=np.float32, read=make) for i in range(4)]
    write_tensors(tmp_path, tensors, max_shard_bytes=64)
    assert len(open_tensors(tmp_path).infos) == 4


MEASURE = """
import sys
from pathlib import Path
from jaxmodels.checkpoints.safetensors_io import open_tensors

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

before = peak()
files = open_tensors(Path(sys.argv[1]))
held = {name: files.read(name) for name in files.infos}
assert all(array.all() for array in held.values())
print((peak() - before) / sum(array.nbytes for array in held.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_reading_peaks_at_the_model_size(tmp_path: Path) -> None:
    tensors = [
        TensorToWrite(
            name=f"t{i}", shape=(8, 1 << 20), dtype=np.uint8, read=lambda: np.ones((8, 1 << 20), np.uint8)
        )
        for i in range(16)
    ]
    write_tensors(tmp_path, tensors, max_shard_bytes=40 << 20)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) <= 1.15


def test_refuses_a_missing_shard(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is missing"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_refuses_a_truncated_shard(tmp_path: Path, keep: int) -> None:
    write_sharded(tmp_path)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is truncated"):
        open_tensors(tmp_path)


def test_names_the_tensor_that_a_truncated_file_cuts(tmp_path: Path) -> None:
    save_file({"only": np.ones(100, np.float32)}, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=f"'only' ends at byte {len(data)} .* has {len(data) - 1}"):
        open_tensors(tmp_path)


def test_refuses_a_file_truncated_after_opening(tmp_path: Path) -> None:
    save_file({"only": np.ones(100, np.float32)}, tmp_path / "model.safetensors")
    files = open_tensors(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-9])
    with pytest.raises(CheckpointError, match="'only' has 391 of its 400 bytes"):
        files.read("only")


def test_reads_the_files_that_it_opened(tmp_path: Path) -> None:
    tensors = write_sharded(tmp_path)
    files = open_tensors(tmp_path)
    for path in files.files:
        path.rename(path.with_suffix(".old"))
        save_file({name: np.zeros((4, 4), np.float32) for name in tensors}, path)
    assert_same({name: files.read(name) for name in files.infos}, tensors)
    opened = list(files.files.values())
    del files
    gc.collect()
    assert all(file.closed for file in opened)


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b"[]",
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
    ],
)
def test_refuses_a_corrupt_header(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"model\.safetensors has a corrupt safetensors header"):
        open_tensors(tmp_path)


def test_refuses_a_file_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_tensors(tmp_path)


def test_refuses_a_missing_tensor_and_names_similar_ones(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    files = open_tensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor 'layer\.9' among the 5 tensors.*similar.*layer\.0"):
        files.read("layer.9")


def test_refuses_a_dtype_that_numpy_lacks(tmp_path: Path) -> None:
    header = b'{"packed": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    files = open_tensors(tmp_path)
    assert files.infos["packed"].dtype == "F4"
    with pytest.raises(CheckpointError, match="tensor 'packed' has dtype 'F4'"):
        files.read("packed")


def test_refuses_an_index_naming_a_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="'ghost' should be in model-00001-of-00003"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"weight_map": {"a": ', "not valid JSON"),
        ("[1]", "holds a JSON list"),
        ('{"metadata": {}}', "'weight_map' is None"),
        ('{"weight_map": {"a": 3}}', "tensor 'a' is in 3"),
        ('{"weight_map": {"a": "../elsewhere.safetensors"}}', "must name a file beside the index"),
        ('{"weight_map": {"a": ""}}', "must name a file beside the index"),
    ],
)
def test_refuses_a_corrupt_index(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_tensors(tmp_path)


def test_keeps_tensors_that_the_index_does_not_list(tmp_path: Path) -> None:
    tensors = write_sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"]["layer.1"]
    index.write_text(json.dumps(content))
    assert_same(read_all(tmp_path), tensors)


def test_refuses_a_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "consolidated.pth").touch()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor .*consolidated\.pth"):
        open_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="no directory"):
        open_tensors(tmp_path / "absent")


def test_writing_refuses_what_it_cannot_represent(tmp_path: Path) -> None:
    one = TensorToWrite(name="a", shape=(2,), dtype=np.float32, read=lambda: np.zeros(2, np.float32))
    with pytest.raises(CheckpointError, match="'a' is reserved or given twice"):
        write_tensors(tmp_path, [one, one])
    wide = TensorToWrite(name="a", shape=(2,), dtype=np.complex128, read=lambda: np.zeros(2, np.complex128))
    with pytest.raises(CheckpointError, match="'a' has dtype complex128"):
        write_tensors(tmp_path, [wide])
    with pytest.raises(CheckpointError, match="max_shard_bytes is 0"):
        write_tensors(tmp_path, [one], max_shard_bytes=0)
    wrong = TensorToWrite(name="a", shape=(3,), dtype=np.float32, read=lambda: np.zeros(2, np.float32))
    with pytest.raises(CheckpointError, match=r"'a' came as float32\[2\]; it was announced as float32\[3\]"):
        write_tensors(tmp_path, [wrong])


def test_writing_refuses_a_directory_with_weights(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    with pytest.raises(CheckpointError, match="must not hold weights"):
        write_tensors(tmp_path, to_write({"a": np.zeros(2, np.float32)}))
