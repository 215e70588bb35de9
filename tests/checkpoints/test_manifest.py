"""A changed byte of a saved checkpoint never loads silently, and checking costs little."""

import json
import os
import random
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.checkpoints import manifest
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.manifest import MANIFEST_FILE, open_verification, write_manifest
from jaxmodels.io import Format

FORMATS = ("hf", "orbax")
FLIPS = 20
FLIPS_OF_THE_SWEEP = 150


@pytest.fixture(scope="module")
def model() -> jm.Model:
    bundled = jm.load("tiny-mamba2")
    return replace(bundled, metadata={**bundled.metadata, "dtype": "float32"})  # as it is saved here


@pytest.fixture(scope="module", params=FORMATS)
def saved(request: pytest.FixtureRequest, model: jm.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    jm.save(model, directory, request.param)
    return directory


def same(ours: jm.Model, theirs: jm.Model) -> bool:
    leaves = zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True)
    return (
        ours.config == theirs.config
        and ours.metadata == theirs.metadata
        and ours.generation == theirs.generation
        and ours.tokenizer.files == theirs.tokenizer.files
        and all(np.array_equal(one, other) for one, other in leaves)
    )


def flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.unlink()  # the files of the copy are hard links
    file.write_bytes(content)


def load_or_message(directory: Path) -> jm.Model | str:
    try:
        return jm.load(directory)
    except CheckpointError as error:
        return str(error)


def check_flips(saved: Path, model: jm.Model, tmp_path: Path, flips: int, draw: random.Random) -> None:
    """Flips one bit of one file at a time, each file in turn."""
    names = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.stat().st_size)
    names = [name for name in names if (saved / name).is_file()]
    refused = 0
    for number in range(flips):
        name, copy = names[number % len(names)], tmp_path / str(number)
        shutil.copytree(saved, copy, copy_function=os.link)
        flip(copy / name, draw)
        outcome = load_or_message(copy)
        if isinstance(outcome, str):
            refused += 1
            assert name.name == MANIFEST_FILE or str(copy / name) in outcome
        else:
            assert same(outcome, model), f"{name} was damaged and loaded"
    assert refused >= flips // 2


def test_a_flipped_bit_is_noticed(saved: Path, model: jm.Model, tmp_path: Path) -> None:
    check_flips(saved, model, tmp_path, FLIPS, random.Random(0))


@pytest.mark.sweep
def test_many_flipped_bits_are_noticed(saved: Path, model: jm.Model, tmp_path: Path) -> None:
    check_flips(saved, model, tmp_path, FLIPS_OF_THE_SWEEP, random.Random(1))


def test_every_file_is_listed(saved: Path) -> None:
    listed = json.loads((saved / MANIFEST_FILE).read_text())["files"]
    there = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert set(listed) == there - {MANIFEST_FILE}


def test_the_checksums_are_those_of_zlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(manifest, "_READ_BYTES", 64)
    content = np.random.default_rng(0).bytes(2500)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "data").write_bytes(content)
    (tmp_path / "empty").touch()
    write_manifest(tmp_path)
    values = json.loads((tmp_path / MANIFEST_FILE).read_text())
    pieces = [f"{zlib.crc32(content[start : start + 1000]):08x}" for start in (0, 1000, 2000)]
    assert values == {
        "algorithm": "crc32",
        "piece_bytes": 1000,
        "files": {
            "below/data": {"size": 2500, "pieces": pieces},
            "empty": {"size": 0, "pieces": ["00000000"]},
        },
    }


@pytest.fixture
def in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(manifest, "_PIECE_BYTES", 1000)
    (tmp_path / "data").write_bytes(bytes(2500))
    write_manifest(tmp_path)
    return tmp_path


def test_the_place_of_a_change_is_told(in_pieces: Path) -> None:
    content = bytearray(in_pieces.joinpath("data").read_bytes())
    content[2100] = 1
    (in_pieces / "data").write_bytes(content)
    verification = open_verification(in_pieces)
    verification.check_small()
    told = pytest.raises(
        CheckpointError, match=r"data is not .* saved: it has other bytes between 2000 and 2500"
    )
    with told, verification.checking_large():
        pass


def test_a_damaged_file_explains_an_error_of_reading_it(in_pieces: Path) -> None:
    (in_pieces / "data").write_bytes(bytes(2400))
    told = pytest.raises(CheckpointError, match=r"data is not .* it has 2400 bytes and had 2500")
    with told as caught, open_verification(in_pieces).checking_large():
        raise CheckpointError("a consequence")
    assert str(caught.value.__context__) == "a consequence"


def test_what_was_opened_is_checked(in_pieces: Path) -> None:
    verification = open_verification(in_pieces)
    (in_pieces / "data").unlink()
    (in_pieces / "data").write_bytes(b"another checkpoint's")
    with verification.checking_large():
        pass


def test_files_of_the_user_are_not_checked(saved: Path, model: jm.Model, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(saved, copy)
    (copy / "README.md").write_text("mine")
    assert same(jm.load(copy), model)


def test_a_change_of_the_users_own_loads_when_asked_for(saved: Path, model: jm.Model, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(saved, copy)
    file = copy / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    with pytest.raises(
        CheckpointError, match=r"config\.json is not .* delete checksums\.json, or pass verify"
    ):
        jm.load(copy)
    assert same(jm.load(copy, verify=False), model)
    (copy / MANIFEST_FILE).unlink()
    assert same(jm.load(copy), model)


def test_a_listed_file_that_is_missing_is_named(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(saved, copy)
    (copy / "generation_config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json is missing, and checksums\.json lists"
    ):
        jm.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "md4"}, "algorithm is 'md4'; only 'crc32' is read"),
        ({"files": []}, r"files is \[\]; it must map"),
        ({"piece_bytes": 0}, "piece_bytes must be"),
        ({"piece_bytes": "9"}, "piece_bytes must be"),
        ({"files": {"../data": {"size": 1, "pieces": ["0"]}}}, r"files has the name '\.\./data'"),
        ({"files": {"/data": {"size": 1, "pieces": ["0"]}}}, "files has the name '/data'"),
        ({"files": {"data": 3}}, r"files\['data'\] is 3; it must be an object"),
        ({"files": {"data": {"size": -1, "pieces": []}}}, "size of 'data' must be"),
        ({"files": {"data": {"size": 2500, "pieces": ["0"]}}}, "pieces of 'data' is .* it must list 3"),
        ({"files": {"data": {"size": 2500, "pieces": [0, 0, 0]}}}, "pieces of 'data' is .* it must list 3"),
    ],
    ids=str,
)
def test_a_bad_manifest_is_named(in_pieces: Path, change: dict[str, object], message: str) -> None:
    file = in_pieces / MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=f"checksums.json: {message}"):
        open_verification(in_pieces)


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_save_replaces_leaves_no_checksums(model: jm.Model, tmp_path: Path, format: Format) -> None:
    for form in ("hf", "orbax", format):
        jm.save(model, tmp_path / "model", form)
        assert same(jm.load(tmp_path / "model"), model)
