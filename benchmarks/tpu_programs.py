"""What the TPU compiler makes of the operations that backends compute in forms of their own. No TPU involved.

    python -m benchmarks.tpu_programs

Programs are compiled for one v6e device in bfloat16, from shapes alone (needs the extra ``jaxmodels[aot]``).
The figure is the sum of the compiler's own `estimated_cycles`, the bodies of loops multiplied by their trips.
It ranks forms of one program and is no time: what the compiler copies into on-chip memory beforehand is not
in it, and sorts have no estimate.
"""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from jaxmodels.decoding.samplers import most_probable
from jaxmodels.layers.attend import Scores, attend
from jaxmodels.layers.linear import linear
from jaxmodels.layers.moe import SoftmaxTopK
from jaxmodels.layers.spec import abstract_params
from jaxmodels.tpu_configs.compiler import ENVIRONMENT, topology_device
from jaxmodels.tpu_configs.programs import Workload, trace_programs

TOPOLOGY = "v6e:2x2"
QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1e6,
    "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
MAMBA2_130M = {
    "model_type": "mamba2", "hidden_size": 768, "num_heads": 24, "head_dim": 64, "state_size": 128,
    "n_groups": 1, "expand": 2, "conv_kernel": 4, "chunk_size": 256, "vocab_size": 50288,
    "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "qwen3": {
        "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 128, "vocab_size": 1024,
    },
    "mamba2": {"hidden_size": 128, "num_heads": 4, "vocab_size": 1024},
}  # fmt: skip

# Thousands of cycles while every backend got the forms for CPUs, and what was aimed at: the best form that
# was tried then, or what reading the memory takes.
BEFORE: Mapping[str, tuple[float, float]] = {
    "decode qwen3, 1 rows": (6600, 2200),
    "attention, 1 rows, 1 queries": (1140, 28),
    "attention, 32 rows, 1 queries": (3500, 1150),
    "attention, 1 rows, 2048 queries": (12600, 7300),
}


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the compiler made of one program.

    Attributes:
        cycles: the sum of its estimates, loops multiplied by their trips.
        flops: operations by its cost analysis, which counts each loop's body once.
        bytes_accessed: the same of bytes, copies into on-chip memory included.
        loops: `while` instructions.
        concatenations: `concatenate` instructions, those inside fusions too.
        vector_products: products that run in the vector unit, as multiplications and a sum.
        rounded_products: products of float32 operands in one pass of bfloat16, before optimisation.
        sorts: `sort` instructions and calls of top-k.
        temp_bytes: working memory.
        code_bytes: of the program itself.
        seconds: of compiling it.
    """

    cycles: int
    flops: float
    bytes_accessed: float
    loops: int
    concatenations: int
    vector_products: int
    rounded_products: int
    sorts: int
    temp_bytes: int
    code_bytes: int
    seconds: float


def examine(traced: jax.stages.Traced, trips: int = 1) -> Program:
    """Compiles a program; `trips` is how often loops run whose number of trips is data."""
    lowered = traced.lower()
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    text, memory, cost = compiled.as_text() or "", compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None and cost is not None
    plain = re.findall(r"dot_general .*?\(tensor<\S*xf32>, tensor<\S*xf32>\)", lowered.as_text())
    return Program(
        cycles=estimated_cycles(text, trips),
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        loops=len(re.findall(r" while\(", text)),
        concatenations=len(re.findall(r" concatenate\(", text)),
        vector_products=len(re.findall(r" reduce\(.*dot_general", text)),
        rounded_products=sum("HIGHEST" not in product for product in plain),
        sorts=len(re.findall(r' sort\(|custom_call_target="TopK"', text)),
        temp_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        seconds=seconds,
    )


def estimated_cycles(text: str, trips: int) -> int:
    """The sum over a compiled program's instructions, loops multiplied by their trips."""
    computations, entry = _computations(text)

    def total(name: str) -> int:
        cycles = 0
        for line in computations[name]:
            if estimate := re.search(r'estimated_cycles":"(\d+)', line):
                cycles += int(estimate[1])
            if loop := re.search(r" while\(.*condition=(%[\w.-]+), body=(%[\w.-]+)", line):
                cycles += _trips(computations[loop[1]], trips) * total(loop[2])
            elif re.search(r" (call|conditional)\(", line):
                names = re.findall(r"(?:to_apply|_computations?|calls)=\{?([%\w., -]+)", line)
                cycles += sum(total(name) for name in re.findall(r"%[\w.-]+", " ".join(names)))
        return cycles

    return total(entry)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of each computation of a program by name, and the name of the first to run."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?(%[\w.-]+) .*->.*\{$", line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _trips(condition: Sequence[str], unknown: int) -> int:
    """How often a loop runs: the number that its condition compares with, if there is one."""
    limits = re.findall(r" s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return int(limits[0]) if len(limits) == 1 else unknown


@dataclass(frozen=True)
class Shapes:
    """Makes abstract arrays on the device, and traces functions of them."""

    sharding: jax.sharding.Sharding

    def array(self, *shape: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.sharding)

    def traced(self, fn: Callable[..., Any], *arrays: Any) -> jax.stages.Traced:
        return jax.jit(fn).trace(*arrays)

    def model(self, values: Mapping[str, Any], program: str, workload: Workload) -> jax.stages.Traced:
        config: Any = jm.config_from_hf(dict(values))
        traced: Mapping[Any, jax.stages.Traced] = trace_programs(config, workload, sharding=self.sharding)
        return traced[program]


def attention(on: Shapes, rows: int, queries: int, slots: int) -> tuple[jax.stages.Traced, int]:
    """A window of `queries` over a full cache as Qwen3-8B has it, and the trips of its loop over keys."""

    def of_window(q: Any, k: Any, v: Any, tags: Any, positions: Any, end: Any) -> Any:
        def allowed(q0: Any, q_size: int, k0: Any, k_size: int) -> Any:
            keys = lax.dynamic_slice_in_dim(tags, k0, k_size, axis=1)[:, None, :]
            return (keys >= 0) & (keys <= lax.dynamic_slice_in_dim(positions, q0, q_size, axis=1)[:, :, None])

        def key_range(q0: Any, q_size: int) -> Any:
            return jnp.int32(0), end - queries + q0 + q_size

        return attend(q, k, v, allowed=allowed, key_range=key_range, scores=Scores(scale=0.09))

    q, k = on.array(rows, 8, 4, queries, 128), on.array(rows, 8, slots, 128)
    tags, positions = on.array(rows, slots, dtype=jnp.int32), on.array(rows, queries, dtype=jnp.int32)
    traced = on.traced(of_window, q, k, k, tags, positions, on.array(dtype=jnp.int32))
    narrowest = 1024
    return traced, -(-slots // narrowest)


def programs(quick: bool) -> dict[str, Program]:
    """Every program by name; tiny ones, and fewer, if `quick`."""
    on = Shapes(jax.sharding.SingleDeviceSharding(topology_device(TOPOLOGY)))
    qwen3, mamba2 = (
        {**values, "num_hidden_layers": 1, **(TINY[values["model_type"]] if quick else {})}
        for values in (QWEN3_8B, MAMBA2_130M)
    )
    d_in, d_out = (256, 512) if quick else (4096, 12288)
    found = {}
    for rows in (1, 2):
        found[f"product, {rows} rows"] = examine(
            on.traced(linear, on.array(rows, d_in), on.array(d_out, d_in))
        )
        step = Workload(batch=rows, prompt=128, new_tokens=128)
        found[f"decode qwen3, {rows} rows"] = examine(on.model(qwen3, "decode", step))
    slots, window = (4096, 1024) if quick else (8192, 2048)
    for rows, queries in ((1, 1), (32, 1), (1, window)):
        traced, trips = attention(on, rows, queries, slots)
        found[f"attention, {rows} rows, {queries} queries"] = examine(traced, trips)
    vocab = 1000 if quick else 151936
    nucleus = on.traced(most_probable, on.array(32, vocab, dtype=jnp.float32), on.array(dtype=jnp.float32))
    found["top-p, 32 rows"] = examine(nucleus, trips=30)
    router = SoftmaxTopK(d_model=d_in, num_experts=128, top_k=8)
    router_params = jax.tree.map(
        lambda leaf: on.array(*leaf.shape), abstract_params(router.spec(), jnp.dtype("bfloat16"))
    )
    found["router, 8 rows"] = examine(on.traced(router, router_params, on.array(1, 8, d_in)))
    if not quick:
        batch = Workload(batch=32, prompt=128, new_tokens=128, capacity=1024)
        found["decode qwen3, 32 rows"] = examine(on.model(qwen3, "decode", batch))
        for layers in (1, 2):
            prompt = Workload(prompt=1024, new_tokens=128)
            for values in (qwen3, mamba2):
                name = f"prefill {values['model_type']}, {layers} layers"
                deep = {**values, "num_hidden_layers": layers}
                found[name] = examine(on.model(deep, "prefill", prompt))
    return found


def targets_of(found: Mapping[str, Program], window: int) -> list[Target]:
    """The findings that were mended, each as a bound on its program."""
    one, two = found["decode qwen3, 1 rows"], found["decode qwen3, 2 rows"]
    decode, prefill = found["attention, 1 rows, 1 queries"], found[f"attention, 1 rows, {window} queries"]
    return [
        Target(
            what="decoding a layer and head: estimate of 1 row over that of 2", sense="at most", aim=1.0,
            measured=one.cycles / two.cycles,
        ),
        Target(
            what="decoding with 1 row: matrix products in the vector unit", sense="at most", aim=0,
            measured=one.vector_products,
        ),
        Target(
            what="attention, 1 row and query: loops over keys", sense="at most", aim=0, measured=decode.loops
        ),
        Target(
            what="attention of a prompt: concatenations", sense="at most", aim=0,
            measured=prefill.concatenations,
        ),
        Target(what="top-p: sorts", sense="at most", aim=0, measured=found["top-p, 32 rows"].sorts),
        Target(
            what="router: products rounded to bfloat16", sense="at most", aim=0,
            measured=found["router, 8 rows"].rounded_products,
        ),
    ]  # fmt: skip


def against_before(found: Mapping[str, Program]) -> Table:
    """The findings that have a figure from before, with it."""
    return Table(
        caption="Cycles (k) with the forms for CPUs, and with those for accelerators",
        columns=["", "before", "aimed at", "now"],
        rows=[[name, *figures, found[name].cycles / 1e3] for name, figures in BEFORE.items()],
    )


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", ENVIRONMENT["JAX_PLATFORMS"])
    jax.config.update("jax_enable_compilation_cache", False)
    found = programs(arguments.quick)
    rows: list[list[str | float | None]] = [
        [
            name, it.cycles / 1e3, it.flops / 1e6, it.bytes_accessed / 2**20, it.loops, it.concatenations,
            it.vector_products, it.temp_bytes / 2**20, it.code_bytes / 2**20, it.seconds,
        ]
        for name, it in found.items()
    ]  # fmt: skip
    publish(
        Result(
            name="tpu_programs",
            title="What the TPU compiler makes of it",
            method="Compiled for one v6e device in bfloat16, on a machine without one. Cycles are sums of "
            "the compiler's `estimated_cycles`, loops multiplied by their trips. They rank forms of one "
            "program and are no times: copies into on-chip memory ahead of use are not in them, and sorts "
            "have no estimate. Operations and bytes count the body of a loop once.",
            values={name: asdict(it) for name, it in found.items()},
            tables=[
                Table(
                    caption="Programs",
                    columns=[
                        "", "cycles (k)", "operations (M)", "MiB accessed", "loops", "concatenations",
                        "products in the vector unit", "temporary MiB", "code MiB", "compiled in (s)",
                    ],
                    rows=rows,
                ),
                *([] if arguments.quick else [against_before(found)]),
            ],
            targets=targets_of(found, 1024 if arguments.quick else 2048),
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
