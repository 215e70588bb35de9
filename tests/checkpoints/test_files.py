"""Whatever is wrong with a file is said by its name, and nothing waits for a pipe."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import lasting_path, open_file, read_json_object, read_text
from jaxmodels.checkpoints.hub import resolve


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path.name)  # names of sockets are short: a longer path is refused


def make_circle(path: Path) -> None:
    path.symlink_to(path)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "directory": (Path.mkdir, "is a directory; it must be a regular file"),
    "pipe": (os.mkfifo, "is a named pipe; it must be a regular file"),
    "socket": (make_socket, "(cannot be read|is a socket)"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device; it must be a regular file"),
    "circle": (make_circle, "cannot be read: Too many levels of symbolic links"),
    "broken link": (
        lambda path: path.symlink_to("absent"),
        "is a symbolic link to a file that is not there|does not exist",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "generation_config.json",
        "tokenizer.json",
        "checksums.json",
    ],
)
def test_what_is_no_regular_file_is_refused(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = BAD_FILES[kind]
    source = resolve("tiny-mamba2")
    directory = tmp_path / "model"
    directory.mkdir()
    if name != "config.json":
        (directory / "config.json").symlink_to(source / "config.json")
    monkeypatch.chdir(directory)
    make(directory / name)
    with pytest.raises(CheckpointError, match=message) as caught:
        jm.load(directory)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "circle"])
@pytest.mark.parametrize("name", ["model.gguf", "model"])
def test_a_path_to_no_regular_file_is_refused(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = BAD_FILES[kind]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name} {message}"):
        jm.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/" + "a" * 300, r"aaa(\.\.\.)? cannot be read: File name too long"),
        ("./circle", "circle cannot be read: Too many levels of symbolic links"),
        ("circle/below", "circle/below cannot be read: Too many levels of symbolic links"),
        ("~nobody-of-this-name/model", "'~nobody-of-this-name/model' is no path"),
        ("./file", "file is a file"),
        ("./file/below", "'./file/below' is no model"),
    ],
)
def test_paths_that_cannot_be_are_named(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_circle(tmp_path / "circle")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=message):
        jm.load(name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(CheckpointError, match="file cannot be read: Permission denied"):
        open_file(tmp_path / "file")


def test_an_open_file_outlasts_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("first")
    with open_file(tmp_path / "file") as file:
        (tmp_path / "file").unlink()
        (tmp_path / "file").write_text("second")
        assert lasting_path(file, tmp_path / "file").read_text() == "first"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "cannot be read as UTF-8 text"),
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"1" * 5_000, "is not valid JSON"),
        (b"[]", "holds a JSON list; it must hold an object"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"file\.json {message}"):
        read_json_object(tmp_path / "file.json")


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="absent does not exist"):
        read_json_object(tmp_path / "absent")
