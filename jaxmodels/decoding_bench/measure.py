"""Contestants take turns at the same prompts: speed, accepted drafts, and how near they stay to the text."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.generation import plan, stream
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.decoding_bench.contestants import PLAIN, Contestant
from jaxmodels.generated import Generation
from jaxmodels.model import Model

# How many of the first places of answers are compared where tokens are drawn.
COMPARED = 8


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What contestants continue.

    Attributes:
        prompts: i32[N, S], each continued by itself.
        new: tokens of an answer.
        rounds: turns, of which the median counts.
        draws: where tokens are drawn, the answers to the first prompt whose tokens are compared.
        seed: of the draws.

    Raises:
        ValueError: no prompts, or a number below 1.
    """

    prompts: np.ndarray
    new: int = 128
    rounds: int = 3
    draws: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompts.ndim != 2 or not self.prompts.size:
            raise ValueError(f"prompts must be i32[N, S], got {shown(self.prompts)}")
        for name in ("new", "rounds", "draws"):
            whole(name, getattr(self, name), low=1)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one strategy made of the exam.

    Attributes:
        name: of the contestant.
        keeps_text: see `Contestant`.
        tokens_per_second: of all answers, at batch 1.
        speed: how many times as fast as sequential decoding.
        tokens_per_call: of the model.
        accepted_at: entry i is the share of its calls in which more than i drafted tokens were accepted, up
            to the last that is not 0; empty where none ever was.
        agreement: share of the tokens that are those of sequential decoding; None where tokens are drawn.
        distance: where tokens are drawn, the total variation between its tokens and those of sequential
            decoding, see `variation`; else None.
        chance: the same between two samples of sequential decoding: what `distance` is about where the
            distributions are the same.
    """

    name: str
    keeps_text: bool
    tokens_per_second: float
    speed: float
    tokens_per_call: float
    accepted_at: tuple[float, ...]
    agreement: float | None = None
    distance: float | None = None
    chance: float | None = None


def sit(model: Model, contestants: Sequence[Contestant], exam: Exam) -> Iterator[Trial]:
    """The trials of all contestants, who take turns; the first must be sequential decoding.

    Raises:
        ValueError: the first contestant is not `PLAIN`.
    """
    if not contestants or contestants[0].name != PLAIN:
        raise ValueError(f"the first contestant must be {PLAIN!r}, which the others are compared with")
    strategies = {one.name: one.strategy for one in contestants}
    answers = {name: answered(model, strategy, exam) for name, strategy in strategies.items()}  # compiles
    seconds = in_turns(model, strategies, exam)
    is_drawn = getattr(contestants[0].strategy, "sampler", Greedy()) != Greedy()
    samples = [_drawn(model, contestants[0], exam, number) for number in range(2)] if is_drawn else []
    for one in contestants:
        found, median = answers[one.name], statistics.median(seconds[one.name])
        tokens = sum(it.stats.new_tokens for it in found)
        same = [ours.tokens == theirs.tokens for ours, theirs in zip(found, answers[PLAIN], strict=True)]
        yield Trial(
            name=one.name,
            keeps_text=one.keeps_text,
            tokens_per_second=tokens / median,
            speed=statistics.median(seconds[PLAIN]) / median,
            # The first token of an answer is the prefill's.
            tokens_per_call=(tokens - len(found)) / max(sum(it.stats.steps for it in found), 1),
            accepted_at=_accepted_at(model, one.strategy, exam),
            agreement=None if is_drawn else float(np.mean(same)),
            distance=variation(samples[0], _drawn(model, one, exam, 2)) if is_drawn else None,
            chance=variation(*samples) if is_drawn else None,
        )


def variation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The total variation between the tokens of two samples, i32[N, P] each: the mean over the P places."""
    distances = []
    for one, other in zip(ours.T, theirs.T, strict=True):
        tokens = np.union1d(one, other)[:, None]
        distances.append(0.5 * np.abs((tokens == one).mean(1) - (tokens == other).mean(1)).sum())
    return float(np.mean(distances))


def answered(model: Model, strategy: Strategy, exam: Exam) -> list[Generation]:
    """The answers to all prompts, each by itself."""
    return [
        model.generate(row[None], exam.new, strategy, stop_tokens=[], stop_strings=[], seed=exam.seed)
        for row in exam.prompts
    ]


def in_turns(model: Model, strategies: Mapping[str, Strategy], exam: Exam) -> dict[str, list[float]]:
    """Seconds of all answers in each round, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in strategies}
    for _ in range(exam.rounds):
        for name, strategy in strategies.items():
            began = time.perf_counter()
            answered(model, strategy, exam)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def _drawn(model: Model, one: Contestant, exam: Exam, number: int) -> np.ndarray:
    """The first tokens of many answers to the first prompt, i32[draws, P]; other ones for each number."""
    prompts = np.repeat(exam.prompts[:1], exam.draws, axis=0)
    places, seed = min(COMPARED, exam.new), exam.seed + 1 + number
    found = model.generate(prompts, places, one.strategy, stop_tokens=[], stop_strings=[], seed=seed)
    return found.tokens


def _accepted_at(model: Model, strategy: Strategy, exam: Exam) -> tuple[float, ...]:
    """See `Trial`: the answers once more, call by call."""
    accepted: list[int] = []
    for row in exam.prompts:
        ready = plan(
            model.config, model.params, encode_prompts(row[None], None, model.config.vocab_size), strategy,
            max_new_tokens=exam.new, stop_tokens=(), pad_token=0, seed=exam.seed, capacity=None,
        )  # fmt: skip
        seen = [it.counters.get("accepted", np.zeros(1, int)) for it in stream(
            model.config, model.params, strategy, ready, 1
        )]  # fmt: skip
        accepted += np.diff([int(it.sum()) for it in seen]).tolist()
    return tuple(float(np.mean(np.asarray(accepted) > i)) for i in range(max(accepted, default=0)))
