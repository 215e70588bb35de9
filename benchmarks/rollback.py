"""What it costs to take back a part of a window: `commit(pending, n)` beside the step that it belongs to.

    python -m benchmarks.rollback

A window is scored and committed again and again in one compiled program: once in full without a count, which
settles what the peek already knows, and once with a count that keeps half of it, as speculation and Jacobi
decoding do. Attention then clears the tags of the slots that are given up; a recurrence replays the window's
small inputs from the state before it. The difference of the two programs is the rollback. FLOPs and bytes are
those that the compiler counts of both.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

import jaxmodels as jm
from benchmarks.common import (
    Result,
    Table,
    Target,
    Timing,
    argument_parser,
    in_turns,
    publish,
    random_tokens,
    seconds,
)
from benchmarks.shapes import shape
from jaxmodels.models.cache import Cache
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scored import NOWHERE

SHAPES = {
    "Qwen3": "qwen3-100m",
    "Mamba-2": "mamba2-130m",
    "Bamba (hybrid)": "bamba-130m",
    "Qwen3-Next (gated delta, hybrid)": "qwen3-next-130m",
}


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Windows of `size` tokens behind a history of `history`, `repeats` of them per run."""

    model: jm.Model
    size: int
    history: int
    repeats: int

    def filled(self) -> Cache:
        """The cache of the history, with room for one run."""
        slots = self.history + (self.repeats + 1) * self.size
        tokens = jnp.asarray(random_tokens(self.model.config.vocab_size, 1, self.history))
        return _settle(self.model.params, tokens, config=self.model.config, capacity=-(-slots // 128) * 128)

    def clock(self, filled: Cache, keep_all: bool) -> float:
        """Seconds per window; half of it is taken back unless `keep_all`."""
        config = self.model.config
        cache = jax.tree.map(jnp.copy, filled)  # the run works in place
        window = jnp.asarray(random_tokens(config.vocab_size, 1, self.size, seed=1))
        jax.block_until_ready((cache, window))
        return (
            seconds(
                lambda: _run(
                    self.model.params, window, cache, config=config, keep_all=keep_all, repeats=self.repeats
                )
            )
            / self.repeats
        )

    def counted(self, filled: Cache, keep_all: bool) -> tuple[float, float]:
        """(FLOPs, bytes accessed) of a window's program, as the compiler counts them."""
        window = jnp.asarray(random_tokens(self.model.config.vocab_size, 1, self.size, seed=1))
        lowered = _run.lower(
            self.model.params,
            window,
            filled,
            config=self.model.config,
            keep_all=keep_all,
            repeats=self.repeats,
        )
        analysis = lowered.compile().cost_analysis()
        return analysis["flops"], analysis["bytes accessed"]


@functools.partial(jax.jit, static_argnames=("config", "capacity"))
def _settle(params: Any, tokens: Int[Array, "B S"], *, config: Decoder, capacity: int) -> Cache:
    cache = config.init_cache(tokens.shape[0], capacity)
    _, pending = config.peek(params, tokens, cache, logits_at=NOWHERE)
    return config.commit(pending)


@functools.partial(jax.jit, static_argnames=("config", "keep_all", "repeats"), donate_argnames=("cache",))
def _run(
    params: Any, tokens: Int[Array, "B S"], cache: Cache, *, config: Decoder, keep_all: bool, repeats: int
) -> tuple[Cache, Array]:
    half = jnp.full((tokens.shape[0],), tokens.shape[1] // 2)

    def step(_: Array, carry: tuple[Cache, Array]) -> tuple[Cache, Array]:
        cache, best = carry
        scored, pending = config.peek(params, tokens, cache)
        return config.commit(pending, None if keep_all else half), best + jnp.argmax(scored.logits, axis=-1)

    return jax.lax.fori_loop(0, repeats, step, (cache, jnp.zeros(tokens.shape, jnp.int32)))


def measure(
    model: jm.Model, sizes: list[int], history: int, repeats: int, rounds: int
) -> tuple[dict[int, dict[str, Timing]], dict[int, tuple[float, float]]]:
    """By window: the timings of steps that keep all and of steps that keep half; and the FLOPs and the bytes
    of the second as multiples of those of the first."""
    found, factors = {}, {}
    for size in sizes:
        rollback = Rollback(model=model, size=size, history=history, repeats=repeats)
        filled = rollback.filled()
        clocks = {
            "all": functools.partial(rollback.clock, filled, True),
            "half": functools.partial(rollback.clock, filled, False),
        }
        for clock in clocks.values():
            clock()  # compiles
        found[size] = in_turns(clocks, rounds)
        whole, half = (rollback.counted(filled, keep_all) for keep_all in (True, False))
        factors[size] = (half[0] / whole[0], half[1] / whole[1])
    return found, factors


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of every measurement")
    arguments = parser.parse_args()
    sizes, history, repeats = [2, 5, 9, 17], 512, 16
    if arguments.quick:
        sizes, history, repeats, arguments.rounds = [2, 5], 16, 2, 1
    rows: list[list[str | float | None]] = []
    targets, runs = [], {}
    for name, shape_name in SHAPES.items():
        config = jm.config_from_hf(shape(shape_name, tiny=arguments.quick))
        found, factors = measure(jm.init(config), sizes, history, repeats, arguments.rounds)
        runs[name] = {
            str(size): {f"{kind}_s": t.runs for kind, t in it.items()} for size, it in found.items()
        }
        rows += [[*row(name, size, it), *factors[size]] for size, it in found.items()]
        worst = max(extra(it) / it["all"].best for it in found.values())
        targets.append(
            Target(what=f"{name}: rollback over the step", measured=worst, sense="at most", aim=0.05)
        )
    publish(
        Result(
            name="rollback",
            title="Taking back half of a window",
            method=f"Random float32 weights, batch 1, a history of {history:,} tokens, {repeats} windows per "
            f"run, {arguments.rounds} turns, best of the turns.",
            values=runs,
            tables=[
                Table(
                    caption="Milliseconds per window",
                    columns=[
                        "",
                        "window",
                        "step",
                        "step that keeps half",
                        "rollback",
                        "of the step",
                        "FLOPs, as a factor",
                        "bytes",
                    ],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


def extra(timings: dict[str, Timing]) -> float:
    """Seconds that the rollback adds; noise may make it 0."""
    return max(timings["half"].best - timings["all"].best, 0.0)


def row(name: str, size: int, timings: dict[str, Timing]) -> list[str | float | None]:
    whole, half, added = timings["all"].best, timings["half"].best, extra(timings)
    return [name, size, 1e3 * whole, 1e3 * half, 1e3 * added, f"{added / whole:.0%}"]


if __name__ == "__main__":
    main()
