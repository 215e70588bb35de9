"""Where compiled programs are kept between calls of the command line."""

import json
import os
import subprocess
import sys

import pytest

from jaxmodels.artefacts import compilation_cache as cache

VARIABLES = (cache.PLACE, cache.BOUND, cache.SWITCH, "XDG_CACHE_HOME", *cache.EVERY_PROGRAM)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment that says nothing of caches, with a home of its own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_the_cache_is_on_in_the_users_cache_directory_with_a_bound(bare, tmp_path):
    expected = tmp_path / ".cache" / "jaxmodels" / "compiled"
    given = cache.settings()
    assert cache.place() == expected
    assert expected.is_dir()
    assert given[cache.PLACE] == str(expected)
    assert int(given[cache.BOUND]) == cache.MOST_BYTES


def test_the_systems_cache_directory_is_obeyed(bare, tmp_path):
    bare.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache.place() == tmp_path / "elsewhere" / "jaxmodels" / "compiled"


def test_a_place_that_the_user_names_is_left_to_jax(bare, tmp_path):
    bare.setenv(cache.PLACE, str(tmp_path / "mine"))
    assert cache.settings() == {}
    assert cache.place() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()


def test_generations_are_kept_in_the_default_place_alone(bare, tmp_path):
    assert cache.kept_place() is None  # nothing is turned on
    bare.setenv(cache.PLACE, str(cache.default_place()))
    assert cache.kept_place() == cache.default_place() / "generations"
    bare.setenv(cache.SWITCH, "false")
    assert cache.kept_place() is None
    bare.delenv(cache.SWITCH)
    bare.setenv(cache.PLACE, str(tmp_path / "mine"))
    assert cache.kept_place() is None


def test_what_else_is_set_stays(bare):
    bare.setenv(cache.BOUND, "1000")
    before = dict(os.environ)
    try:
        cache.turn_on()
        assert cache.bound() == 1000
        assert os.environ[cache.PLACE] == str(cache.default_place())
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_bound_that_is_no_number_is_named(bare):
    bare.setenv(cache.BOUND, "4GB")
    with pytest.raises(ValueError, match=r"JAX_COMPILATION_CACHE_MAX_SIZE must be .* got '4GB'"):
        cache.bound()


def test_without_a_place_to_write_to_it_stays_off(bare, tmp_path):
    file = tmp_path / "a file"
    file.write_text("")
    bare.setenv("XDG_CACHE_HOME", str(file))
    assert cache.settings() == {}


def test_clearing_removes_programs_alone(tmp_path):
    for name in ("jit_a-1-cache", "jit_a-1-atime", "jit_b-2-cache", ".lockfile", "notes.txt"):
        (tmp_path / name).write_bytes(bytes(10))
    (tmp_path / "generations").mkdir()
    for name in ("a-1.executable", "b.used", "notes.txt"):
        (tmp_path / "generations" / name).write_bytes(bytes(10))
    assert cache.clear(tmp_path) == cache.Contents(programs=3, size=30)
    left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*"))
    assert left == ["generations/notes.txt", "notes.txt"]
    assert cache.contents(tmp_path / "absent") == cache.Contents(programs=0, size=0)


def jaxmodels(home, *arguments):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "jaxmodels.cli", *arguments],
        env=environment | {"XDG_CACHE_HOME": str(home)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.sweep
def test_a_second_call_of_the_command_line_compiles_nothing(tmp_path):
    def held():
        return json.loads(jaxmodels(tmp_path, "cache", "--json"))

    assert held()["programs"] == 0
    first = jaxmodels(tmp_path, "generate", "def f(x):", "-m", "tiny-mamba2", "-n", "4", "-q")
    filled = held()
    assert filled["programs"] > 2
    assert filled["bound"] == cache.MOST_BYTES
    assert jaxmodels(tmp_path, "generate", "def f(x):", "-m", "tiny-mamba2", "-n", "4", "-q") == first
    assert held() == filled
    assert jaxmodels(tmp_path, "cache", "--clear").startswith(f"removed {filled['programs']} programs")
    assert held()["programs"] == 0
