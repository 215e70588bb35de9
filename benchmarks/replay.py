"""States that are written once in many tokens (`Replay`) beside states that every token writes anew.

    python -m benchmarks.replay

Decodes a batch of rows, in steps of one token each, and counts what the compiled loop writes of the states.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels as jm
from benchmarks.common import (
    Result,
    Table,
    Target,
    argument_parser,
    in_turns,
    publish,
    random_tokens,
    seconds,
)
from benchmarks.shapes import shape
from benchmarks.state_writes import bytes_written
from jaxmodels.decoding import Autoregressive, driver
from jaxmodels.decoding.generation import plan
from jaxmodels.decoding.prompts import PromptBatch
from jaxmodels.layers.state.replay import Replay
from jaxmodels.models.cache_policies import with_state_policy
from jaxmodels.models.decoder import Decoder

STRATEGY = Autoregressive()
STEPS, PROMPT, NEW = 16, 16, 1024


@dataclass(frozen=True)
class Loop:
    """The decode loop of some rows."""

    config: Decoder
    params: Any
    batch: int

    def carry(self) -> tuple[Any, Any]:
        """(request, what the prefill leaves)"""
        tokens = random_tokens(self.config.vocab_size, self.batch, PROMPT)
        made = plan(
            self.config, self.params, PromptBatch(tokens, [PROMPT] * self.batch), STRATEGY,
            max_new_tokens=NEW, stop_tokens=[], pad_token=0, seed=0, capacity=None,
        )  # fmt: skip
        carry = driver.start(
            self.params, made.request, made.cache, STRATEGY, config=self.config, max_new=made.new_slots
        )
        return made.request, carry

    def clock(self, kept: list[Any]) -> float:
        """Seconds per step; `kept` holds the request and the carry, which goes on."""
        request, carry = kept
        steps = jnp.asarray(STEPS, jnp.int32)

        def run() -> Any:
            kept[1] = driver.advance(self.params, request, carry, STRATEGY, steps, config=self.config)
            return kept[1].output.lengths

        return seconds(run) / STEPS

    def state_bytes(self) -> float:
        """Bytes of states and rings that the loop writes per step."""
        request, carry = self.carry()
        lowered = driver.advance.lower(
            self.params, request, carry, STRATEGY, jnp.asarray(STEPS, jnp.int32), config=self.config
        )
        layers = [state.replace(conv=None) for state in carry.cache.layers if hasattr(state, "conv")]
        shapes = {leaf.shape for leaf in jax.tree.leaves(layers) if leaf.ndim > 1}
        return bytes_written(lowered.compile().as_text(), shapes, 1 / Replay().ring)


def measure(config: Decoder, batch: int, rounds: int) -> dict[str, Any]:
    """Timings of both, and the bytes of states that they write."""
    params = jm.init(config).params
    loops = {
        "every token": Loop(config, params, batch),
        "replay": Loop(with_state_policy(config, Replay()), params, batch),
    }
    kept = {name: list(loop.carry()) for name, loop in loops.items()}
    clocks = {name: functools.partial(loop.clock, kept[name]) for name, loop in loops.items()}
    for clock in clocks.values():
        clock()  # compiles
    return {
        "timings": in_turns(clocks, rounds),
        "bytes": {name: loop.state_bytes() for name, loop in loops.items()},
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7, help="turns of every measurement")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    config = jm.config_from_hf(shape("mamba2-130m", tiny=arguments.quick))
    rows: list[list[str | float | None]] = []
    targets, values = [], {}
    for batch in arguments.batches:
        found = measure(config, batch, arguments.rounds)
        timings, written = found["timings"], found["bytes"]
        plain, replay = timings["every token"].best, timings["replay"].best
        share = written["replay"] / written["every token"]
        rows.append([batch, 1e3 * plain, 1e3 * replay, plain / replay, share])
        values[str(batch)] = {
            "seconds": {f"{name}_s": timing.runs for name, timing in timings.items()},
            "written": {f"{name}_bytes": number for name, number in written.items()},
        }
        if batch >= 8:
            targets.append(
                Target(what=f"batch {batch}: state bytes written", measured=share, sense="at most", aim=0.3)
            )
    publish(
        Result(
            name="replay",
            title="Writing states once in many tokens",
            method=f"Mamba-2 of 130M parameters, random float32 weights, prompts of {PROMPT} tokens, {STEPS} "
            f"steps per run, {arguments.rounds} turns, best of the turns; bytes from the compiled loop.",
            values=values,
            tables=[
                Table(
                    caption="Milliseconds per step",
                    columns=["rows", "every token", "replay", "faster", "state bytes written"],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
