"""How the cost of a decoded token and of a prompt depends on the context.

    python -m benchmarks.context_scaling

A state-space model's step must cost the same after 128 tokens as after 16 thousand, and its prefill must be
linear. A Transformer's step must follow the slots in use, not the slots allocated. Contexts come from the
real prefill; all steps of one model run in the same compiled program, in turns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from jaxmodels.decoding import Autoregressive, driver
from jaxmodels.decoding.generation import Plan, plan
from jaxmodels.decoding.prompts import PromptBatch
from jaxmodels.decoding.strategy import Request

STRATEGY = Autoregressive()


@dataclass
class Context:
    """A history of `length` tokens that is decoded further, `steps` tokens at a time.

    Decoding lengthens it, by a few tokens per turn, alike in all contexts.
    """

    model: jm.Model
    length: int
    steps: int
    rounds: int
    capacity: int | None = None
    request: Request | None = None
    carry: Any = None

    def plan(self) -> Plan:
        """The request; its output has room for all turns and a warm-up."""
        tokens = random_tokens(self.model.config.vocab_size, 1, self.length)
        prompt = PromptBatch(tokens, np.array([self.length], np.int32))
        return plan(
            self.model.config, self.model.params, prompt, STRATEGY,
            max_new_tokens=self.steps * (self.rounds + 2), stop_tokens=[], pad_token=0, seed=0,
            capacity=self.capacity,
        )  # fmt: skip

    def prefill(self) -> float:
        """Seconds of the whole prefill; the context is then ready to be decoded."""
        ready = jax.block_until_ready(self.plan())
        # Steps do not read the prompt: without it all lengths share one program.
        self.request = replace(ready.request, tokens=ready.request.tokens[:, :1])
        self.carry = None

        def start() -> Any:
            self.carry = driver.start(
                self.model.params, ready.request, ready.cache, STRATEGY,
                config=self.model.config, max_new=ready.new_slots,
            )  # fmt: skip
            return self.carry

        return seconds(start)

    def decode(self) -> float:
        """Seconds per token over `steps` tokens."""
        steps = jnp.asarray(self.steps, jnp.int32)

        def advance() -> Any:
            self.carry = driver.advance(
                self.model.params, self.request, self.carry, STRATEGY, steps, config=self.model.config
            )
            return self.carry

        return seconds(advance) / self.steps


def decode_in_turns(contexts: Sequence[Context], rounds: int) -> dict[str, Timing]:
    """Seconds per token of every context, by its place in `contexts`."""
    clocks: dict[str, Callable[[], float]] = {}
    for index, context in enumerate(contexts):
        if context.carry is None:
            context.prefill()
        context.decode()
        clocks[str(index)] = context.decode
    return in_turns(clocks, rounds)


def recurrent(model: jm.Model, lengths: Sequence[int], steps: int, rounds: int) -> tuple[Table, list, dict]:
    """Prefill and decode of a state-space model by length of the context."""
    contexts = [Context(model, length, steps, rounds) for length in lengths]
    prefills = []
    for context in contexts:
        context.prefill()  # compiles
        prefills.append(Timing(tuple(context.prefill() for _ in range(3))))
    decodes = list(decode_in_turns(contexts, rounds).values())
    rows: list[list[float]] = [
        [length, 1e3 * prefill.best, 1e6 * prefill.best / length, 1e3 * decode.best, 1e3 * decode.median]
        for length, prefill, decode in zip(lengths, prefills, decodes, strict=True)
    ]
    steps = [decode.median for decode in decodes]
    per_token = [prefill.best / length for length, prefill in zip(lengths, prefills, strict=True)]
    # Short prompts pay a share of the fixed costs; linearity is about the long ones.
    long = [cost for length, cost in zip(lengths, per_token, strict=True) if length >= lengths[1]]
    targets = [
        Target(
            what=f"Mamba-2: slowest over fastest step (medians), contexts {lengths[0]:,} to {lengths[-1]:,}",
            measured=max(steps) / min(steps), sense="at most", aim=1.05,
        ),
        Target(
            what=f"Mamba-2: prefill per token, {lengths[-1]:,} over the cheapest of {lengths[1]:,} and more",
            measured=long[-1] / min(long), sense="at most", aim=1.1,
        ),
    ]  # fmt: skip
    table = Table(
        caption=f"Mamba-2, {len(model.config.blocks)} layers of the 130M shape, batch 1",
        columns=["context", "prefill (ms)", "prefill (ms per 1,000)", "decode (ms/token)", "median"],
        rows=rows,
    )
    runs = {
        str(n): {"prefill_s": p.runs, "decode_s": d.runs}
        for n, p, d in zip(lengths, prefills, decodes, strict=True)
    }
    return table, targets, runs


def by_length(model: jm.Model, lengths: Sequence[int], capacity: int, steps: int, rounds: int) -> tuple:
    """Decoding of a Transformer in one capacity, by slots in use."""
    contexts = [Context(model, length, steps, rounds, capacity) for length in lengths]
    decodes = list(decode_in_turns(contexts, rounds).values())
    table = Table(
        caption=f"Qwen3, {len(model.config.blocks)} layers of the 100M shape, {capacity:,} slots allocated",
        columns=["slots in use", "decode (ms/token)", "median"],
        rows=[[n, 1e3 * d.best, 1e3 * d.median] for n, d in zip(lengths, decodes, strict=True)],
    )
    return table, {str(n): d.runs for n, d in zip(lengths, decodes, strict=True)}


def by_capacity(model: jm.Model, length: int, capacities: Sequence[int], steps: int, rounds: int) -> tuple:
    """Decoding of a Transformer at one length, by slots allocated."""
    contexts = [Context(model, length, steps, rounds, capacity) for capacity in capacities]
    decodes = list(decode_in_turns(contexts, rounds).values())
    best = [decode.best for decode in decodes]
    table = Table(
        caption=f"Qwen3, the same, {length:,} slots in use",
        columns=["slots allocated", "decode (ms/token)", "median"],
        rows=[[n, 1e3 * d.best, 1e3 * d.median] for n, d in zip(capacities, decodes, strict=True)],
    )
    target = Target(
        what=f"Qwen3: step with {capacities[-1]:,} slots allocated over {capacities[0]:,}, {length:,} in use",
        measured=best[-1] / best[0], sense="at most", aim=1.1,
    )  # fmt: skip
    return table, target, {str(n): d.runs for n, d in zip(capacities, decodes, strict=True)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="turns of every measurement")
    parser.add_argument("--steps", type=int, default=16, help="tokens decoded per turn")
    arguments = parser.parse_args()
    lengths, capacities, length = [128, 512, 2048, 4096, 8192, 16384], [1024, 4096, 16384, 65536], 512
    if arguments.quick:
        lengths, capacities, length = [16, 64, 128], [512, 1024], 32
        arguments.rounds, arguments.steps = 2, 4
    rounds, steps = arguments.rounds, arguments.steps

    mamba = jm.init(jm.config_from_hf(shape("mamba2-130m", tiny=arguments.quick, layers=6)))
    recurrence, targets, recurrent_runs = recurrent(mamba, lengths, steps, rounds)
    del mamba
    qwen = jm.init(jm.config_from_hf(shape("qwen3-100m", tiny=arguments.quick, layers=4)))
    capacity = lengths[-1] + 1024
    in_use, length_runs = by_length(qwen, lengths, capacity, steps, rounds)
    allocated, target, capacity_runs = by_capacity(qwen, length, capacities, steps, rounds)
    publish(
        Result(
            name="context_scaling",
            title="Cost by context",
            method=f"Random float32 weights, batch 1, greedy, {steps} tokens per turn, {rounds} turns; best "
            "and median of the turns. Prompts beyond 2,048 tokens are fed in windows of that size.",
            values={
                "mamba2": recurrent_runs,
                "qwen3_by_length_s": length_runs,
                "qwen3_by_capacity_s": capacity_runs,
            },
            tables=[recurrence, in_use, allocated],
            targets=[*targets, target],
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
