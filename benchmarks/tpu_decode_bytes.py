"""Bytes that a decoding step of every family moves on a TPU, beside its weights and cache read once.

    python -m benchmarks.tpu_decode_bytes [--families qwen3 mamba2]

Bytes are those to and from the memory outside the chip, see `tpu_memory_traffic`. Models have the widths of
published ones, one layer of each kind that they are made of, and a vocabulary so small that layers are what
counts; one row in bfloat16 with 256 slots. Families that are not named keep what was recorded of them. No TPU
is involved (needs the extra ``jaxmodels[aot]``).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from benchmarks.report import RESULTS
from benchmarks.shapes import BAMBA_130M, MAMBA2_130M
from benchmarks.tpu_memory_traffic import program_of
from jaxmodels.decoding import Autoregressive
from jaxmodels.layers.spec import Params, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.compiler import ENVIRONMENT, topology_device
from jaxmodels.tpu_configs.plan.compiled import one_of_each
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments, trace_programs

NAME = "tpu_decode_bytes"
TOPOLOGY = "v6e:2x2"
PUBLISHED = Path(__file__).parents[1] / "tests" / "published"
WORKLOAD = Workload(batch=1, prompt=128, new_tokens=128)
VOCABULARY = 1024
# One layer's experts would not fit into a device's memory; the architecture is DeepSeek-V3's.
TOO_LARGE = ("kimi_k2",)
MOST = 1.3  # what is aimed at, times the weights and the cache


def models() -> dict[str, Decoder]:
    """A model of each family that there is a published configuration of, and of two more."""
    found: dict[str, Decoder] = {}
    values = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(PUBLISHED.glob("*.json"))}
    for name, given in (values | {"mamba2--130m": MAMBA2_130M, "bamba--130m": BAMBA_130M}).items():
        family = name.partition("--")[0]
        if family in TOO_LARGE or (family in found and not name.startswith("mamba2")):
            continue
        given.pop("quantization_config", None)
        try:
            config = jm.config_from_hf(given, text_only=True)
        except ValueError:  # of a family that the zoo does not have, or no language model
            continue
        if isinstance(config, Decoder):
            key = name.replace("--", " ") if family in found else family
            found[key] = replace(one_of_each(config), vocab_size=min(VOCABULARY, config.vocab_size))
    return found


def experts_of(config: Decoder) -> dict[str, tuple[int, int]]:
    """By the prefix of their parameters, how many experts a mixture has and to how many it sends a token."""
    return {
        f"blocks/{i}/ffn/": (int(router.num_experts), int(router.top_k))
        for i, block in enumerate(config.blocks)
        if hasattr(router := getattr(block.ffn, "router", None), "top_k")
    }


def least_bytes(config: Decoder, params: Params, cache: Any) -> float:
    """Of the weights that one token needs, and of its cache, read once."""
    specs, experts = dict(walk(config.spec())), experts_of(config)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    for path, leaf in walk(params):
        if path == "embed/weight" and not config.tie_embeddings:  # of which a row is read
            continue
        size = leaf.size * leaf.dtype.itemsize
        if specs[path].axes[0] == "experts":
            count, chosen = next(them for prefix, them in experts.items() if path.startswith(prefix))
            size = size * chosen / count
        total += size
    return total


def moved_and_least(config: Decoder, sharding: SingleDeviceSharding) -> tuple[float, float]:
    """Bytes that a step moves, and those that it has to."""
    given = abstract_arguments(config, WORKLOAD, Autoregressive(), sharding)
    traced: Mapping[Any, Any] = trace_programs(config, WORKLOAD, Autoregressive(), sharding)
    text = traced["decode"].lower().compile().as_text()
    step = program_of(text, dict(experts_of(config).values()))
    return step.traffic, least_bytes(config, given.params, given.cache)


def recorded() -> dict[str, Any]:
    """What was recorded before, by family."""
    file = RESULTS / f"{NAME}.json"
    values: dict[str, Any] = json.loads(file.read_text("utf-8"))["values"] if file.is_file() else {}
    return values


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--families", nargs="+", help="by default all")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", ENVIRONMENT["JAX_PLATFORMS"])
    jax.config.update("jax_enable_compilation_cache", False)
    sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
    found = {} if arguments.quick else recorded()
    configs = models()
    families = arguments.families or (list(configs)[:1] if arguments.quick else list(configs))
    for name in families:
        step, least = moved_and_least(configs[name], sharding)
        found[name] = {"layers": len(configs[name].blocks), "step_bytes": step, "least_bytes": least}
        print(f"{name}: {step / least:.2f} ({step / 2**20:.0f}, {least / 2**20:.0f} MiB)", flush=True)
    found = {name: found[name] for name in configs if name in found}
    publish(
        Result(
            name=NAME,
            title="Bytes of a decoding step on a TPU",
            method="Compiled for one v6e device in bfloat16, on a machine without one: a row with 256 slots, "
            "widths of published models, one layer of each kind, a vocabulary of 1,024. Bytes are those that "
            "the compiled step reads from memory outside the chip and writes there, of a mixture's experts "
            "those that a token is sent to; beside them the weights and the cache, read once.",
            values=found,
            tables=[
                Table(
                    caption="MiB that a step moves",
                    columns=["family", "layers", "step", "weights and cache", "ratio"],
                    rows=[
                        [
                            name, it["layers"], it["step_bytes"] / 2**20, it["least_bytes"] / 2**20,
                            it["step_bytes"] / it["least_bytes"],
                        ]
                        for name, it in found.items()
                    ],
                )
            ],
            targets=[
                Target(
                    what=f"{name}: bytes of a step over its weights and cache",
                    sense="at most",
                    aim=MOST,
                    measured=it["step_bytes"] / it["least_bytes"],
                )
                for name, it in found.items()
            ],
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
