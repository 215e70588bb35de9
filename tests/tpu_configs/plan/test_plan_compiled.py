"""A deep model's programs from those of few layers, against the programs of all its layers."""

import json

import pytest
from aot_process import COMPILING, needs_libtpu, told_with_compiler
from published_configs import published
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.tpu_configs.plan.compiled import depths, one_of_each


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("qwen3--Qwen3-8B", [36]),
        ("mixtral--Mixtral-8x7B-v0.1", [32]),
        # A dense layer in front of 26 mixtures.
        ("deepseek_v2--DeepSeek-V2-Lite", [26, 1]),
        ("qwen3_next--Qwen3-Next-80B-A3B", [36, 12]),
        # Layers of a mixer alone and of a feed-forward alone.
        ("nemotron_h--Nemotron-H-56B-Base-8K", [54, 54, 10]),
    ],
)
def test_one_layer_of_each_kind_stands_for_all(name, counts):
    config = jm.config_from_hf(published(name), text_only=True)
    few = depths(config)
    assert [count for _, count in few.singles] == counts and sum(counts) == len(config.blocks)
    assert all(len(model.blocks) == 1 for model, _ in few.singles)
    assert few.double is not None and few.double.blocks[0] == few.singles[0][0].blocks[0]
    assert len(one_of_each(config).blocks) == len(counts)


def test_what_each_layer_adds_is_added_as_often_as_there_are_layers():
    few = depths(jm.config_from_hf(published("qwen3_next--Qwen3-Next-80B-A3B"), text_only=True))
    # Ends cost 100, layers of the two kinds 7 and 5: of these there are 36 and 12.
    assert few.extrapolated([107, 105, 114]) == 100 + 36 * 7 + 12 * 5
    assert few.extrapolated([107, 107, 106]) == 107


def test_a_model_of_one_layer_is_compiled_as_it_is():
    config = jm.config_from_hf({**CONFIGS["qwen3"], "num_hidden_layers": 1})
    assert depths(config).models == (config,)
    assert depths(config).extrapolated([7]) == 7


SCRIPT = """
import json, sys
from dataclasses import asdict
from jaxmodels.tpu_configs.compiler import without_tpu
without_tpu()
import jaxmodels as jm
from jaxmodels.decoding import Autoregressive
from jaxmodels.tpu_configs.plan import compiled, plan
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.slices import find_slice

config = jm.config_from_hf(json.loads(sys.argv[1]))
work = Workload(batch=2, prompt=128, new_tokens=128)
planned = plan(config, find_slice("v6e-4"), work, Autoregressive(), sizes={"data": 2, "tensor": 2})
few = list(compiled.compiled_programs(config, planned, Autoregressive()))
compiled.depths = lambda config: compiled.Depths(singles=((config, 1),), double=None)
full = list(compiled.compiled_programs(config, planned, Autoregressive()))
held = planned.memory.parameters + planned.memory.cache
print(json.dumps([held, *([{**asdict(it), "all": it.device_bytes} for it in of] for of in (few, full))]))
"""


@needs_libtpu
@pytest.mark.sweep
@pytest.mark.xdist_group("aot")
@pytest.mark.timeout(COMPILING)
def test_it_agrees_with_the_programs_of_all_layers_and_the_plan_with_both():
    values = {**CONFIGS["qwen3"], "num_hidden_layers": 4}
    held, few, full = told_with_compiler("-c", SCRIPT, json.dumps(values))[-1]
    assert [it["program"] for it in few] == ["decode", "prefill"]
    for short, whole in zip(few, full, strict=True):
        # Of so small a model, what is kept on the chip makes megabytes of difference.
        assert short["all"] == pytest.approx(whole["all"], rel=0.1, abs=2 * 2**20)
        assert short["argument_bytes"] == pytest.approx(whole["argument_bytes"], rel=0.01)
        assert short["argument_bytes"] == pytest.approx(held, rel=0.05)
        assert short["flops"] == pytest.approx(whole["flops"], rel=0.02)
        assert short["generated_code_bytes"] == pytest.approx(whole["generated_code_bytes"], rel=0.15)
        assert short["alias_bytes"] == whole["alias_bytes"]
        assert not short["host_transfers"]
