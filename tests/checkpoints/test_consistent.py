"""A load that overlaps saves to the same directory reads one checkpoint or another."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.checkpoints import atomic, consistent, locks
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.io import Format


@contextmanager
def saves_go_on(path: Path, format: Format) -> Iterator[None]:
    """Saves in turn a model of ones and one of twos until the block ends."""
    model = jm.load("tiny-mamba2")
    models = [
        replace(model, params=jax.tree.map(lambda leaf, v=value: np.full_like(leaf, v), model.params))
        for value in (1, 2)
    ]
    jm.save(models[0], path, format)
    stop = threading.Event()

    def save_in_turn() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            jm.save(models[turn % 2], path, format)

    thread = threading.Thread(target=save_in_turn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("format", ["hf", "orbax"])
@pytest.mark.parametrize("locking", ["locks", "no locks"])
def test_loads_during_saves_do_not_mix(
    tmp_path: Path, format: Format, locking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if locking == "no locks":

        def flock(*_: object) -> None:
            raise OSError("no locks here")

        monkeypatch.setattr(locks.fcntl, "flock", flock)
    with saves_go_on(tmp_path / "model", format):
        for _ in range(10):
            leaves = jax.tree.leaves(jm.load(tmp_path / "model").params)
            assert len({float(np.asarray(leaf).ravel()[0]) for leaf in leaves}) == 1


def put(path: Path, text: str) -> None:
    with replace_directory(path) as directory:
        for name in "ab":
            (directory / name).write_text(text)


def test_a_reading_begun_before_a_save_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save does not wait for the reader here, as on a file system without locks."""
    monkeypatch.setattr(atomic, "_READERS_SECONDS", 0.0)
    path, saves = tmp_path / "c", iter(["second", "third"])
    put(path, "first")

    def read() -> tuple[str, str]:
        first = (path / "a").read_text()
        for text in saves:
            put(path, text)
            break
        return first, (path / "b").read_text()

    assert read_consistently(path, read) == ("third", "third")


def test_a_save_waits_for_readers(tmp_path: Path) -> None:
    path = tmp_path / "c"
    put(path, "first")
    writer = threading.Thread(target=put, args=(path, "second"))

    def read() -> tuple[str, str]:
        first = (path / "a").read_text()
        writer.start()
        writer.join(0.2)
        return first, (path / "b").read_text()

    assert read_consistently(path, read) == ("first", "first")
    writer.join()
    assert (path / "a").read_text() == "second"


def test_a_directory_that_never_rests_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_READERS_SECONDS", 0.0)
    put(tmp_path / "c", "first")
    with pytest.raises(CheckpointError, match=f"c was replaced {consistent.MOST_ATTEMPTS} times while"):
        read_consistently(tmp_path / "c", lambda: put(tmp_path / "c", "next"))


def test_errors_of_an_undisturbed_reading_are_raised_once(tmp_path: Path) -> None:
    put(tmp_path / "c", "first")
    calls = []

    def read() -> None:
        calls.append(1)
        raise CheckpointError("bad")

    with pytest.raises(CheckpointError, match="bad"):
        read_consistently(tmp_path / "c", read)
    assert len(calls) == 1
