"""Products of rows with their group's matrix, as in a mixture of experts, against plain products and reading.

    python -m benchmarks.grouped_matmul

Many tokens are compared with one product of as many rows with a single matrix, which is the machine's best
rate; one token with reading the matrices of its experts once.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.common import (
    ReadBandwidth,
    Result,
    Table,
    Target,
    Timing,
    argument_parser,
    in_turns,
    publish,
    seconds,
)
from jaxmodels.layers.grouped_matmul import grouped_matmul

TOKENS = (1, 8, 64, 512)
LAYERS = 6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """`experts` matrices ``[d_in, d_out]``, of which every token uses `top_k` different ones."""

    experts: int
    top_k: int
    d_in: int
    d_out: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """The rows of some tokens, sorted by expert."""

    x: jax.Array
    sizes: jax.Array
    touched: int


def draw(shape: Shape, tokens: int) -> Case:
    """Random tokens with random experts."""
    rng = np.random.default_rng(tokens)
    chosen = [rng.permutation(shape.experts)[: shape.top_k] for _ in range(tokens)]
    sizes = np.bincount(np.concatenate(chosen), minlength=shape.experts)
    x = rng.standard_normal((tokens * shape.top_k, shape.d_in)).astype(np.float32)
    return Case(x=jnp.asarray(x), sizes=jnp.asarray(sizes, jnp.int32), touched=int((sizes > 0).sum()))


def check(case: Case, w: jax.Array) -> None:
    """Raises SystemExit where the result is not that of one product per group."""
    ours, start = np.asarray(grouped_matmul(case.x, w, case.sizes)), 0
    for expert, size in enumerate(np.asarray(case.sizes)):
        part = slice(start, start + size)
        expected = np.asarray(case.x[part]) @ np.asarray(w[expert])
        if not np.allclose(ours[part], expected, rtol=1e-3, atol=1e-3 * w.shape[1]):
            raise SystemExit(f"the rows of expert {expert} differ from its own product")
        start += size


def clocks(
    cases: dict[int, Case], stacks: list[jax.Array], with_ragged: bool
) -> dict[str, Callable[[], float]]:
    """For `in_turns`: seconds per product of every case, and of the same rows with one matrix.

    One call multiplies with each of `stacks` in turn, as a model's layers do: no caches hold them all.
    """

    def program(product: Callable[..., jax.Array]) -> Callable[..., Any]:
        return jax.jit(lambda x, stacks, *sizes: [product(x, w, *sizes) for w in stacks])

    grouped, plain, ragged = (program(f) for f in (grouped_matmul, jnp.matmul, lax.ragged_dot))
    single = [w[0] for w in stacks]
    calls: dict[str, Callable[[], Any]] = {}
    for tokens, case in cases.items():
        calls[f"grouped {tokens}"] = functools.partial(grouped, case.x, stacks, case.sizes)
        calls[f"plain {tokens}"] = functools.partial(plain, case.x, single)
        if with_ragged:
            calls[f"ragged_dot {tokens}"] = functools.partial(ragged, case.x, stacks, case.sizes)
    for call in calls.values():
        jax.block_until_ready(call())
    return {name: functools.partial(_warm, call, len(stacks)) for name, call in calls.items()}


def _warm(call: Callable[[], Any], products: int) -> float:
    """Seconds per product of a second call: threads take longer to wake up than the shortest calls."""
    jax.block_until_ready(call())
    return seconds(call) / products


def result(shape: Shape, cases: dict[int, Case], timings: Mapping[str, Timing], gb_s: float) -> Result:
    """The figures, with the two that are aimed at."""
    matrix_bytes = 4 * shape.d_in * shape.d_out
    reading = {tokens: case.touched * matrix_bytes / gb_s / 1e9 for tokens, case in cases.items()}
    best = {name: timing.best for name, timing in timings.items()}
    most = max(cases)
    rows: list[list[str | float | None]] = []
    for tokens, case in cases.items():
        ragged = best.get(f"ragged_dot {tokens}")
        rows.append(
            [
                tokens,
                case.touched,
                best[f"grouped {tokens}"] * 1e3,
                best[f"plain {tokens}"] * 1e3,
                reading[tokens] * 1e3,
                None if ragged is None else ragged * 1e3,
            ]
        )
    columns = ["tokens", "experts in use", "grouped (ms)", "plain (ms)", "reading (ms)", "ragged_dot (ms)"]
    rate = Target(
        what=f"{most} tokens: share of the plain product's rate",
        measured=best[f"plain {most}"] / best[f"grouped {most}"],
        sense="at least",
        aim=0.7,
    )
    read = Target(
        what="1 token: times reading its experts once",
        measured=best["grouped 1"] / reading[1],
        sense="at most",
        aim=2.5,
    )
    return Result(
        name="grouped_matmul",
        title=f"Grouped products, {shape.experts} experts, top {shape.top_k}",
        method=f"Random float32 matrices {shape.d_in} x {shape.d_out}, random tokens and experts, "
        f"{len(timings['grouped 1'].runs)} turns of {LAYERS} such products with different matrices in one "
        "program. The plain product multiplies the same rows with one "
        f"matrix; reading takes the matrices of the experts in use once, at {gb_s:.3g} GB/s. Results are "
        "checked against one product per expert.",
        values={
            "read_bandwidth_gb_s": gb_s,
            "plain_gflop_s": 2 * len(cases[most].x) * shape.d_in * shape.d_out / best[f"plain {most}"] / 1e9,
            "runs_s": {name: timing.runs for name, timing in timings.items()},
        },
        tables=[Table(caption="Best of the turns", columns=columns, rows=rows)],
        targets=[rate, read],
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="turns of every measurement")
    parser.add_argument("--ragged-dot", action="store_true", help="measure XLA's own operation as well")
    arguments = parser.parse_args()
    shape, probe = Shape(experts=32, top_k=4, d_in=768, d_out=768), ReadBandwidth(2**28)
    if arguments.quick:
        shape, probe, arguments.rounds = Shape(experts=4, top_k=2, d_in=16, d_out=8), ReadBandwidth(2**20), 2
    stacks = [
        jax.random.normal(key, (shape.experts, shape.d_in, shape.d_out), jnp.float32)
        for key in jax.random.split(jax.random.key(0), LAYERS)
    ]
    cases = {tokens: draw(shape, tokens) for tokens in TOKENS}
    for case in cases.values():
        check(case, stacks[0])
    timings = in_turns({**clocks(cases, stacks, arguments.ragged_dot), **probe.clocks()}, arguments.rounds)
    publish(result(shape, cases, timings, probe.gb_s(timings)), arguments)


if __name__ == "__main__":
    main()
