"""Asks a model the questions of tasks: the share of right answers, and the model calls they take."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jaxmodels.checks import number, whole
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.driver import MaskedDiffusion
from jaxmodels.decoding.samplers import Greedy, Sample, Sampler
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.model import Model
from jaxmodels.parallel_bench.questions import Question, Words
from jaxmodels.parallel_bench.rules import RULES
from jaxmodels.parallel_bench.tasks import questions

AUTOREGRESSIVE = "autoregressive"


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Which questions are asked, and how.

    Attributes:
        tasks: names of tasks.
        count: questions of each.
        length: items of each list.
        temperature: tokens are drawn at it; at 0 the most probable ones are taken.
        canvas: places that an answer is given; by default those of the longest answer and the end token.
        seed: of the questions and of the draws.

    Raises:
        ValueError: a number out of range.
    """

    tasks: tuple[str, ...]
    count: int = 100
    length: int = 8
    temperature: float = 1.0
    canvas: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        number("temperature", self.temperature, low=0)
        if self.canvas is not None:
            whole("canvas", self.canvas, low=1)

    @property
    def sampler(self) -> Sampler:
        return Sample(temperature=self.temperature) if self.temperature else Greedy()

    def questions(self) -> dict[str, list[Question]]:
        """By task."""
        return {task: questions(task, self.count, self.length, self.seed) for task in self.tasks}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one way to decode made of one task.

    Attributes:
        task: its name.
        rule: its name, or `AUTOREGRESSIVE`.
        value: of the rule's knob; None where there is none.
        canvas: places that an answer was given.
        accuracy: share of the questions that were answered rightly.
        calls: of the model, per answer.
    """

    task: str
    rule: str
    value: float | None = None
    canvas: int
    accuracy: float
    calls: float

    @property
    def tokens_per_call(self) -> float:
        """Places of the canvas per call of the model."""
        return self.canvas / self.calls


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that sits an exam.

    Attributes:
        model: with a tokenizer.
        exam: the exam.

    Raises:
        ValueError: the model has no tokenizer.
    """

    model: Model
    exam: Exam
    asked: dict[str, list[Question]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.model.tokenizer is None:
            raise ValueError("the tasks are texts, and this model has no tokenizer")
        object.__setattr__(self, "asked", self.exam.questions())

    @property
    def canvas(self) -> int:
        """Places that an answer is given."""
        if self.exam.canvas is not None:
            return self.exam.canvas
        asked = [question for of_task in self.asked.values() for question in of_task]
        return 1 + max(len(self._encode(f" {' '.join(next(iter(it.answers)))}")) for it in asked)

    def fill(self, name: str, values: Sequence[float] | None = None) -> Iterator[Trial]:
        """Every task by masked diffusion under one rule, for some values of its knob or all."""
        rule, canvas = RULES[name], self.canvas
        for value in rule.values if values is None else values:
            strategy = MaskedDiffusion(
                blocks=FixedBlocks(canvas),
                steps=rule.steps(value, canvas),
                unmask=rule.build(value),
                sampler=self.exam.sampler,
            )
            yield from self._sit(name, value, strategy)

    def continue_text(self) -> Iterator[Trial]:
        """Every task, one token after the other."""
        yield from self._sit(AUTOREGRESSIVE, None, Autoregressive(sampler=self.exam.sampler))

    def _sit(self, rule: str, value: float | None, strategy: Strategy) -> Iterator[Trial]:
        for task, asked in self.asked.items():
            prompts = [self._encode(question.prompt) for question in asked]
            made = self.model.generate(prompts, self.canvas, strategy, seed=self.exam.seed)
            assert made.text is not None
            right = [words_of(text) in it.answers for text, it in zip(made.text, asked, strict=True)]
            # One token after the other takes a call for each, the first one in the prefill.
            calls = made.stats.counters.get("calls", made.stats.new_tokens)
            yield Trial(
                task=task, rule=rule, value=value, canvas=self.canvas,
                accuracy=sum(right) / len(right), calls=calls / len(right),
            )  # fmt: skip

    def _encode(self, text: str) -> list[int]:
        assert self.model.tokenizer is not None
        return self.model.tokenizer.encode(text)


def words_of(text: str) -> Words:
    """The words of an answer: those of its first line, without brackets, commas and quotes."""
    lines = text.strip().splitlines()
    return tuple(re.findall(r"[^\W_]+", lines[0])) if lines else ()
