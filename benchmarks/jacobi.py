"""The Jacobi family against decoding one token at a time: a model trained for it, and two that were not.

    python -m benchmarks.jacobi

Every way to decode answers the same prompts greedily, one after another. All but those that leave blocks
early give the same tokens, which is checked. Each model is measured as it is and in the shape of 100 million
parameters (`benchmarks.grown`), where a call costs more and its overhead less. For the models of list tasks
the quality is the share of right answers; for text, how many of its sequences of 4 tokens are distinct.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from benchmarks.grown import SHAPES_100M, grown
from jaxmodels.decoding import (
    Autoregressive,
    EarlyExitJacobi,
    Jacobi,
    Lookahead,
    MultiBlock,
    Speculative,
    Strategy,
)
from jaxmodels.parallel_bench.measure import words_of
from jaxmodels.parallel_bench.tasks import questions
from jaxmodels.training.data import read_text
from jaxmodels.training.stdlib_corpus import stdlib_split

TASKS = ("copy", "reverse", "sort", "replace_all", "replace_index", "insert_index", "remove_index")
LISTS = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 15,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
}
# Items of the lists that both models have learnt, and that the trained one has, too.
SHORT_LISTS, LONG_LISTS = 6, 20
PROMPT_TOKENS = 48
PLAIN, TRAINED = "tiny-llama-lists", "tiny-llama-lists-jacobi"


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A model, prompts, and the strategies that continue each of them.

    Attributes:
        name: of the model and its shape.
        quality: of all answers together.
        stop_tokens: None for the model's own.
    """

    name: str
    model: jm.Model
    prompts: Sequence[Sequence[int]]
    new: int
    strategies: dict[str, Strategy]
    quality: Callable[[list[jm.Generation]], float]
    stop_tokens: tuple[int, ...] | None = None

    def run(self, name: str) -> list[jm.Generation]:
        strategy = self.strategies[name]
        return [
            self.model.generate([list(prompt)], self.new, strategy, stop_tokens=self.stop_tokens)
            for prompt in self.prompts
        ]

    def clock(self, name: str) -> float:
        return seconds(lambda: [one.tokens for one in self.run(name)])


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one strategy made of a contest: its times, tokens per call behind the first one, and quality."""

    timing: Timing
    per_call: float
    quality: float
    agreement: float


def for_lists() -> dict[str, Strategy]:
    return {
        "one at a time": Autoregressive(),
        "Jacobi, window 4": Jacobi(window=4),
        "Jacobi, window 8": Jacobi(window=8),
        "Jacobi, window 16": Jacobi(window=16),
        "Jacobi, window 8, left after 2 passes": EarlyExitJacobi(window=8, iterations=2),
    }


def for_text() -> dict[str, Strategy]:
    return {
        "one at a time": Autoregressive(),
        "Jacobi, window 8": Jacobi(window=8),
        "blocks of 8, rejected drafts again": Speculative(draft=MultiBlock(block=8, blocks=1, pool=2)),
        "two blocks of 8, four drafts kept": Speculative(draft=MultiBlock(block=8, blocks=2, pool=4)),
        "lookahead 2, n-grams of 5, 1 tried": Speculative(draft=Lookahead(window=2, levels=5, guesses=1)),
    }


def lists(name: str, shape: str, model: jm.Model, count: int, items: int) -> Contest:
    """Questions about lists of so many items that no training step asked: those have other seeds."""
    asked = [question for task in TASKS for question in questions(task, count, items, seed=99)]
    assert model.tokenizer is not None
    tokenizer = model.tokenizer

    def right(made: list[jm.Generation]) -> float:
        texts = [tokenizer.decode([int(t) for t in one.tokens[0]]) for one in made]
        answers = [words_of(text.replace("<|endoftext|>", " ")) for text in texts]
        return float(np.mean([a in q.answers for a, q in zip(answers, asked, strict=True)]))

    prompts = [tokenizer.encode(question.prompt) for question in asked]
    return Contest(
        name=f"{name}, {items} items, {shape}",
        model=model,
        prompts=prompts,
        new=items + 4,
        strategies=for_lists(),
        quality=right,
    )


def text(name: str, shape: str, model: jm.Model, count: int, new: int) -> Contest:
    """The beginnings of held-out files."""
    assert model.tokenizer is not None
    encoded = [model.tokenizer.encode(read_text(path)) for path in stdlib_split().held_out]
    prompts = [ids[:PROMPT_TOKENS] for ids in encoded if len(ids) >= PROMPT_TOKENS][:count]

    return Contest(
        name=f"{name}, {shape}", model=model, prompts=prompts, new=new, strategies=for_text(),
        quality=lambda made: distinct(np.asarray(one.tokens[0]).tolist() for one in made), stop_tokens=(),
    )  # fmt: skip


def measure(contest: Contest, rounds: int) -> dict[str, Finding]:
    made = {name: contest.run(name) for name in contest.strategies}  # compiles
    plain = made["one at a time"]
    agreement = {
        name: float(np.mean([np.array_equal(a.tokens, b.tokens) for a, b in zip(some, plain, strict=True)]))
        for name, some in made.items()
    }
    for name, strategy in contest.strategies.items():
        if agreement[name] < 1 and not isinstance(strategy, EarlyExitJacobi):
            raise RuntimeError(f"{contest.name}: {name} gives other tokens than decoding one at a time")
    timings = in_turns({name: functools.partial(contest.clock, name) for name in made}, rounds)
    return {
        name: Finding(
            timing=timings[name],
            per_call=_per_call(some),
            quality=contest.quality(some),
            agreement=agreement[name],
        )
        for name, some in made.items()
    }


def _per_call(made: list[jm.Generation]) -> float:
    """Tokens per call: all but each answer's first one, which the prompt gives."""
    new = sum(one.stats.new_tokens - 1 for one in made)
    calls = sum(one.stats.counters.get("calls", one.stats.new_tokens - 1) for one in made)
    return float(new / max(calls, 1))


def contests(quick: bool) -> list[Contest]:
    made = []
    count, prompts, new = (1, 1, 8) if quick else (4, 6, 96)
    for name, items in ((PLAIN, SHORT_LISTS), (TRAINED, SHORT_LISTS), (TRAINED, LONG_LISTS)):
        model = jm.load(name, "float32")
        made.append(lists(name, "as it is", model, count, items))
        if not quick:
            made.append(lists(name, "100M shape", grown(model, LISTS), count, items))
    model = jm.load("tiny-qwen3", "float32")
    made.append(text("tiny-qwen3", "as it is", model, prompts, new))
    if not quick:
        shape = grown(model, SHAPES_100M["qwen3"])
        made.append(text("tiny-qwen3", "100M shape", shape, prompts // 2, new))
    return made


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    rows: list[list[str | float | None]] = []
    values: dict[str, Any] = {}
    speeds: dict[str, float] = {}
    for contest in contests(arguments.quick):
        found = measure(contest, rounds)
        plain = found["one at a time"].timing.median
        values[contest.name] = {
            name: {
                "all_prompts_s": it.timing.runs,
                "tokens_per_call": it.per_call,
                "quality": it.quality,
                "agreement": it.agreement,
            }
            for name, it in found.items()
        }
        rows += [
            [contest.name, name, plain / it.timing.median, it.per_call, it.quality, it.agreement]
            for name, it in found.items()
        ]
        jacobi = [name for name, strategy in contest.strategies.items() if isinstance(strategy, Jacobi)]
        speeds[contest.name] = max(plain / found[name].timing.median for name in jacobi)
    targets = [
        Target(what=f"{name}: best Jacobi, times one at a time", measured=speed, sense="at least", aim=1.6)
        for name, speed in speeds.items()
        if name.startswith(f"{TRAINED}, {LONG_LISTS}")
    ]
    publish(
        Result(
            name="jacobi",
            title="The Jacobi family",
            method=f"Greedy, batch 1, float32, medians of {rounds} turns. Speed is that of decoding one "
            "token at a time by the same model; tokens per call leave out each answer's first. Quality: of "
            "list tasks the share of right answers, of text the share of distinct sequences of 4 tokens. "
            "Agreement: answers that are those of decoding one at a time.",
            values=values,
            tables=[
                Table(
                    caption="Speed, tokens per call and quality",
                    columns=["model", "decoding", "speed", "tokens per call", "quality", "agreement"],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
