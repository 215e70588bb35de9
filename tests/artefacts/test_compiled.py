"""Compiled programs in a directory: the same tokens without a trace, and refusals."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.artefacts.compiled import compile_programs, with_programs
from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.manifest import MANIFEST_FILE
from jaxmodels.decoding.samplers import Sample
from jaxmodels.layers.spec import unflatten, walk
from jaxmodels.tpu_configs.programs import Workload

# Attention beside state space layers: every kind of buffer that a cache has.
VALUES = CONFIGS["bamba"]
PROMPTS = [[5, 4, 3, 9, 8], [7]]
SAMPLED = jm.decoding.Autoregressive(sampler=Sample(temperature=0.7))
SIZES = [Workload(batch=2, prompt=size, new_tokens=8, dtype="float32") for size in (20, 40)]


@pytest.fixture(scope="module")
def model():
    return jm.init(jm.config_from_hf(VALUES), seed=2)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "programs"
    compile_programs(path, model.config, SIZES, SAMPLED, programs=("prefill", "decode"))
    return path


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The program of a whole generation."""
    path = tmp_path_factory.mktemp("compiled") / "whole"
    compile_programs(path, model.config, SIZES[:1], SAMPLED, programs=("generate",))
    return path


def changed(directory, tmp_path, change):
    """A copy of the directory whose manifest `change` has changed."""
    copy = tmp_path / "programs"
    copy.mkdir()
    for file in directory.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    values = json.loads((copy / MANIFEST_FILE).read_text())
    change(values)
    (copy / MANIFEST_FILE).write_text(json.dumps(values))
    return copy


# In a process of its own, so that nothing is traced or compiled before.
GENERATE = """
import json, sys
import jax
import jaxmodels as jm
from jaxmodels.artefacts.compiled import with_programs
from jaxmodels.decoding.samplers import Sample

values, programs, prompts, params = map(json.loads, sys.argv[1:])
model = jm.load(params)
model = with_programs(model, programs)
compiled, traced = [], []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **what: (
        compiled.append(event) if event.endswith("backend_compile_duration")
        else traced.append(what) if event.endswith("jaxpr_to_mlir_module_duration") else None
    )
)
strategy = jm.decoding.Autoregressive(sampler=Sample(temperature=0.7))
tokens = model.generate(prompts, 8, strategy, stop_tokens=(), seed=3).tokens
print(json.dumps([tokens.tolist(), len(compiled), len(traced)]))
"""


@pytest.mark.sweep
def test_programs_for_weights_in_few_bits_are_for_no_others(tmp_path):
    whole = jm.init(jm.config_from_hf(CONFIGS["llama"]), seed=2)
    model = whole.quantized("int8")
    compile_programs(
        tmp_path / "few", model.config, SIZES[:1], SAMPLED, programs=("generate",), quantize="int8"
    )
    expected = model.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    ours = with_programs(model, tmp_path / "few").generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    with pytest.raises(ArtefactError, match=r"in float32 with weights in int8, and .* in float32; compile"):
        with_programs(whole, tmp_path / "few")


@pytest.mark.sweep
def test_programs_have_experts_in_one_memory(tmp_path):
    config = jm.config_from_hf({**CONFIGS["qwen3_moe"], "num_hidden_layers": 1})
    jm.save(jm.init(config, seed=2), tmp_path / "model")
    here, there = (
        jm.load(tmp_path / "model", experts=memory, quantize="int8") for memory in ("device", "host")
    )
    compile_programs(
        tmp_path / "programs", config, SIZES[:1], SAMPLED, programs=("generate",), quantize="int8",
        experts="host",
    )  # fmt: skip
    expected = here.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    compiled = with_programs(there, tmp_path / "programs")
    ours = compiled.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    message = "are for --experts host, and the model here is loaded with --experts device; load it as"
    with pytest.raises(ArtefactError, match=message):
        with_programs(here, tmp_path / "programs")


@pytest.mark.parametrize(
    ("experts", "message"),
    [("disk", "experts must be 'device', 'host' or"), ("host", "the model has no mixture of experts")],
)
def test_experts_that_cannot_be_in_host_memory_are_refused(model, tmp_path, experts, message):
    with pytest.raises(ValueError, match=message):
        compile_programs(tmp_path / "x", model.config, SIZES, SAMPLED, experts=experts)


@pytest.mark.sweep
def test_experts_in_another_order_are_put_into_that_of_the_programs(tmp_path):
    """As a TPU may hold stacks of experts that were not loaded by this package."""
    plain = jm.init(jm.config_from_hf(CONFIGS["mixtral"]), seed=2)
    backwards = Format(Layout((2, 1, 0)), SingleDeviceSharding(jax.devices()[0]))
    leaves = dict(walk(plain.params))
    stacks = [path for path, param in walk(plain.config.spec()) if param.is_expert_stack]
    assert stacks
    leaves |= {path: jax.device_put(leaves[path], backwards) for path in stacks}
    model = dataclasses.replace(plain, params=unflatten(leaves, plain.params))
    compile_programs(tmp_path / "whole", model.config, SIZES[:1], SAMPLED, programs=("generate",))
    expected = plain.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    compiled = with_programs(model, tmp_path / "whole").generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    np.testing.assert_array_equal(compiled.tokens, expected.tokens)


@pytest.mark.sweep
def test_a_fresh_process_generates_the_same_and_compiles_nothing(model, whole, tmp_path):
    saved = tmp_path / "model"
    jm.save(model, saved)
    arguments = map(json.dumps, (VALUES, str(whole), PROMPTS, str(saved)))
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, *arguments], check=True, capture_output=True, text=True
    )
    tokens, compiled, traced = json.loads(done.stdout)
    expected = model.generate(PROMPTS, 8, SAMPLED, stop_tokens=(), seed=3)
    np.testing.assert_array_equal(tokens, expected.tokens)
    assert (compiled, traced) == (0, 0)


@pytest.mark.sweep
@pytest.mark.parametrize("length", [3, 40])
def test_a_stream_takes_the_shortest_programs_that_hold_its_prompt(model, directory, length):
    compiled = with_programs(model, directory)
    prompts = [list(range(1, length)), [6, 5]]

    def streamed(with_model):
        plan = with_model._plan(prompts, 8, SAMPLED, (), None, 1, None)
        results = jm.decoding.generation.stream(
            model.config, model.params, SAMPLED, plan, 3, with_model.runner
        )
        return plan, [result.tokens for result in results]

    plan, results = streamed(compiled)
    assert plan.request.tokens.shape == (2, 32 if length < 32 else 64)
    np.testing.assert_array_equal(results, streamed(model)[1])
    assert {name.partition("-")[0] for name in compiled.runner._loaded} == {
        "prefill", "decode", "allocate", "keys",
    }  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("sdar", jm.decoding.MaskedDiffusion()),
        ("bamba", jm.decoding.Speculative(draft=jm.decoding.PromptLookup())),
        ("bamba", jm.decoding.Jacobi()),
    ],
    ids=["masked", "speculative", "jacobi"],
)
def test_loop_states_of_all_kinds_go_from_program_to_program(tmp_path, family, strategy):
    plain = jm.init(jm.config_from_hf(CONFIGS[family]), seed=2)
    compile_programs(tmp_path / "programs", plain.config, SIZES[:1], strategy, programs=("prefill", "decode"))
    compiled = with_programs(plain, tmp_path / "programs")
    plan = compiled._plan(PROMPTS, 8, strategy, (), None, 1, None)
    results = jm.decoding.generation.stream(plain.config, plain.params, strategy, plan, 3, compiled.runner)
    expected = plain.generate(PROMPTS, 8, strategy, stop_tokens=(), seed=1)
    np.testing.assert_array_equal(list(results)[-1].tokens, expected.tokens)


def test_numbers_of_the_strategy_may_differ(model, whole):
    colder = jm.decoding.Autoregressive(sampler=Sample(temperature=0.2))
    result = with_programs(model, whole).generate(PROMPTS, 8, colder, stop_tokens=(), seed=3)
    expected = model.generate(PROMPTS, 8, colder, stop_tokens=(), seed=3)
    np.testing.assert_array_equal(result.tokens, expected.tokens)


@pytest.mark.parametrize(
    ("prompts", "new", "asked"),
    [
        ([[1] * 65, [2]], 8, "2 rows, prompts of 65 and answers of 8 tokens"),
        ([[1], [2]], 65, "2 rows, prompts of 1 and answers of 65 tokens"),
        ([[1]], 8, "1 rows, prompts of 1"),
    ],
)
def test_what_no_program_holds_is_refused_with_what_there_is(model, directory, prompts, new, asked):
    listed = r"2 x \(32 \+ 64 tokens, 128 slots\), 2 x \(64 \+ 64 tokens, 128 slots\)"
    with pytest.raises(ArtefactError, match=f"are for {listed}; asked for are {asked}"):
        with_programs(model, directory).generate(prompts, new, SAMPLED, stop_tokens=())


def test_a_program_that_was_not_compiled_is_named(model, directory):
    with pytest.raises(ArtefactError, match=r"no generate program .*holds allocate, decode, keys, prefill"):
        with_programs(model, directory).generate(PROMPTS, 8, SAMPLED, stop_tokens=())


def test_another_strategy_is_refused_by_both(model, directory):
    with pytest.raises(ArtefactError, match=r"decode by .*Sample\(.*asked for is .*Greedy\(\)"):
        with_programs(model, directory).generate(PROMPTS, 8, stop_tokens=())


def test_another_model_is_refused_by_both(directory):
    other = jm.init(jm.config_from_hf(CONFIGS["llama"]))
    with pytest.raises(ArtefactError, match=r"are for a bamba of 2 blocks.*and the model here is a llama of"):
        with_programs(other, directory)


def test_another_dtype_is_refused_by_both(model, directory):
    half = jm.init(model.config, dtype="bfloat16")
    with pytest.raises(ArtefactError, match=r"in float32, and the model here is .* in bfloat16"):
        with_programs(half, directory)


@pytest.mark.parametrize(
    ("part", "name", "value", "told"),
    [
        ("versions", "jaxlib", "0.4.1", r"jaxlib 0\.4\.1, and here it is \d"),
        ("device", "kind", "TPU v6 lite", "kind TPU v6 lite, and here it is cpu"),
        ("device", "count", 4, "count 4, and here it is 1"),
    ],
)
def test_another_version_or_device_is_refused_by_both(model, directory, tmp_path, part, name, value, told):
    copy = changed(directory, tmp_path, lambda values: values[part].update({name: value}))
    with pytest.raises(ArtefactError, match=f"were compiled for {told}"):
        with_programs(model, copy)


def test_damaged_and_missing_files_are_named(model, directory, tmp_path):
    copy = changed(directory, tmp_path, lambda values: None)
    compiled = with_programs(model, copy)
    keys = next(copy.glob("keys-*"))
    keys.write_bytes(keys.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"keys-batch2.executable has the SHA-256 .* it is damaged"):
        compiled.generate(PROMPTS, 8, SAMPLED, stop_tokens=())
    keys.unlink()
    with pytest.raises(ArtefactError, match=r"keys-batch2.executable cannot be read"):
        compiled.generate(PROMPTS, 8, SAMPLED, stop_tokens=())


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 0}', "no JSON"])
def test_what_is_no_manifest_is_refused(model, tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(ArtefactError, match=r"manifest\.json"):
        with_programs(model, tmp_path)


def test_a_directory_without_a_manifest_is_refused(model, tmp_path):
    with pytest.raises(ArtefactError, match=r"no directory of compiled programs.*jaxmodels tpu compile"):
        with_programs(model, tmp_path)


def test_no_workload_is_refused(model, tmp_path):
    with pytest.raises(ArtefactError, match="workloads: got none"):
        compile_programs(tmp_path / "x", model.config, [], SAMPLED)
