"""Mamba-2 130M beside the package `mamba2-jax`, both compiled for one v6e device in bfloat16.

    python -m benchmarks.tpu_mamba2_jax

No TPU is involved (needs the extra ``jaxmodels[aot]``). A prompt of 2,048 tokens with the logits of its last
token, and one decoding step. Both are compiled with one layer and with two; what the second adds is what a
layer costs, and 24 of them and the ends are the model. The peer offers no prefill with the last logits only:
one is put together here from its backbone.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import SingleDeviceSharding

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from benchmarks.shapes import MAMBA2_130M
from benchmarks.tpu_programs import TOPOLOGY, Program, examine
from jaxmodels.tpu_configs.compiler import ENVIRONMENT, topology_device
from jaxmodels.tpu_configs.programs import Workload, trace_programs

PROMPT, LAYERS = 2048, MAMBA2_130M["num_hidden_layers"]
# What is aimed at, as a share of the peer's.
AIMS = {
    ("decode", "bytes_accessed"): 0.6,
    ("decode", "flops"): 0.05,
    ("prefill", "bytes_accessed"): 0.9,
    ("prefill", "flops"): 0.8,
    ("prefill", "temp_bytes"): 0.25,
    ("prefill", "cycles_per_layer"): 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the compiler says of a program of the whole model.

    Attributes:
        bytes_accessed, flops: of all layers, loops counted once.
        temp_bytes: working memory, of two layers.
        cycles_per_layer: its own estimate of what one layer more takes, loops multiplied by their trips.
    """

    bytes_accessed: float
    flops: float
    temp_bytes: float
    cycles_per_layer: float


def costs(trace: Callable[[int], jax.stages.Traced]) -> Costs:
    """Of the model whose program with so many layers `trace` gives."""
    one, two = (examine(trace(layers)) for layers in (1, 2))

    def whole(figure: Callable[[Program], float]) -> float:
        return figure(one) + (LAYERS - 1) * (figure(two) - figure(one))

    return Costs(
        bytes_accessed=whole(lambda it: it.bytes_accessed),
        flops=whole(lambda it: it.flops),
        temp_bytes=two.temp_bytes,
        cycles_per_layer=two.cycles - one.cycles,
    )


def ours(program: str, sharding: SingleDeviceSharding, prompt: int) -> Callable[[int], jax.stages.Traced]:
    """The program of this package with so many layers."""

    def trace(layers: int) -> jax.stages.Traced:
        config: Any = jm.config_from_hf({**MAMBA2_130M, "num_hidden_layers": layers})
        traced: Mapping[Any, Any] = trace_programs(config, Workload(prompt=prompt), sharding=sharding)
        found: jax.stages.Traced = traced[program]
        return found

    return trace


def theirs(program: str, sharding: SingleDeviceSharding, prompt: int) -> Callable[[int], jax.stages.Traced]:
    """The same of the peer."""
    import mamba2_jax

    def placed(tree: Any) -> Any:
        def leaf(it: Any) -> Any:
            dtype = jnp.bfloat16 if jnp.issubdtype(it.dtype, jnp.floating) else it.dtype
            return jax.ShapeDtypeStruct(it.shape, dtype, sharding=sharding)

        return jax.tree.map(leaf, tree)

    def trace(layers: int) -> jax.stages.Traced:
        config = mamba2_jax.Mamba2Config(
            vocab_size=MAMBA2_130M["vocab_size"], hidden_size=MAMBA2_130M["hidden_size"],
            state_size=MAMBA2_130M["state_size"], head_dim=MAMBA2_130M["head_dim"],
            chunk_size=MAMBA2_130M["chunk_size"], num_hidden_layers=layers,
        )  # fmt: skip
        graph, state = nnx.split(
            nnx.eval_shape(lambda: mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)))
        )

        def prefill(state: Any, tokens: Any) -> Any:
            model = nnx.merge(graph, state)
            out = model.backbone(input_ids=tokens)
            logits = out["last_hidden_state"][:, -1] @ model.backbone.embedder.embedding[:].T
            return logits.argmax(-1), out["cache"]

        def decode(state: Any, token: Any, cache: Any) -> Any:
            out = nnx.merge(graph, state)(input_ids=token, cache=cache)
            return out["logits"][:, -1:].argmax(-1), out["cache"]

        tokens, token = (
            jax.ShapeDtypeStruct((1, size), jnp.int32, sharding=sharding) for size in (prompt, 1)
        )
        state = placed(state)
        if program == "prefill":
            return jax.jit(prefill).trace(state, tokens)
        cache = placed(jax.eval_shape(prefill, state, tokens)[1])
        return jax.jit(decode, donate_argnums=2).trace(state, token, cache)

    return trace


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", ENVIRONMENT["JAX_PLATFORMS"])
    jax.config.update("jax_enable_compilation_cache", False)
    sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
    prompt = 256 if arguments.quick else PROMPT
    found = {}
    for program in ("decode", "prefill"):
        for name, of in (("jaxmodels", ours), ("mamba2-jax", theirs)):
            found[program, name] = costs(of(program, sharding, prompt))
            print(program, name, json.dumps(asdict(found[program, name])), flush=True)
    rows: list[list[str | float | None]] = [
        [
            f"{program}: {name}", it.bytes_accessed / 2**20, it.flops / 1e9, it.temp_bytes / 2**20,
            it.cycles_per_layer / 1e3,
        ]
        for (program, name), it in found.items()
    ]  # fmt: skip
    publish(
        Result(
            name="tpu_mamba2_jax",
            title="Mamba-2 130M compiled for a TPU, beside mamba2-jax",
            method=f"Compiled for one v6e device in bfloat16, on a machine without one: a prompt of {PROMPT} "
            "tokens with the logits of its last, and one decoding step. With one layer and with two, from "
            "which follow those of 24; working memory is that of two. Cycles are the compiler's estimates.",
            values={f"{program}, {name}": asdict(it) for (program, name), it in found.items()},
            tables=[
                Table(
                    caption="Programs",
                    columns=["", "MiB accessed", "GFLOP", "working MiB", "cycles per layer (k)"],
                    rows=rows,
                )
            ],
            targets=[
                Target(
                    what=f"{program}: {figure.replace('_', ' ')} over the peer's", sense="at most", aim=aim,
                    measured=getattr(found[program, "jaxmodels"], figure)
                    / getattr(found[program, "mamba2-jax"], figure),
                )
                for (program, figure), aim in AIMS.items()
            ],
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
