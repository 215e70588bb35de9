"""Programs for CUDA, TPU and CPU, made without any of the accelerators."""

import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tpu_model_configs import CONFIGS, ESSENTIAL, by_tier

import jaxmodels as jm
from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.plain import pack, unpack
from jaxmodels.artefacts.portable import (
    PLATFORMS,
    PORTABLE,
    export_programs,
    read_portable,
    write_portable,
)
from jaxmodels.decoding.samplers import Sample
from jaxmodels.layers.spec import walk
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments, host_transfers

# Two chunks of the state space layers on CPU, one elsewhere; ragged rows.
WORKLOAD = Workload(batch=2, prompt=128, new_tokens=16, capacity=256, dtype="float32")
PROMPTS = [list(range(1, 71)), [5, 4, 3]]
GREEDY = jm.decoding.Autoregressive()


def ready(model, strategy=GREEDY, seed=0):
    """The request and cache that `Model.generate` would run with, packed."""
    plan = model._plan(PROMPTS, WORKLOAD.new_tokens, strategy, (), None, seed, WORKLOAD.capacity)
    return pack(plan.request), pack(plan.cache)


# One family for each kind of state that a cache can hold.
STATES = (
    "qwen3",
    "gpt_oss",
    "deepseek_v2",
    "mamba",
    "mamba2",
    "qwen3_next",
    "recurrent_gemma",
    "lfm2",
    "minimax",
)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("family", by_tier(jm.list_families()))
def test_the_programs_of_every_family_lower_for_all_platforms(family):
    """Of families whose kind of state another has, generation alone, which is made of the other programs."""
    programs = PORTABLE if family in (*STATES, *ESSENTIAL) else ("generate",)
    artefacts = export_programs(jm.config_from_hf(CONFIGS[family]), WORKLOAD, programs=programs)
    assert tuple(artefacts) == programs
    for artefact in artefacts.values():
        assert artefact.platforms == PLATFORMS
        assert host_transfers(artefact.mlir_module()) == ()


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("family", by_tier(STATES))
def test_the_artefact_for_all_platforms_generates_the_same_tokens(family):
    model = jm.init(jm.config_from_hf(CONFIGS[family]), seed=1)
    artefacts = export_programs(model.config, WORKLOAD, programs=("generate",))
    artefact = jax.export.deserialize(artefacts["generate"].serialize())
    result = jax.jit(artefact.call)(model.params, *ready(model))
    expected = model.generate(PROMPTS, WORKLOAD.new_tokens, stop_tokens=(), capacity=WORKLOAD.capacity)
    np.testing.assert_array_equal(result["output"]["tokens"], expected.tokens)
    np.testing.assert_array_equal(result["output"]["lengths"], expected.lengths)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("family", "quantize", "numbers"),
    [
        ("llama", "int8", {"int8"}),
        ("bamba", "int4", {"int4", "int8"}),
        pytest.param("qwen3_moe", "int8", {"int8"}, marks=pytest.mark.sweep),
    ],
)
def test_weights_in_few_bits_go_into_the_artefact_as_they_are_held(family, quantize, numbers):
    whole = jm.init(jm.config_from_hf(CONFIGS[family]), seed=1)
    model = whole.quantized(quantize)
    made = export_programs(model.config, WORKLOAD, quantize=quantize, programs=("generate",))["generate"]
    artefact = jax.export.deserialize(made.serialize())
    params = pack(model.params)
    assert {str(leaf.dtype) for path, leaf in walk(params) if path.endswith("/numbers")} == numbers
    result = jax.jit(artefact.call)(params, *ready(model))
    expected = model.generate(PROMPTS, WORKLOAD.new_tokens, stop_tokens=(), capacity=WORKLOAD.capacity)
    np.testing.assert_array_equal(result["output"]["tokens"], expected.tokens)
    with pytest.raises(ValueError, match="pytree structure"):
        jax.jit(artefact.call)(whole.params, *ready(whole))


@pytest.mark.sweep
def test_prefill_and_decode_artefacts_chain_to_the_same_draws():
    model = jm.init(jm.config_from_hf(CONFIGS["qwen3"]), seed=1)
    strategy = jm.decoding.Autoregressive(sampler=Sample(temperature=0.8, top_k=20))
    artefacts = export_programs(model.config, WORKLOAD, strategy=strategy, platforms=("cpu",))
    prefill, decode = (
        jax.jit(jax.export.deserialize(artefacts[name].serialize()).call, donate_argnums=2)
        for name in ("prefill", "decode")
    )
    request, cache = ready(model, strategy, seed=3)
    carry = prefill(model.params, request, cache)
    while not carry["output"]["done"].all():
        before = int(carry["output"]["steps"])
        carry = decode(model.params, request, carry, jnp.int32(6))
        assert before < int(carry["output"]["steps"]) <= before + 6
    expected = model.generate(
        PROMPTS, WORKLOAD.new_tokens, strategy, stop_tokens=(), seed=3, capacity=WORKLOAD.capacity
    )
    np.testing.assert_array_equal(carry["output"]["tokens"], expected.tokens)


def test_the_cache_is_updated_in_place_when_it_is_donated():
    config = jm.config_from_hf(CONFIGS["mamba2"])
    artefact = export_programs(config, WORKLOAD, platforms=("cpu",), programs=("decode",))["decode"]
    given = abstract_arguments(config, WORKLOAD, GREEDY)
    arguments = (given.params, pack(given.request), pack(given.carry), given.steps)
    compiled = jax.jit(artefact.call, donate_argnums=2).lower(*arguments).compile()
    cache_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(given.cache))
    assert compiled.memory_analysis().alias_size_in_bytes >= cache_bytes


def test_branches_by_platform_survive():
    config = jm.config_from_hf(CONFIGS["mamba2"])

    def chunk_lengths(*platforms):
        artefacts = export_programs(config, WORKLOAD, platforms=platforms, programs=("prefill",))
        text = artefacts["prefill"].mlir_module()
        scores = {32: "tensor<2x4x1x32x32xf32>", 128: "tensor<2x1x1x128x128xf32>"}
        return {length for length, shape in scores.items() if shape in text}

    assert chunk_lengths("cpu") == {32}
    assert chunk_lengths("cuda") == {128}
    assert chunk_lengths("tpu") == {128}
    assert chunk_lengths("cpu", "cuda", "tpu") == {32, 128}


def test_an_artefact_names_its_platform_and_refuses_others():
    config = jm.config_from_hf(CONFIGS["llama"])
    artefact = export_programs(config, WORKLOAD, platforms=("cuda",), programs=("prefill",))["prefill"]
    assert artefact.platforms == ("cuda",)
    given = abstract_arguments(config, WORKLOAD, GREEDY)
    with pytest.raises(ValueError, match="cuda"):
        jax.jit(artefact.call).lower(given.params, pack(given.request), pack(given.cache)).compile()


@pytest.mark.parametrize("platforms", [(), ("cpu", "abacus")])
def test_unknown_platforms_are_refused(platforms):
    config = jm.config_from_hf(CONFIGS["llama"])
    with pytest.raises(ValueError, match=r"platforms: got .*cpu, cuda, tpu"):
        export_programs(config, WORKLOAD, platforms=platforms)


def test_unknown_programs_are_refused():
    with pytest.raises(ValueError, match=r"programs: got \['train'\]; known are begin, prefill, decode"):
        export_programs(jm.config_from_hf(CONFIGS["llama"]), WORKLOAD, programs=("train",))


def test_pack_and_unpack_are_inverse():
    model = jm.init(jm.config_from_hf(CONFIGS["qwen3"]))
    plan = model._plan(PROMPTS, WORKLOAD.new_tokens, GREEDY, (), None, 0, WORKLOAD.capacity)
    packed = pack((plan.request, plan.cache))
    assert packed["0"]["keys"].dtype == jnp.uint32
    request, cache = unpack((plan.request, plan.cache), packed)
    assert jax.tree.structure((request, cache)) == jax.tree.structure((plan.request, plan.cache))
    assert (request.keys == plan.request.keys).all()
    given = abstract_arguments(model.config, WORKLOAD, GREEDY)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), pack(given.request)) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), packed["0"]
    )


# Loads one file of programs and one of parameters, and generates, where jaxmodels cannot be imported.
WITHOUT_THE_PACKAGE = """
import json, sys, zipfile
sys.modules["jaxmodels"] = None
import jax, numpy as np

programs, weights, prompts = sys.argv[1:]
archive = zipfile.ZipFile(programs)
load = lambda name: jax.jit(jax.export.deserialize(bytearray(archive.read(name))).call)
size, dtypes = (json.loads(archive.read("manifest.json"))[name] for name in ("workload", "params"))
params = {}
for path, array in np.load(weights).items():
    *folders, name = path.split("/")
    inner = params
    for folder in folders:
        inner = inner.setdefault(folder, {})
    inner[name] = array.view(jax.numpy.dtype(dtypes[path][0]))  # NumPy's files do not know int4
rows = json.loads(prompts)
tokens = np.zeros((size["batch"], size["prompt"]), np.int32)
for row, ids in enumerate(rows):
    tokens[row, : len(ids)] = ids
lengths = np.array([len(ids) for ids in rows], np.int32)
ready = load("begin")(tokens, lengths, np.int32(size["new_tokens"]), np.full(4, -1, np.int32), np.int32(0),
                      np.int32(0))
whole = load("generate")(params, ready["request"], ready["cache"])["output"]["tokens"]
carry = load("prefill")(params, ready["request"], ready["cache"])
decode = load("decode")
while not carry["output"]["done"].all():
    carry = decode(params, ready["request"], carry, np.int32(4))
print(json.dumps([whole.tolist(), carry["output"]["tokens"].tolist()]))
"""
SMALL = Workload(batch=2, prompt=32, new_tokens=6, capacity=64, dtype="float32")
ROWS = [[5, 4, 3, 9, 8], [7]]


@pytest.fixture(scope="module")
def model():
    """Of two kinds of states."""
    return jm.init(jm.config_from_hf(CONFIGS["bamba"]), seed=2)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """The model, and its programs in a file."""
    file = tmp_path_factory.mktemp("portable") / "programs.zip"
    write_portable(file, model.config, SMALL)
    return model, file


@pytest.fixture(scope="module")
def written_in_few_bits(model, tmp_path_factory):
    """The model in four bits, and its programs in a file."""
    file = tmp_path_factory.mktemp("portable") / "programs.zip"
    write_portable(file, model.config, SMALL, quantize="int4", platforms=("cpu",))
    return model.quantized("int4"), file


@pytest.mark.sweep
@pytest.mark.parametrize("of", ["written", "written_in_few_bits"])
def test_one_file_generates_where_the_package_is_not(of, request, tmp_path):
    model, file = request.getfixturevalue(of)
    weights = tmp_path / "weights.npz"
    np.savez(weights, **{path: np.asarray(leaf) for path, leaf in walk(pack(model.params))})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, file, weights, json.dumps(ROWS)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    whole, by_steps = json.loads(done.stdout)
    expected = model.generate(ROWS, SMALL.new_tokens, stop_tokens=())
    np.testing.assert_array_equal(whole, expected.tokens)
    np.testing.assert_array_equal(by_steps, expected.tokens)


def test_the_file_says_what_it_holds(written):
    model, file = written
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["platforms"] == list(PLATFORMS)
    assert manifest["workload"]["capacity"] == 64
    assert manifest["params"]["embed/weight"] == ["float32", 256, 128]
    assert set(read_portable(file, model.config)) == set(PORTABLE)


def test_a_file_for_another_model_is_refused_by_both_names(written):
    _, file = written
    other = jm.config_from_hf(CONFIGS["llama"])
    with pytest.raises(ArtefactError, match=r"is for a bamba of 2 blocks.*model here is a llama of 1 block"):
        read_portable(file, other)


def test_a_file_for_another_platform_is_refused(tmp_path):
    config = jm.config_from_hf(CONFIGS["llama"])
    file = tmp_path / "cuda.zip"
    write_portable(file, config, SMALL, platforms=("cuda",), programs=("prefill",))
    with pytest.raises(ArtefactError, match=r"cuda.zip is for cuda, and here is cpu"):
        read_portable(file)


def test_what_is_no_file_of_programs_is_refused(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("text.zip", "absent.zip"):
        with pytest.raises(ArtefactError, match=f"{name} is no file of portable programs"):
            read_portable(tmp_path / name)
