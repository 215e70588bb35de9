"""Leaving thinking early: a trained probe, a monitor of entropy, and budgets of as many tokens.

    python -m benchmarks.thinking

`tiny-llama-scratchpad` thinks about questions that neither it nor its probe was trained on. Each threshold is
found on questions of another seed, by `conformal_threshold`: with it a right answer is lost with a
probability of at most the risk. Budgets are the lengths at which cutting every text off leaves as many tokens
of thinking as the probe does. Seconds are those of one question after another, in turns.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxmodels as jm
from benchmarks.common import Result, Table, Timing, argument_parser, in_turns, publish, seconds
from jaxmodels.decoding import Strategy, ThinkingExit
from jaxmodels.decoding.thinking import PathDeviation, TokenBudget
from jaxmodels.parallel_bench.scratchpads import MOST_TOKENS, Replacements, replacements
from jaxmodels.parallel_bench.thinking import CALIBRATION_SEED, Answered, Lesson, Thinker, calibrated

MODEL, PROBE = "tiny-llama-scratchpad", "tiny-llama-scratchpad-probe"
RISKS = (0.05, 0.1)
FRESH_SEED = 3
WHOLE, AT_ONCE = "all of it", "no thinking"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one strategy made of the fresh questions."""

    answered: Answered
    timing: Timing | None

    @property
    def tokens(self) -> float:
        """Of thinking, per question."""
        return float(self.answered.thinking.mean())

    @property
    def accuracy(self) -> float:
        return float(self.answered.is_right.mean())


def policies(thinker: Thinker, lesson: Lesson) -> dict[str, Strategy]:
    """The bundled probe at two risks, and the monitor at the larger one."""
    probe = jm.load_thinking(PROBE, thinker.model)
    deviation = PathDeviation(threshold=1.0, entropy=0.3, window=8, moments=thinker.cues)
    found = {f"probe, risk {risk:g}": calibrated(thinker, lesson, probe, risk) for risk in RISKS}
    risk = RISKS[-1]
    found[f"path deviation, risk {risk:g}"] = calibrated(thinker, lesson, deviation, risk)
    return {name: leaving(thinker, policy) for name, policy in found.items()}


def leaving(thinker: Thinker, policy: Any) -> ThinkingExit:
    return ThinkingExit(delimiters=thinker.delimiters, policy=policy, decode=thinker.decode)


def budgets(thinker: Thinker, whole: Answered, others: dict[str, Answered]) -> dict[str, Strategy]:
    """For each of the others the budget with which the whole texts have as many tokens of thinking."""
    lengths = np.arange(1, whole.thinking.max() + 1)
    kept = np.minimum(whole.thinking[:, None], lengths).mean(0)
    made: dict[str, Strategy] = {}
    for name, one in others.items():
        size = int(lengths[np.abs(kept - one.thinking.mean()).argmin()])
        made[f"cut at {size} tokens, as many as {name}"] = leaving(thinker, TokenBudget(tokens=size))
    return made


def measure(thinker: Thinker, arguments: Any) -> dict[str, Finding]:
    count, timed, rounds = (8, 2, 1) if arguments.quick else (arguments.questions, 24, 5)
    lesson = thinker.lesson(19 if arguments.quick else count, CALIBRATION_SEED)
    asked = replacements(count, FRESH_SEED)
    strategies: dict[str, Strategy] = {WHOLE: thinker.decode, **policies(thinker, lesson)}
    answered = {name: thinker.think(asked, strategy) for name, strategy in strategies.items()}
    probes = {name: one for name, one in answered.items() if name.startswith("probe")}
    cuts = budgets(thinker, answered[WHOLE], probes)
    answered |= {name: thinker.think(asked, strategy) for name, strategy in cuts.items()}
    strategies |= cuts
    clocks = {
        name: functools.partial(clock, thinker, asked[:timed], strategy)
        for name, strategy in strategies.items()
    }
    for each in clocks.values():
        each()  # compiles
    timings = in_turns(clocks, rounds)
    found = {name: Finding(answered=one, timing=timings[name]) for name, one in answered.items()}
    return found | {AT_ONCE: Finding(answered=thinker.answer_at_once(asked), timing=None)}


def clock(thinker: Thinker, asked: Sequence[Replacements], strategy: Strategy) -> float:
    prompts = [[thinker.prompt(one)] for one in asked]
    return seconds(lambda: [thinker.model.generate(one, MOST_TOKENS, strategy).tokens for one in prompts])


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=400, help="fresh ones, and as many set aside")
    arguments = parser.parse_args()
    thinker = Thinker(jm.load(MODEL, "float32"))
    found = measure(thinker, arguments)
    whole = found[WHOLE]
    assert whole.timing is not None
    lost = {
        name: float((whole.answered.is_right & ~it.answered.is_right).mean()) for name, it in found.items()
    }
    rows: list[list[str | float | None]] = [
        [
            name, it.tokens, it.accuracy, lost[name],
            None if it.timing is None else whole.timing.median / it.timing.median,
        ]
        for name, it in found.items()
    ]  # fmt: skip
    publish(
        Result(
            name="thinking",
            title="Leaving thinking early",
            method=(
                f"{MODEL}, float32, greedy, {len(whole.answered.texts)} fresh "
                "questions; thresholds from as many others. Tokens: of thinking, per question. Lost: answers "
                "that are right with all of the thinking and wrong here; the risk bounds this share. Speed: "
                "seconds with all of the thinking over these, 24 questions one after another, medians of 5 "
                f"turns. Standard errors of accuracies are up to "
                f"{0.5 / len(whole.answered.texts) ** 0.5:.2f}."
            ),
            values={
                name: {
                    "thinking_tokens": it.tokens,
                    "accuracy": it.accuracy,
                    "lost": lost[name],
                    "questions_s": None if it.timing is None else it.timing.runs,
                }
                for name, it in found.items()
            },
            tables=[
                Table(
                    caption="Thinking left early",
                    columns=["thinking", "tokens", "accuracy", "lost", "speed"],
                    rows=rows,
                )
            ],
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
