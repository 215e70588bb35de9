"""Every family's programs go through the real TPU compiler, in a process of its own.

With libtpu installed jax looks for a TPU when it starts, so this process only reads the reports.
"""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import pytest
from aot_process import COMPILING, needs_libtpu, run_aot
from tpu_model_configs import CONFIGS, ESSENTIAL, TOPOLOGIES, by_tier

import jaxmodels as jm
from jaxmodels.layers.attend import MOST_KEYS_ONE_QUERY, WIDE_KEY_BLOCK
from jaxmodels.layers.spec import abstract_params, walk
from jaxmodels.tpu_configs import aot
from jaxmodels.tpu_configs.compiler import AotError
from jaxmodels.tpu_configs.programs import PROGRAMS, Workload, abstract_arguments, host_transfers
from jaxmodels.tpu_configs.reports import ProgramReport

# Both capacities are several blocks of keys, so that decoding loops over blocks in both.
BATCH, PROMPT, NEW, CAPACITY = 2, 32, 16, 8 * MOST_KEYS_ONE_QUERY
SMALL_CAPACITY = CAPACITY // 4
# Two chunks of every recurrence, in one family for each: all with such prompts would take twice as long.
LONG_PROMPT = 256
# New tokens of masked generation: two blocks, so that the canvas is more than one window of what is written.
CANVAS = 64
RECURRENT = ("falcon_mamba", "kimi_linear", "mamba2", "minimax", "recurrent_gemma")

pytestmark = [pytest.mark.xdist_group("aot"), pytest.mark.timeout(COMPILING)]


def compile_in_subprocess(configs, *arguments, prompt=PROMPT, new=NEW):
    """(family, topology, program) -> report."""
    sizes = ("--batch", BATCH, "--prompt", prompt, "--new-tokens", new)
    done = run_aot("--config", *configs, *sizes, "--json", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = {}
    for line in done.stdout.splitlines():
        values = json.loads(line)
        family = os.path.basename(values.pop("config")).removesuffix(".json")
        values.pop("device_bytes")
        values["workload"] = Workload(**values["workload"])
        values["host_transfers"] = tuple(values["host_transfers"])
        report = ProgramReport(**values)
        reports[family, report.topology, report.program] = report
        print(f"{family:16s} {report.topology} {report.program:8s} {report.seconds:.1f} s")
    return reports


@pytest.fixture(scope="module")
def config_files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("configs")
    for family, values in CONFIGS.items():
        (directory / f"{family}.json").write_text(json.dumps(values))
    return {family: directory / f"{family}.json" for family in CONFIGS}


def asked_for(request, fixture, topology=TOPOLOGIES[0]):
    """The families of this module's tests in this run that use a fixture, on a topology; the first if none is
    named."""
    here = [item for item in request.session.items if item.path == request.path]
    items = [item.callspec.params for item in here if fixture in item.fixturenames]
    return sorted({item["family"] for item in items if item.get("topology", TOPOLOGIES[0]) == topology})


def compile_families(config_files, families, topology, capacity):
    """The reports on `programs_of` these families."""
    found = {}
    for programs in (PROGRAMS, ("generate",)):
        of_these = [family for family in families if programs_of(family, topology) == programs]
        if files := [config_files[family] for family in of_these]:
            arguments = ("--topology", topology, "--capacity", capacity, "--programs", *programs)
            found |= compile_in_subprocess(files, *arguments)
    return found


def programs_of(family, topology):
    """Of one family of each kind all programs on one topology; elsewhere generation alone, which is made of
    the other two."""
    return PROGRAMS if family in KINDS and topology == TOPOLOGIES[0] else ("generate",)


@pytest.fixture(scope="module")
def reports(config_files, request):
    found = {}
    for topology in TOPOLOGIES:
        families = asked_for(request, "reports", topology)
        found |= compile_families(config_files, families, topology, CAPACITY)
    return found


def working_memory(family, prompt=PROMPT):
    """Bytes that a program may need beside its arguments, whatever the cache's capacity.

    Weights whose layout does not suit the matrix unit are laid out anew before the loop, in generate once
    more for the prefill: two copies. Two arrays in flight, float32, as wide as the widest projection, for
    each token of the longer of prompt and key block.
    """
    config = jm.config_from_hf(CONFIGS[family])
    params = abstract_params(config.spec(), jnp.bfloat16)
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    widest = max(leaf.size // config.d_model for _, leaf in walk(params))
    return 2 * weights + 2 * 4 * BATCH * max(prompt, WIDE_KEY_BLOCK) * widest


STRATEGY = jm.decoding.Autoregressive()

# Every family on the first topology, one of each kind of model on the others too: what a family is made of
# meets the same compiler there.
KINDS = ("deepseek_v3", "gpt_oss", "llada", "mamba2", "qwen3", "qwen3_moe", "qwen3_next", "recurrent_gemma")
IN_EVERY_RUN = {(family, TOPOLOGIES[0]) for family in ESSENTIAL}
PLACES = [
    pytest.param(
        family, topology, program, marks=() if (family, topology) in IN_EVERY_RUN else pytest.mark.sweep
    )
    for families, topology in zip((CONFIGS, KINDS), TOPOLOGIES, strict=True)
    for family in families
    for program in programs_of(family, topology)
]


@needs_libtpu
@pytest.mark.parametrize(("family", "topology", "program"), PLACES)
def test_the_tpu_compiler_takes_every_program_and_keeps_the_cache_in_place(
    reports, family, topology, program
):
    report = reports[family, topology, program]
    assert_sound(report, working_memory(family))
    # Masked generation begins without logits or without the model, whose weights then are no arguments.
    fills_masks = jm.config_from_hf(CONFIGS[family]).filling is not None
    read = 0 if fills_masks and program == "prefill" else report.param_bytes
    assert report.argument_bytes >= read + report.cache_bytes


@needs_libtpu
@pytest.mark.parametrize("family", by_tier(RECURRENT))
def test_so_it_does_with_prompts_of_several_chunks(long_reports, family):
    assert_sound(long_reports[family, TOPOLOGIES[0], "prefill"], working_memory(family, LONG_PROMPT))


def assert_sound(report, memory):
    assert report.alias_bytes >= report.cache_bytes
    assert report.aliased_buffers >= report.cache_buffers
    assert report.temp_bytes <= memory
    assert not report.has_host_callback, report.host_transfers
    assert report.flops > 0 and report.bytes_accessed > 0


@pytest.mark.sweep
@needs_libtpu
@pytest.mark.parametrize(
    ("family", "program"),
    [*(("qwen3", program) for program in PROGRAMS), ("mistral", "generate")],
)
def test_working_memory_does_not_grow_with_the_capacity(reports, small_reports, family, program):
    large = reports[family, TOPOLOGIES[0], program]
    small = small_reports[family, TOPOLOGIES[0], program]
    assert large.cache_bytes > 3 * small.cache_bytes
    # The bound on the working memory is below one of the cache's two large buffers, so it rules out a copy.
    assert working_memory(family) < large.cache_bytes / 2
    # What depends on every slot: a few 4-byte maps of the slots' positions.
    maps = 8 * 4 * BATCH * (CAPACITY - SMALL_CAPACITY)
    assert large.temp_bytes <= small.temp_bytes + maps
    assert large.bytes_accessed <= 1.1 * small.bytes_accessed + maps


@pytest.fixture(scope="module")
def long_reports(config_files, request):
    files = [config_files[family] for family in asked_for(request, "long_reports")]
    arguments = ("--topology", TOPOLOGIES[0], "--programs", "prefill", "--capacity", SMALL_CAPACITY)
    return compile_in_subprocess(files, *arguments, prompt=LONG_PROMPT)


# The loop of masked generation with caches that are not its default: family, cache, topology.
CANVASES = [
    ("llada", "dual", TOPOLOGIES[0]),
    ("llada", "prefix", TOPOLOGIES[0]),
    ("llada", "dual", TOPOLOGIES[1]),
    ("llada2_moe", "dual", TOPOLOGIES[0]),
]


@pytest.mark.sweep
@needs_libtpu
@pytest.mark.parametrize(("family", "cache", "topology"), CANVASES)
def test_the_tpu_compiler_takes_masked_generation_with_every_cache(config_files, family, cache, topology):
    """A step that recomputes a part of the canvas, and the loop around it, with the cache in place."""
    arguments = ("--topology", topology, "--canvas-cache", cache, "--capacity", SMALL_CAPACITY)
    reports = compile_in_subprocess(
        [config_files[family]], *arguments, "--programs", "decode", "generate", new=CANVAS
    )
    assert {program for _, _, program in reports} == {"decode", "generate"}
    for report in reports.values():
        assert_sound(report, working_memory(family))
        assert report.temp_bytes < report.cache_bytes / 4  # one of its buffers is about half of it


@pytest.fixture(scope="module")
def small_reports(config_files, request):
    families = asked_for(request, "small_reports")
    return compile_families(config_files, families, TOPOLOGIES[0], SMALL_CAPACITY)


@pytest.mark.sweep
@needs_libtpu
def test_a_model_too_large_for_the_device_is_reported_as_such(tmp_path):
    huge = {**CONFIGS["qwen3"], "vocab_size": 2**20, "hidden_size": 2**14}
    (tmp_path / "huge.json").write_text(json.dumps(huge))
    done = run_aot("--config", tmp_path / "huge.json", "--programs", "decode")
    assert done.returncode == 1
    assert "decode does not compile for 'v5e:2x2'" in done.stderr and "memory" in done.stderr


@needs_libtpu
def test_an_unknown_topology_is_named(config_files):
    done = run_aot("--config", config_files["llama"], "--topology", "v99:2x2")
    assert done.returncode == 1
    assert "topology 'v99:2x2'" in done.stderr and "v5e:2x2" in done.stderr


def test_every_family_has_a_configuration():
    assert sorted(CONFIGS) == list(jm.list_families())
    families = {family: jm.config_from_hf(values).family for family, values in CONFIGS.items()}
    assert families == {family: family for family in CONFIGS}


def test_unknown_programs_are_named():
    config = jm.config_from_hf(CONFIGS["llama"])
    with pytest.raises(AotError, match="train"):
        aot.compile_for("v5e:2x2", config, Workload(), programs=("train",))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"new_tokens": -1}, "new_tokens must be at least 1, got -1"),
        ({"prompt": 8, "new_tokens": 8, "capacity": 15}, "capacity=15 .* at least 16"),
    ],
)
def test_impossible_workloads_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Workload(**sizes)


def test_abstract_arguments_are_those_of_a_real_call():
    config = jm.config_from_hf(CONFIGS["qwen3"])
    workload = Workload(batch=2, prompt=32, new_tokens=64, capacity=128, dtype="float32")
    given = abstract_arguments(config, workload, STRATEGY)
    model = jm.init(config)
    ready = model._plan([[1, 2, 3], [4]], 64, STRATEGY, (), None, 0, None)

    def shapes(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert shapes(given.params) == shapes(model.params)
    assert shapes(given.request) == shapes(ready.request)
    assert shapes(given.cache) == shapes(ready.cache)
    assert dataclasses.asdict(workload)["capacity"] == ready.capacity


def test_host_transfers_are_found_in_compiled_programs():
    def chatty(x):
        return jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct((2,), jnp.float32), x)

    lowered = jax.jit(chatty).lower(jax.ShapeDtypeStruct((2,), jnp.float32))
    assert host_transfers(lowered.as_text())
    assert host_transfers(lowered.compile().as_text())
    sent = "%s = (f32[2], u32[], token[]) send(%x, %t), channel_id=1, is_host_transfer=true"
    assert host_transfers(sent) == ("is_host_transfer=true",)
    assert host_transfers("%i = ((f32[2]), token[]) infeed(%t)")
    quiet = jax.jit(lambda callback: callback + 1).lower(jax.ShapeDtypeStruct((2,), jnp.float32))
    assert host_transfers(quiet.compile().as_text()) == ()
