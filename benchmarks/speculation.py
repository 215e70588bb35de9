"""Speculation against decoding one token at a time, on the bundled models: who drafts, and what it gains.

    python -m benchmarks.speculation

Each way to draft continues the same prompts greedily; all give the same tokens, which is checked. They take
turns, so that a slow minute of the machine falls on all of them alike.
"""

import functools
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxmodels as jm
from benchmarks.common import Result, Table, Timing, argument_parser, in_turns, publish, seconds
from jaxmodels.decoding import (
    Autoregressive,
    Draft,
    Jacobi,
    PromptLookup,
    Speculative,
    Strategy,
    SuffixDecoding,
    TreeDrafter,
)
from jaxmodels.decoding.lengths import GrowShrink

PROMPTS = (
    "def add(a, b):\n    return",
    "import json\nimport os\n\n\ndef load(path):",
    "class Stack:\n    def __init__(self",
)
PAIRS = {"tiny-qwen3": "tiny-mamba2", "tiny-mamba2": "tiny-qwen3"}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A model, its prompts, and the strategies that continue each of them by `new` tokens."""

    model: jm.Model
    strategies: dict[str, Strategy]
    new: int

    def run(self, name: str) -> list[jm.Generation]:
        return [
            self.model.generate(prompt, self.new, self.strategies[name], stop_tokens=[]) for prompt in PROMPTS
        ]


def strategies(model: jm.Model, other: jm.Model) -> dict[str, Strategy]:
    """Every way to draft, one token at a time first."""
    itself = Draft(model.config, model.params)
    return {
        "one at a time": Autoregressive(),
        "another model, 4": Speculative(draft=other, gamma=4),
        "itself, 4": Speculative(draft=itself, gamma=4),
        "itself, tree 3-2-1": Speculative(draft=TreeDrafter(draft=itself, siblings=(3, 2, 1))),
        "prompt lookup, 7": Speculative(draft=PromptLookup(size=7)),
        "prompt lookup, 15, growing and shrinking": Speculative(
            draft=PromptLookup(size=15), length=GrowShrink(start=7, most=15)
        ),
        "suffix decoding, 15": Speculative(draft=SuffixDecoding(size=15)),
        "Jacobi, 7": Jacobi(window=8),
    }


def measure(contest: Contest, rounds: int) -> tuple[dict[str, Timing], dict[str, float]]:
    """Seconds of all prompts, and the mean number of accepted tokens per call, by strategy."""
    accepted, expected = {}, None
    for name in contest.strategies:
        found = contest.run(name)  # compiles
        tokens = np.concatenate([one.tokens for one in found])
        if expected is None:
            expected = tokens
        if not np.array_equal(tokens, expected):
            raise RuntimeError(f"{name} gives other tokens than decoding one at a time")
        accepted[name] = statistics.mean(one.stats.per_call.get("accepted", 0.0) for one in found)
    clocks = {name: functools.partial(_clock, contest, name) for name in contest.strategies}
    return in_turns(clocks, rounds), accepted


def _clock(contest: Contest, name: str) -> float:
    return seconds(lambda: [one.tokens for one in contest.run(name)])


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every measurement")
    arguments = parser.parse_args()
    new = 128
    if arguments.quick:
        new, arguments.rounds = 8, 1
    rows: list[list[str | float | None]] = []
    runs: dict[str, Any] = {}
    for name, other in PAIRS.items():
        model = jm.load(name)
        timings, accepted = measure(
            Contest(model=model, strategies=strategies(model, jm.load(other)), new=new), arguments.rounds
        )
        plain = timings["one at a time"].median
        runs[name] = {
            kind: {"all_prompts_s": it.runs, "accepted_per_call": accepted[kind]}
            for kind, it in timings.items()
        }
        rows += [
            [name, kind, plain / it.median, accepted[kind], len(PROMPTS) * new / it.median]
            for kind, it in timings.items()
        ]
    publish(
        Result(
            name="speculation",
            title="Speculation by who drafts",
            method=f"Greedy, batch 1, {len(PROMPTS)} prompts of code, {new} new tokens each, medians "
            f"of {arguments.rounds} turns. Speed is that of decoding one token at a time by the same model; "
            "accepted are drafted tokens per call of the model.",
            values=runs,
            tables=[
                Table(
                    caption="Speed and accepted tokens",
                    columns=["model", "draft", "speed", "accepted", "tokens/s"],
                    rows=rows,
                )
            ],
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
