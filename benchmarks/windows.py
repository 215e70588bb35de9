"""What a step of several tokens costs, of one row or one each of several rows, against a single token.

Windows of several tokens are settled by a count that is data, as in speculation, where it says how many were
accepted: recurrent layers then replay them.

    python -m benchmarks.windows --shape qwen3-100m

A step reads every weight once, whatever it scores, so on a machine that is bound by its memory a few more
tokens should cost little. Speculation lives off windows, serving off batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from benchmarks.shapes import shape
from jaxmodels.layers.spec import Params
from jaxmodels.models.cache import Cache
from jaxmodels.models.decoder import Decoder

WINDOWS = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16))  # rows, tokens
BATCHES = ((2, 1), (4, 1), (8, 1), (16, 1))
STEPS = 4  # per run, so that what a call costs is not counted
HISTORY = 128


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of one shape of window, each of which scores it, takes the most probable tokens and settles it.

    Attributes:
        config, params: the model.
        rows, size: the window's shape.
    """

    config: Decoder
    params: Params
    rows: int
    size: int

    def clock(self) -> Callable[[], float]:
        """Seconds per step; compiled and warm."""

        def run(params: Params, tokens: Int[Array, "B S"], cache: Cache, accepted: Int[Array, "B"]) -> Cache:
            def step(_: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
                tokens, cache = carry
                scored, pending = self.config.peek(params, tokens, cache)
                settled = self.config.commit(pending, None if self.size == 1 else accepted)
                return jnp.argmax(scored.logits, -1).astype(jnp.int32), settled

            return lax.fori_loop(0, STEPS, step, (tokens, cache))[1]

        tokens = jnp.ones((self.rows, self.size), jnp.int32)
        length = np.full((self.rows,), HISTORY, np.int32)
        accepted = jnp.full((self.rows,), self.size, jnp.int32)
        cache = self.config.init_cache(self.rows, HISTORY + STEPS * self.size)
        program = jax.jit(run, donate_argnums=2).lower(self.params, tokens, cache, accepted).compile()
        held = [program(self.params, tokens, replace(cache, length=jnp.asarray(length)), accepted)]

        def measure() -> float:
            cache = jax.block_until_ready(replace(held[0], length=jnp.asarray(length)))

            def advance() -> Array:
                held[0] = program(self.params, tokens, cache, accepted)
                return held[0].length

            return seconds(advance) / STEPS

        return measure


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", choices=["mamba2-130m", "qwen3-100m"], default="qwen3-100m")
    parser.add_argument("--rounds", type=int, default=15, help="turns of every measurement")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    model = jm.init(jm.config_from_hf(shape(arguments.shape, tiny=arguments.quick)))
    clocks = {
        f"{rows}x{size}": Steps(config=model.config, params=model.params, rows=rows, size=size).clock()
        for rows, size in (*WINDOWS, *BATCHES)
    }
    timings = in_turns(clocks, arguments.rounds)
    one = timings["1x1"].median

    def times(rows: int, size: int) -> float:
        return timings[f"{rows}x{size}"].median / one

    publish(
        Result(
            name=f"windows_{arguments.shape.replace('-', '_')}",
            title=f"Windows and batches of few tokens, {arguments.shape}",
            method=f"A step scores a window behind a history of {HISTORY} tokens or more, takes the most "
            f"probable token everywhere and settles the window, one of several tokens by a count; {STEPS} "
            "steps per run, float32.",
            values={"runs_s": {name: timing.runs for name, timing in timings.items()}},
            tables=[
                Table(
                    caption="Medians of the turns",
                    columns=["rows", "tokens per row", "ms per step", "against one token"],
                    rows=[
                        [rows, size, timings[f"{rows}x{size}"].median * 1e3, times(rows, size)]
                        for rows, size in (*WINDOWS, *BATCHES)
                    ],
                )
            ],
            targets=[
                Target(what="4 tokens against one", measured=times(1, 4), sense="at most", aim=1.6),
                Target(what="8 tokens against one", measured=times(1, 8), sense="at most", aim=2.2),
                Target(what="tokens/s of 8 rows over 1", measured=8 / times(8, 1), sense="at least", aim=3.5),
            ],
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
