"""Plans against sizes that real shardings give, figures worked out by hand, and what is known of models."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from published_configs import published

import jaxmodels as jm
from benchmarks.tpu_plans import recorded, rows
from jaxmodels.decoding import Autoregressive, PromptLookup, Sample, Speculative
from jaxmodels.decoding.choosing import BestOf
from jaxmodels.decoding.default import default_strategy
from jaxmodels.layers.partition import MESH_AXES
from jaxmodels.layers.quantized.array import held_bytes
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS, quantized_params
from jaxmodels.layers.spec import abstract_params, param_dtype, walk
from jaxmodels.models.costs import flops_per_token, prefill_flops, weight_bytes
from jaxmodels.tpu_configs.plan import plan
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.repeated_heads import with_repeated_kv_heads
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import bytes_per_device, cache_shardings, param_shardings, sharding_of
from jaxmodels.tpu_configs.slices import find_slice

GREEDY = Autoregressive()
WORK = Workload(batch=1, prompt=2048, new_tokens=128)


def config(name):
    return jm.config_from_hf(published(name), text_only=True)


def in_tiles(param, shape):
    """The shape of a parameter's part, its inner dimension filled up to tiles where experts are stacked."""
    return (*shape[:-1], -(-shape[-1] // 128) * 128) if param.is_expert_stack else shape


def planned(name, on, workload=WORK, strategy=GREEDY, **options):
    return plan(config(name), find_slice(on), workload, strategy, **options)


@pytest.mark.parametrize(
    ("name", "on", "sizes", "batch"),
    [
        ("qwen3--Qwen3-8B", "v5e-8", {"tensor": 8}, 4),
        ("qwen3--Qwen3-8B", "v5e-8", {"data": 2, "tensor": 4}, 4),
        ("qwen3_moe--Qwen3-30B-A3B", "v5e-16", {"expert": 16}, 1),
        ("mixtral--Mixtral-8x7B-v0.1", "v5e-16", {"expert": 2, "tensor": 8}, 1),
        ("nemotron_h--Nemotron-H-56B-Base-8K", "v6e-8", {"tensor": 8}, 2),
        ("deepseek_v2--DeepSeek-V2-Lite", "v6e-8", {"expert": 4, "tensor": 2}, 8),
        ("mamba2--Mamba-Codestral-7B-v0.1", "v6e-8", {"tensor": 8}, 3),
    ],
)
def test_memory_is_that_of_the_arrays_as_they_are_sharded(name, on, sizes, batch):
    workload = replace(WORK, batch=batch)
    found = planned(name, on, workload, sizes=sizes).memory
    mesh = AbstractMesh(
        tuple(sizes.get(axis, 1) for axis in MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * 5
    )
    model, slots = with_repeated_kv_heads(config(name), sizes.get("tensor", 1)), workload.slots(0)
    placed = param_shardings(model, mesh, DEFAULT_RULES)
    places = dict(walk(placed))
    assert found.parameters == sum(
        held_bytes(in_tiles(param, places[path].shard_shape(param.shape)), param_dtype(param, "bfloat16"))
        for path, param in walk(model.spec())
    )
    cached = cache_shardings(model, mesh, DEFAULT_RULES, batch, slots, "bfloat16")
    assert found.cache == bytes_per_device(model.cache_spec(batch, slots), cached, "bfloat16")


@pytest.mark.parametrize(
    ("name", "on", "sizes", "quantize"),
    [
        ("qwen3--Qwen3-8B", "v5e-8", {"tensor": 8}, "int8"),
        ("qwen3--Qwen3-8B", "v5e-8", {"data": 2, "tensor": 4}, "int4"),
        ("qwen3_moe--Qwen3-30B-A3B", "v5e-16", {"expert": 8, "tensor": 2}, "fp8"),
        ("gpt_oss--gpt-oss-20b", "v6e-4", {"expert": 4}, "mxfp4-experts"),
    ],
)
def test_quantised_memory_is_that_of_the_arrays_that_are_loaded(name, on, sizes, quantize):
    found = planned(name, on, sizes=sizes, quantize=quantize)
    mesh = AbstractMesh(
        tuple(sizes.get(axis, 1) for axis in MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * 5
    )
    model = with_repeated_kv_heads(config(name), sizes.get("tensor", 1))
    held = jax.eval_shape(
        lambda params: quantized_params(model.spec(), params, QUANTIZATIONS[quantize]),
        abstract_params(model.spec(), jnp.dtype("bfloat16")),
    )
    places, specs = dict(walk(param_shardings(model, mesh, DEFAULT_RULES))), dict(walk(model.spec()))
    assert found.memory.parameters == sum(
        held_bytes(in_tiles(specs[path], place.shard_shape(part.shape)), part.dtype)
        for path, leaf in walk(held)
        for part, place in zip(
            jax.tree.leaves(leaf), jax.tree.leaves(sharding_of(leaf, places[path])), strict=True
        )
    )
    assert found.memory.cache == planned(name, on, sizes=sizes).memory.cache
    assert found.decode.read < 0.8 * planned(name, on, sizes=sizes).decode.read


def test_few_bits_are_proposed_where_they_make_a_model_fit():
    found = planned("qwen3--Qwen3-8B", "v5e-1")
    (name,) = (line.split()[1] for line in found.advice if line.startswith("--quantize"))
    assert planned("qwen3--Qwen3-8B", "v5e-1", quantize=name).memory.fits


def test_a_format_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="quantize must be one of"):
        planned("qwen3--Qwen3-8B", "v5e-1", quantize="int3")


def test_experts_are_held_row_by_row_whether_or_not_rows_fill_tiles():
    """By hand: 48 layers of 128 experts, each with two matrices of 2,048 x 768 and one of 768 x 2,048."""
    name, shared = "qwen3_moe--Qwen3-30B-A3B", {"expert": 2, "tensor": 2}
    of_tiles, cut = (planned(name, "v6e-4", sizes=sizes) for sizes in (shared, {"tensor": 4}))
    of_tiles_experts = 48 * 64 * 2 * 3 * 2048 * 384
    cut_experts = 48 * 128 * 2 * (2 * 2048 * 256 + 192 * 2048)  # 192 features are one and a half tiles
    rest = of_tiles.memory.parameters - of_tiles_experts
    assert 0 < cut.memory.parameters - cut_experts < rest < of_tiles_experts / 8
    assert of_tiles.copied == cut.copied == 0


def test_an_embedding_that_fills_no_tiles_row_by_row_is_copied():
    # 2,880 features are 22.5 tiles, and 201,088 tokens whole ones: the copy has 2,944.
    assert planned("gpt_oss--gpt-oss-20b", "v6e-1").copied == 201088 * 2944 * 2
    assert planned("qwen3--Qwen3-8B", "v6e-1").copied == 0


def test_programs_run_by_turns_and_both_stay():
    memory = planned("qwen3--Qwen3-8B", "v6e-1").memory
    held = memory.parameters + memory.cache
    assert memory.while_running(memory.decode) == held + memory.decode.working + memory.decode.code
    assert memory.decode.working < memory.prefill.working
    assert memory.total == memory.while_running(memory.prefill) + memory.decode.code


@pytest.mark.parametrize("name", recorded())
def test_plans_are_within_a_tenth_of_what_the_compiler_said(name):
    ratios = [row[5] for row in rows({name: recorded()[name]})]
    assert len(ratios) == 2 and all(0.9 < ratio < 1.1 for ratio in ratios)


def test_times_of_one_chip_are_costs_over_peaks():
    model, chip = config("qwen3--Qwen3-8B"), find_slice("v6e-1").chip
    found = planned("qwen3--Qwen3-8B", "v6e-1")
    assert found.prefill.flops == pytest.approx(prefill_flops(model, 2048))
    assert found.decode.flops == pytest.approx(flops_per_token(model, 2049).total)
    assert found.prefill.exchanged == found.decode.exchanged == 0
    assert found.prefill.bound == "arithmetic" and found.decode.bound == "memory"
    assert found.prefill.seconds == pytest.approx(prefill_flops(model, 2048) / chip.peak("bfloat16"))
    # All weights but the embedding, and 2,048 tokens of keys and values and their positions.
    history = 2048 * (36 * 2 * 8 * 128 * 2 + 36 * 4)
    read = weight_bytes(model, "bfloat16") - 2 * 151936 * 4096 + history
    assert found.decode.seconds == pytest.approx(read / chip.bandwidth, rel=1e-3)


def test_a_device_of_several_computes_and_reads_its_share_and_sends_the_rest():
    alone, shared = (planned("qwen3--Qwen3-8B", on) for on in ("v6e-1", "v6e-8"))
    assert shared.mesh == {"tensor": 8}
    assert shared.decode.flops == pytest.approx(alone.decode.flops / 8)
    assert shared.decode.read == pytest.approx(alone.decode.read / 8, rel=1e-3)
    # Two all-reduces in each of 36 layers, of which each device sends all but its eighth, twice.
    assert shared.decode.exchanged == pytest.approx(72 * 4096 * 2 * 2 * 7 / 8)
    assert shared.decode.seconds < alone.decode.seconds / 7


def test_both_devices_of_a_chip_share_its_peaks():
    found = planned("qwen3--Qwen3-8B", "tpu7x-2", sizes={"tensor": 2})
    assert found.slice.devices == 2 and found.memory.usable < 96 * 2**30
    assert found.decode.memory == pytest.approx(2 * found.decode.read / 7380e9)


def test_experts_that_are_not_chosen_are_not_read():
    one, many = (
        planned("qwen3_moe--Qwen3-30B-A3B", "v5p-8", replace(WORK, batch=batch), sizes={"tensor": 4})
        for batch in (1, 64)
    )
    cache = many.memory.cache * 2048 / WORK.slots(0)
    assert one.decode.read < one.memory.parameters / 6
    assert many.decode.read - cache > 0.9 * many.memory.parameters


def test_what_does_not_fit_is_told_by_how_much_and_what_would():
    found = planned("qwen3--Qwen3-8B", "v5e-1")
    assert not found.memory.fits
    assert found.memory.missing == found.memory.total - found.memory.usable > 0
    held = {line.split()[1]: line for line in found.advice if line.startswith("--slice")}
    assert {"v5e-4", "v6e-1", "tpu7x-2", "v4-8", "v5p-8"} == set(held)
    (context,) = (int(line.split()[1]) for line in found.advice if line.startswith("--context"))
    assert planned("qwen3--Qwen3-8B", "v5e-1", replace(WORK, prompt=context)).memory.fits
    assert not planned("qwen3--Qwen3-8B", "v5e-1", replace(WORK, prompt=context + 1)).memory.fits


@pytest.mark.sweep
def test_the_smallest_slice_that_holds_a_model_is_the_smallest():
    found = planned("gpt_oss--gpt-oss-120b", "v5e-8")
    (name,) = (line.split()[1] for line in found.advice if "smallest v5e" in line)
    assert planned("gpt_oss--gpt-oss-120b", name).memory.fits
    half = f"v5e-{find_slice(name).chips // 2}"
    assert not planned("gpt_oss--gpt-oss-120b", half).memory.fits


def test_fewer_rows_are_proposed_where_they_fit():
    found = planned("qwen3--Qwen3-8B", "v6e-1", replace(WORK, batch=256))
    (batch,) = (int(line.split()[1]) for line in found.advice if line.startswith("--batch"))
    assert planned("qwen3--Qwen3-8B", "v6e-1", replace(WORK, batch=batch)).memory.fits
    assert not planned("qwen3--Qwen3-8B", "v6e-1", replace(WORK, batch=batch + 1)).memory.fits


def test_a_step_that_drafts_scores_more_tokens_for_about_the_same_time():
    one = planned("qwen3--Qwen3-8B", "v6e-1")
    eight = planned("qwen3--Qwen3-8B", "v6e-1", strategy=Speculative(draft=PromptLookup(size=7)))
    assert (one.window, eight.window) == (1, 8)
    assert eight.decode.seconds < 1.01 * one.decode.seconds
    assert eight.per_token == (eight.decode.seconds / 8, eight.decode.seconds)


def test_each_sample_of_a_prompt_is_a_row():
    strategy = BestOf(samples=4, sampler=Sample())
    found = planned("qwen3--Qwen3-8B", "v6e-1", strategy=strategy)
    assert found.memory.cache == 4 * planned("qwen3--Qwen3-8B", "v6e-1").memory.cache


def test_masked_generation_scores_a_block():
    model = config("llada--LLaDA-8B-Instruct")
    strategy = default_strategy(model, 128)
    assert plan(model, find_slice("v6e-1"), WORK, strategy).window == strategy.lookahead + 1 > 1


def test_a_vocabulary_that_nothing_divides_stays_whole():
    found = planned("gpt2--gpt2", "v6e-4")  # 50,257 tokens, 12 heads
    assert found.mesh == {"tensor": 4} and found.rules == replace(DEFAULT_RULES, vocab=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"tensor": 4}}, "tensor=4 has 4 devices, and v5e-8 has 8"),
        ({"sizes": {"expert": 8}}, None),
        ({"rules": Rules(heads="sequence"), "sizes": {"sequence": 8}}, None),
        ({"sizes": {"fsdp": 8}}, None),
    ],
)
def test_meshes_that_are_asked_for(options, message):
    if message is None:
        product = math.prod(planned("qwen3--Qwen3-8B", "v5e-8", **options).mesh.values())
        assert product == 8
        return
    with pytest.raises(ValueError, match=message):
        planned("qwen3--Qwen3-8B", "v5e-8", **options)


def test_a_mesh_that_does_not_divide_the_model_names_what():
    with pytest.raises(ValueError, match=r"'heads', which mesh axis 'tensor' of size 8"):
        planned("gpt2--gpt2", "v5e-8", sizes={"tensor": 8}, rules=replace(DEFAULT_RULES, vocab=None))


def test_a_plan_starts_no_backend_and_makes_no_arrays(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a plan needs no device")

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setattr(jax, "jit", refuse)
    assert planned("gpt_oss--gpt-oss-120b", "v6e-16").memory.fits
