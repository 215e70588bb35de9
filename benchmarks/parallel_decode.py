"""Drafts that are models, at the shape of 100 million parameters: wall clock against sequential decoding.

    python -m benchmarks.parallel_decode

The target is a bundled model grown to that shape (see `benchmarks.grown`): a call costs what one of 100
million parameters does, and the text is that of the small model. It is drafted for by a model that was
distilled from it, `tiny-qwen3-draft`, and by heads that were trained on its features. A model that was
trained for early exits, `tiny-qwen3-exits`, is drafted for by its own first layers. Prompts are held-out
sources; strategies take turns, so that a slow minute falls on all of them alike.
"""

import argparse
import functools
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import jaxmodels as jm
from benchmarks.common import (
    Result,
    Table,
    Target,
    Timing,
    argument_parser,
    distinct,
    in_turns,
    publish,
    seconds,
)
from benchmarks.grown import grown_100m
from benchmarks.grown_heads import head_on_grown
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.decoding import (
    Autoregressive,
    Draft,
    FirstLayers,
    Greedy,
    PromptLookup,
    Sample,
    Sampler,
    Speculative,
    Strategy,
    SuffixDecoding,
)
from jaxmodels.decoding.lengths import GrowShrink
from jaxmodels.decoding_bench.prompts import held_out_prompts
from jaxmodels.layers.spec import count_params
from jaxmodels.training.edits_corpus import edits
from jaxmodels.training.stdlib_corpus import stdlib_split

PLAIN = "one at a time"
# How the names of strategies begin whose drafts are models: the aims are theirs.
MODELS = ("distilled draft", "EAGLE-3 head", "MTP module", "first ")
SAMPLERS: Mapping[str, Sampler] = {"greedy": Greedy(), "sampled": Sample(temperature=1.0)}
# Windows of 4 and 8 tokens: few rows are multiplied in multiples of four.
SIZES = (3, 7)
HEAD_SIZE = 3
TARGET, DRAFT, ITSELF = "tiny-qwen3", "tiny-qwen3-draft", "tiny-qwen3-exits"
# The numbers of first layers that draft.
EXITS = (2, 3)
HEADS: Mapping[str, str] = {"EAGLE-3 head": "tiny-qwen3-eagle3", "MTP module": "tiny-qwen3-mtp"}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A target, its prompts i32[S], and the strategies that continue each of them by `new` tokens."""

    target: jm.Model
    prompts: Sequence[np.ndarray]
    strategies: Mapping[str, Strategy]
    new: int

    def run(self, name: str) -> list[jm.Generation]:
        return [
            self.target.generate(row[None], self.new, self.strategies[name], stop_tokens=[], stop_strings=[])
            for row in self.prompts
        ]


def of_a_draft(target: jm.Model, sampler: Sampler, sizes: Sequence[int]) -> dict[str, Strategy]:
    """Sequential decoding, speculation with the distilled draft and with heads at several lengths, and drafts
    from the text, of a length that follows what was accepted."""
    draft, trained = jm.load(DRAFT), jm.load(TARGET)
    small = Draft(draft.config, draft.params)
    return (
        of_the_text(target, sampler, sizes)
        | {
            f"distilled draft, {size}": Speculative(draft=small, gamma=size, sampler=sampler)
            for size in sizes
        }
        | {
            f"{name}, {HEAD_SIZE}": Speculative(
                draft=head_on_grown(head, trained, target, HEAD_SIZE), sampler=sampler
            )
            for name, head in HEADS.items()
        }
    )


def of_the_text(target: jm.Model, sampler: Sampler, sizes: Sequence[int]) -> dict[str, Strategy]:
    """Sequential decoding, and drafts from the text, of a length that follows what was accepted."""
    texts = {"suffix decoding": SuffixDecoding(size=15), "prompt lookup": PromptLookup(size=15)}
    adaptive = GrowShrink(start=3, most=15)
    return {PLAIN: Autoregressive(sampler=sampler)} | {
        f"{name}, up to 15": Speculative(draft=drafter, length=adaptive, sampler=sampler)
        for name, drafter in texts.items()
    }


def of_edits(target: jm.Model, sampler: Sampler, sizes: Sequence[int]) -> dict[str, Strategy]:
    """The same, and drafts from the text that are always as long."""
    made = of_the_text(target, sampler, sizes)
    for size in sizes:
        made[f"suffix decoding, {size}"] = Speculative(draft=SuffixDecoding(size=size), sampler=sampler)
        made[f"prompt lookup, {size}"] = Speculative(draft=PromptLookup(size=size), sampler=sampler)
    return made


def of_itself(target: jm.Model, sampler: Sampler, sizes: Sequence[int]) -> dict[str, Strategy]:
    """Sequential decoding, and speculation with the first blocks at several lengths."""
    return {PLAIN: Autoregressive(sampler=sampler)} | {
        f"first {layers} layers, {size}": Speculative(
            draft=FirstLayers(layers=layers, size=size), sampler=sampler
        )
        for layers in EXITS
        for size in sizes
    }


@dataclass(frozen=True, kw_only=True)
class Race:
    """One target on one kind of prompts.

    Attributes:
        source: the small model that the target is grown from.
        told: what the prompts are, in the table.
        prompts: so many of them, for a tokenizer.
        strategies: for a target, a sampler and sizes of drafts.
        aim: what the best strategy whose name begins as one of `aimed` must reach.
        modes: the samplers that it is run with, of `SAMPLERS`.
    """

    source: str
    told: str
    prompts: Callable[[Tokenizer, int], Sequence[np.ndarray]]
    strategies: Callable[[jm.Model, Sampler, Sequence[int]], dict[str, Strategy]]
    aim: float
    aimed: tuple[str, ...]
    modes: tuple[str, ...] = tuple(SAMPLERS)


def sources(tokenizer: Tokenizer, count: int) -> Sequence[np.ndarray]:
    """The first 64 tokens of held-out files."""
    return list(held_out_prompts(tokenizer, count, 64))


def edits_to_make(tokenizer: Tokenizer, count: int) -> Sequence[np.ndarray]:
    """Held-out functions of 96 to 192 tokens, each with what to rename, which the model is to write again."""
    found = list(edits(stdlib_split().held_out))
    random.Random(0).shuffle(found)
    encoded = (tokenizer.encode(edit.prompt) for edit in found)
    fitting = [np.asarray(tokens, np.int32) for tokens in encoded if 96 <= len(tokens) <= 192]
    return fitting[:count]


RACES = (
    Race(
        source=TARGET, told="sources", prompts=sources, strategies=of_a_draft, aim=1.5,
        aimed=("distilled draft",),
    ),
    Race(
        source=TARGET, told="edits", prompts=edits_to_make, strategies=of_edits, aim=2.0,
        aimed=("suffix", "prompt"), modes=("greedy",),
    ),
    Race(
        source=ITSELF, told="sources", prompts=sources, strategies=of_itself, aim=1.15, aimed=("first ",)
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Seconds of all prompts, the mean number of tokens per call of the target, and the share of distinct
    sequences of 4 tokens."""

    timing: Timing
    per_call: float
    distinct: float


def measure(contest: Contest, rounds: int, *, same_text: bool) -> dict[str, Finding]:
    """What each strategy reaches."""
    per_call, shares, expected = {}, {}, None
    for name in contest.strategies:
        found = contest.run(name)  # compiles
        tokens = np.concatenate([one.tokens for one in found])
        expected = tokens if expected is None else expected
        if same_text and not np.array_equal(tokens, expected):
            raise RuntimeError(f"{name} gives other tokens than decoding one at a time")
        per_call[name] = statistics.mean(1 + one.stats.per_call.get("accepted", 0.0) for one in found)
        shares[name] = distinct(tokens.tolist())
    clocks = {
        name: functools.partial(seconds, functools.partial(_tokens, contest, name))
        for name in contest.strategies
    }
    timings = in_turns(clocks, rounds)
    return {
        name: Finding(timing=timings[name], per_call=per_call[name], distinct=shares[name]) for name in clocks
    }


def _tokens(contest: Contest, name: str) -> list[np.ndarray]:
    return [one.tokens for one in contest.run(name)]


def run_race(race: Race, arguments: argparse.Namespace) -> dict[str, dict[str, Finding]]:
    """What each strategy reaches, by the mode that it is run in."""
    target = jm.load(race.source) if arguments.quick else grown_100m(race.source)
    prompts = race.prompts(target.tokenizer, arguments.prompts)
    found = {}
    for mode in (mode for mode in arguments.modes if mode in race.modes):
        strategies = race.strategies(target, SAMPLERS[mode], arguments.sizes)
        contest = Contest(target=target, prompts=prompts, strategies=strategies, new=arguments.new)
        found[mode] = measure(contest, arguments.rounds, same_text=mode == "greedy")
    return found


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--modes", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="tokens drafted per round")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.prompts, arguments.new = 1, 1, 8
    rows: list[list[str | float | None]] = []
    runs: dict[str, dict[str, dict[str, object]]] = {}
    targets: list[Target] = []
    for race in RACES:
        for mode, found in run_race(race, arguments).items():
            what = f"{race.source}, {race.told}, {mode}"
            plain = found[PLAIN].timing.median
            speeds = {name: plain / it.timing.median for name, it in found.items()}
            runs[what] = {
                name: {
                    "all_prompts_s": it.timing.runs,
                    "tokens_per_call": it.per_call,
                    "distinct": it.distinct,
                }
                for name, it in found.items()
            }
            rows += [
                [race.source, race.told, mode, name, speeds[name], it.per_call, it.distinct]
                for name, it in found.items()
            ]
            best = max(speed for name, speed in speeds.items() if name.startswith(race.aimed))
            targets.append(Target(what=what, measured=best, sense="at least", aim=race.aim))
    draft = count_params(jm.load(DRAFT).config.spec()) / 1e6
    publish(
        Result(
            name="parallel_decode",
            title="Drafts at the shape of 100 million parameters",
            method=f"Batch 1, {arguments.prompts} prompts, 64 tokens of held-out sources, or held-out "
            f"functions with what to rename in them; {arguments.new} new tokens each, medians of "
            f"{arguments.rounds} turns, float32. The target is the named model grown to 100 million "
            "parameters, which leaves its function as it is: calls cost what those of its shape do, the text "
            "and so the acceptance are the small model's. The distilled draft has "
            f"{draft:.1f} million parameters, two of the five layers of the small model. Heads keep the "
            "width of the small model, and read its part of the streams. Sampled at temperature 1. Distinct "
            "is the share of distinct sequences of 4 tokens: the greedy text of so small a model repeats "
            "itself, which flatters every draft.",
            values=runs,
            tables=[
                Table(
                    caption="Speed against one token at a time, and tokens per call of the target",
                    columns=[
                        "target", "prompts", "tokens are", "strategy", "speed", "tokens per call", "distinct",
                    ],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
