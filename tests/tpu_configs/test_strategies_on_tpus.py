"""Step and whole generation of every strategy go through the real TPU compiler, in a process of its own."""

import json

import pytest
from aot_process import COMPILING, needs_libtpu, told_with_compiler
from tpu_model_configs import CONFIGS

SCRIPT = """
import json, sys
from jaxmodels.tpu_configs.compiler import topology_device, without_tpu
without_tpu()
import jax
import jaxmodels as jm
from jaxmodels import decoding as d
from jaxmodels.decoding.depth import Plan
from jaxmodels.layers.spec import abstract_params
from jaxmodels.tpu_configs.programs import Workload, trace_programs
from jaxmodels.tpu_configs.reports import measured

causal, deep, filling = (jm.config_from_hf(values) for values in json.loads(sys.argv[1]))
draft = d.Draft(causal, abstract_params(causal.spec(), "bfloat16"))
strategies = {
    "Autoregressive": d.Autoregressive(sampler=d.Sample(temperature=0.8, top_p=0.9)),
    "Speculative": d.Speculative(draft=draft, gamma=3),
    "TreeDrafter": d.Speculative(draft=d.TreeDrafter(draft=draft, siblings=(2, 1))),
    "PromptLookup": d.Speculative(draft=d.PromptLookup(size=3)),
    "SuffixDecoding": d.Speculative(draft=d.SuffixDecoding(size=3)),
    "Lookahead": d.Speculative(draft=d.Lookahead()),
    "FirstLayers": d.Speculative(draft=d.FirstLayers(layers=1, size=3)),
    "Jacobi": d.Jacobi(window=4),
    "BestOf": d.BestOf(samples=2),
    "Arbitrage": d.Arbitrage(draft=draft, delimiters=(3,), longest=4),
    "EarlyExit": d.EarlyExit(),
    "AdaptiveDepth": d.AdaptiveDepth(depth=Plan((2, 1))),
    "StreamingDiffusion": d.StreamingDiffusion(),
    "MaskedDiffusion": d.MaskedDiffusion(blocks=d.masked.FixedBlocks(16)),
}
FILLING = ("StreamingDiffusion", "MaskedDiffusion")
OF_SEVERAL_BLOCKS = ("FirstLayers", "EarlyExit", "AdaptiveDepth")
sharding = jax.sharding.SingleDeviceSharding(topology_device("v6e:2x2"))
work = Workload(batch=2, prompt=32, new_tokens=32)
for name, strategy in strategies.items():
    config = filling if name in FILLING else deep if name in OF_SEVERAL_BLOCKS else causal
    traced = trace_programs(config, work, strategy, sharding)
    for program in ("decode", "generate"):
        said = measured(traced[program].lower().compile())
        print(json.dumps([name, program, said["alias_bytes"], said["host_transfers"]]), flush=True)
"""


@needs_libtpu
@pytest.mark.sweep
@pytest.mark.xdist_group("aot")
@pytest.mark.timeout(COMPILING)
def test_the_tpu_compiler_takes_every_strategy():
    values = [CONFIGS["qwen3"], {**CONFIGS["qwen3"], "num_hidden_layers": 2}, CONFIGS["llada"]]
    found = told_with_compiler("-c", SCRIPT, json.dumps(values))
    assert len(found) == 2 * 14
    assert all(aliased > 0 and not transfers for _, _, aliased, transfers in found)
