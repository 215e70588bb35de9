"""Bytes that a decoding step of every family moves on a TPU, beside its bare products and cache read once.

    python -m benchmarks.tpu_decode_bytes [--families qwen3 mamba2]

The compiler counts what it copies into on-chip memory too, and of a grouped product all experts, so that no
figure is the size of weights. Models have the widths of published ones, one layer of each kind that they are
made of, and a vocabulary so small that layers are what counts; one row in bfloat16 with 256 slots. No TPU is
involved (needs the extra ``jaxmodels[aot]``).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Float

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from benchmarks.shapes import BAMBA_130M, MAMBA2_130M
from jaxmodels.decoding import Autoregressive
from jaxmodels.layers.grouped_matmul import grouped_matmul
from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import Params, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.compiler import ENVIRONMENT, topology_device
from jaxmodels.tpu_configs.plan.compiled import one_of_each
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments, trace_programs
from jaxmodels.tpu_configs.reports import measured

TOPOLOGY = "v6e:2x2"
PUBLISHED = Path(__file__).parents[1] / "tests" / "published"
WORKLOAD = Workload(batch=1, prompt=128, new_tokens=128)
VOCABULARY = 1024
MOST = 1.3  # what is aimed at, times the bare products and the cache


def models() -> dict[str, Decoder]:
    """A model of each family that there is a published configuration of, and of two more."""
    found: dict[str, Decoder] = {}
    values = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(PUBLISHED.glob("*.json"))}
    for name, given in (values | {"mamba2--130m": MAMBA2_130M, "bamba--130m": BAMBA_130M}).items():
        family = name.partition("--")[0]
        if family in found and not name.startswith("mamba2"):
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


def bare(config: Decoder, sharding: SingleDeviceSharding) -> jax.stages.Traced:
    """A loop over the products of one row with every matrix of a model and a sum over its cache: each product
    waits for the one before it. Experts are a grouped product of as many rows as a token is sent to."""
    strategy = Autoregressive()
    given = abstract_arguments(config, WORKLOAD, strategy, sharding)
    specs = dict(walk(config.spec()))
    chosen = {
        f"blocks/{i}/ffn/": int(router.top_k)
        for i, block in enumerate(config.blocks)
        if hasattr(router := getattr(block.ffn, "router", None), "top_k")
    }

    def products(w: Array, path: str, carried: Float[Array, ""]) -> Float[Array, ""]:
        param = specs[path]
        if param.axes[0] != "experts":
            w = w.reshape(-1, *w.shape[-len(param.contracted) :])
            x = jnp.broadcast_to(carried, (1, *w.shape[1:])).astype(w.dtype)
            return carried + linear(x, w).astype(jnp.float32).sum()
        rows, count = next(times for prefix, times in chosen.items() if path.startswith(prefix)), w.shape[0]
        experts = (carried.astype(jnp.int32) + jnp.arange(rows)) % count
        sizes = jnp.zeros(count, jnp.int32).at[experts].add(1)
        x = jnp.broadcast_to(carried, (rows, w.shape[1])).astype(w.dtype)
        return carried + grouped_matmul(x, w, sizes).astype(jnp.float32).sum()

    def step(params: Params, cache: Any, carried: Float[Array, ""]) -> Float[Array, ""]:
        for path, w in walk(params):
            is_read = path != "embed/weight" or config.tie_embeddings
            if specs[path].contracted and is_read:
                carried = products(w, path, carried)
        for leaf in jax.tree.leaves(cache):
            carried = carried + leaf.astype(jnp.float32).sum()
        return carried

    def loop(params: Params, cache: Any, steps: Array) -> Float[Array, ""]:
        return lax.fori_loop(0, steps, lambda _, carried: step(params, cache, carried), jnp.float32(0))

    return jax.jit(loop).trace(given.params, given.cache, given.steps)


def bytes_of(traced: jax.stages.Traced) -> float:
    """What the compiler says that a program accesses, loops counted once."""
    found: float = measured(traced.lower().compile())["bytes_accessed"]
    return found


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--families", nargs="+", help="by default all")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", ENVIRONMENT["JAX_PLATFORMS"])
    jax.config.update("jax_enable_compilation_cache", False)
    sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
    found: dict[str, dict[str, Any]] = {}
    for name, config in models().items():
        if name not in (arguments.families or (name,)):
            continue
        traced: Mapping[Any, Any] = trace_programs(config, WORKLOAD, Autoregressive(), sharding)
        step, products = bytes_of(traced["decode"]), bytes_of(bare(config, sharding))
        found[name] = {"layers": len(config.blocks), "step_bytes": step, "bare_bytes": products}
        print(f"{name}: {step / products:.2f} ({step / 2**20:.0f}, {products / 2**20:.0f} MiB)", flush=True)
    publish(
        Result(
            name="tpu_decode_bytes",
            title="Bytes of a decoding step on a TPU",
            method="Compiled for one v6e device in bfloat16, on a machine without one: a row with 256 slots, "
            "widths of published models, one layer of each kind, a vocabulary of 1,024. Beside each step a "
            "loop over its bare products and a sum over its cache. Bytes are the compiler's, copies into "
            "on-chip memory among them.",
            values=found,
            tables=[
                Table(
                    caption="MiB that a step accesses",
                    columns=["family", "layers", "step", "bare products and cache", "ratio"],
                    rows=[
                        [
                            name, it["layers"], it["step_bytes"] / 2**20, it["bare_bytes"] / 2**20,
                            it["step_bytes"] / it["bare_bytes"],
                        ]
                        for name, it in found.items()
                    ],
                )
            ],
            targets=[
                Target(
                    what=f"{name}: bytes of a step over its bare products and cache",
                    sense="at most",
                    aim=MOST,
                    measured=it["step_bytes"] / it["bare_bytes"],
                )
                for name, it in found.items()
            ],
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
