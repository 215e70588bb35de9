"""Programs that the command line keeps: the same tokens, from the files, and nothing from files that do not
belong to what is asked."""

import os
from dataclasses import replace

import numpy as np
import pytest
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.artefacts import ahead, executables, kept
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.samplers import Sample

PROMPTS = [[5, 4, 3, 9, 8], [7]]
SAMPLED = jm.decoding.Autoregressive(sampler=Sample(temperature=0.7))


@pytest.fixture(scope="module")
def model():
    return jm.init(jm.config_from_hf(CONFIGS["bamba"]), seed=2)


@pytest.fixture(scope="module")
def expected(model):
    return model.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3).tokens


@pytest.fixture(scope="module")
def filled(model, expected, tmp_path_factory):
    """A directory that one generation has left its programs in."""
    directory = tmp_path_factory.mktemp("kept")
    tokens = generate(model, directory)
    np.testing.assert_array_equal(tokens, expected)
    return directory


def generate(model, directory, strategy=SAMPLED, prompts=PROMPTS):
    with_kept = replace(model, runner=kept.kept_runner(directory))
    return with_kept.generate(prompts, 8, strategy, stop_tokens=(), seed=3).tokens


def programs(directory):
    return {file.name: file.stat().st_mtime_ns for file in directory.glob("*.executable")}


@pytest.fixture
def compiles(monkeypatch):
    """The names of programs that had to be compiled."""
    names, compiled = [], kept.KeptRunner._compiled

    def counted(self, key, function, *rest):
        names.append(function.name)
        return compiled(self, key, function, *rest)

    monkeypatch.setattr(kept.KeptRunner, "_compiled", counted)
    return names


@pytest.mark.sweep
def test_a_second_runner_compiles_nothing(model, filled, expected, compiles):
    np.testing.assert_array_equal(generate(model, filled), expected)
    assert compiles == []
    assert len(programs(filled)) == 3


@pytest.mark.sweep
def test_numbers_of_the_strategy_may_differ_and_its_kind_may_not(model, filled, compiles):
    colder = jm.decoding.Autoregressive(sampler=Sample(temperature=0.2))
    np.testing.assert_array_equal(
        generate(model, filled, colder),
        model.generate(PROMPTS, 8, colder, stop_tokens=(), seed=3).tokens,
    )
    assert compiles == []
    greedy = generate(model, filled, jm.decoding.Autoregressive())
    np.testing.assert_array_equal(greedy, model.generate(PROMPTS, 8, stop_tokens=(), seed=3).tokens)
    assert compiles == ["generate"]


@pytest.mark.parametrize("what", ["source", "setting"])
def test_programs_of_another_source_or_setting_are_not_used(model, filled, monkeypatch, compiles, what):
    if what == "source":
        monkeypatch.setattr(kept, "_sources", lambda: ["decoder.py 1 2"])
    else:
        monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " ")
    runner = kept.kept_runner(filled)
    runner.keys(3, 2)
    assert compiles == ["row_keys"]


def test_a_damaged_program_is_compiled_again(model, expected, tmp_path, compiles):
    generate(model, tmp_path)
    for name in programs(tmp_path):
        (tmp_path / name).write_bytes(b"damaged")
    np.testing.assert_array_equal(generate(model, tmp_path), expected)
    assert sorted(compiles) == sorted(2 * ["row_keys", "allocate", "generate"])
    generate(model, tmp_path)
    assert len(compiles) == 6


def test_the_longest_unused_go_beyond_the_bound(tmp_path):
    for age, (name, size) in enumerate([("a-1", 10), ("b-2", 20), ("c-3", 30)]):
        file = tmp_path / f"{name}.executable"
        file.write_bytes(bytes(size))
        os.utime(file, (100 - age, 100 - age))
    kept._drop_unused(tmp_path, 30)
    assert {file.name for file in tmp_path.iterdir()} == {"a-1.executable", "b-2.executable"}
    kept._drop_unused(tmp_path, -1)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_command_begins_to_read_what_it_used_last(model, filled, expected, compiles, monkeypatch):
    monkeypatch.setattr(executables, "_begun", {})
    first = replace(model, runner=kept.kept_runner(filled))
    first.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    first.runner.note("generate tiny")
    ahead.begin_kept(filled, "generate another")
    assert not executables._begun
    ahead.begin_kept(filled, "generate tiny")
    assert {file.name for file, _ in executables._begun} == set(first.runner._used)
    np.testing.assert_array_equal(generate(model, filled), expected)
    assert not executables._begun
    assert compiles == []


def test_what_has_no_text_of_its_own_is_not_kept(tmp_path):
    runner = kept.kept_runner(tmp_path)

    class Named:
        pass

    @bounded_jit(static_argnames=("way",))
    def twice(x, *, way):
        return 2 * x

    assert runner._run(twice, np.float32(3), way=Named()) == 6
    assert programs(tmp_path) == {}
