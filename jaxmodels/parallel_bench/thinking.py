"""Trains the probe that leaves the thinking of a model of scratchpads, and asks such a model its questions.

    python -m jaxmodels.parallel_bench.thinking tiny-llama-scratchpad runs/tiny-llama-scratchpad-probe

The model thinks about questions and is made to answer at each cue of each of its texts. From whether these
answers were right the probe learns; questions that were set aside give its threshold.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

import jaxmodels as jm
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.decoding.thinking import (
    AtTokens,
    Delimiters,
    PathDeviation,
    Probe,
    conformal_threshold,
    premature_scores,
    trace_thinking,
)
from jaxmodels.decoding.thinking.probe_training import ProbeTraining, thinking_features
from jaxmodels.parallel_bench.scratchpads import MOST_ITEMS, MOST_TOKENS, Replacements, replacements
from jaxmodels.parallel_bench.vocabulary import CUE, THINK, THOUGHT

Calibrated = TypeVar("Calibrated", Probe, PathDeviation)
# Of the questions that a probe learns from, and of those that its threshold is found on; no other seed is.
TRAINING_SEED, CALIBRATION_SEED = 1, 2
BATCH = 64
# What the probe reads: the streams behind the second block of three and in front of the head.
TAPS = ("blocks/1", "hidden")
HIDDEN = (64, 16)


@dataclass(frozen=True)
class Answered:
    """What a model made of questions.

    Attributes:
        texts: token ids of prompts and answers, up to the end token.
        is_right: bool[N], of the answers behind the thinking.
        thinking: i32[N], tokens between the delimiters.
    """

    texts: list[list[int]]
    is_right: np.ndarray
    thinking: np.ndarray


@dataclass(frozen=True)
class Moment:
    """A place in a text at which thinking might be left: behind its token `place`."""

    text: int
    place: int


@dataclass(frozen=True)
class Closings:
    """Answers that were forced at all moments of texts.

    Attributes:
        moments: where.
        is_right: bool[M], whether the answer was that followed.
    """

    moments: list[Moment]
    is_right: np.ndarray


@dataclass(frozen=True)
class Lesson:
    """Texts of questions, and the answers that were forced in them.

    Attributes:
        answered: without leaving early.
        closings: of all its texts.
    """

    answered: Answered
    closings: Closings

    def premature(self, size: int) -> Bool[np.ndarray, "N S"]:
        """Where leaving costs a right answer: that of the whole text is right, and one given now is wrong."""
        found = np.zeros((len(self.answered.texts), size), bool)
        for one, right in zip(self.closings.moments, self.closings.is_right, strict=True):
            found[one.text, one.place] = self.answered.is_right[one.text] and not right
        return found


@dataclass(frozen=True)
class Thinker:
    """A model of scratchpads and how its tokens are drawn.

    Attributes:
        model: with the tokenizer of its words.
        decode: for thinking and answers.
        seed: of the draws.
    """

    model: jm.Model
    decode: Autoregressive = Autoregressive()
    seed: int = 0

    def id_of(self, word: str) -> int:
        """Of a word of the tokenizer."""
        assert self.model.tokenizer is not None
        (token,) = self.model.tokenizer.encode(word)
        return token

    @property
    def delimiters(self) -> Delimiters:
        return Delimiters(begin=self.id_of(THINK), end=self.id_of(THOUGHT))

    @property
    def cues(self) -> AtTokens:
        return AtTokens((self.id_of(CUE),))

    def prompt(self, asked: Replacements) -> list[int]:
        """Token ids of a question."""
        assert self.model.tokenizer is not None
        return self.model.tokenizer.encode(asked.question.prompt)

    def think(self, asked: Sequence[Replacements], strategy: Strategy | None = None) -> Answered:
        """Answers questions, by default without leaving early."""
        prompts = [*map(self.prompt, asked)]
        texts = self._continued(prompts, MOST_TOKENS, strategy or self.decode)
        end = self.id_of(THOUGHT)
        places = [text.index(end) if end in text else len(text) for text in texts]
        return Answered(
            texts=texts,
            is_right=self._right(
                asked, [text[place + 1 :] for text, place in zip(texts, places, strict=True)]
            ),
            thinking=np.asarray([p - len(one) - 1 for p, one in zip(places, prompts, strict=True)]),
        )

    def answer_at_once(self, asked: Sequence[Replacements]) -> Answered:
        """Answers without a token of thinking."""
        begin, end = self.id_of(THINK), self.id_of(THOUGHT)
        prompts = [[*self.prompt(one), begin, end] for one in asked]
        texts = self._continued(prompts, MOST_ITEMS + 2, self.decode)
        given = [text[len(one) :] for text, one in zip(texts, prompts, strict=True)]
        return Answered(texts, self._right(asked, given), np.zeros(len(asked), int))

    def close(self, asked: Sequence[Replacements], texts: Sequence[Sequence[int]]) -> Closings:
        """Forces an answer at each cue of texts that thought about these questions."""
        cue, end = self.id_of(CUE), self.id_of(THOUGHT)
        moments = [
            Moment(i, place)
            for i, text in enumerate(texts)
            for place, token in enumerate(text)
            if token == cue
        ]
        closed = [[*texts[one.text][: one.place + 1], end] for one in moments]
        answers = self._continued(closed, MOST_ITEMS + 2, self.decode)
        given = [answer[len(prompt) :] for answer, prompt in zip(answers, closed, strict=True)]
        return Closings(moments, self._right([asked[one.text] for one in moments], given))

    def lesson(self, count: int, seed: int) -> Lesson:
        """Thinks about so many questions of a seed, and answers at each cue."""
        asked = replacements(count, seed)
        answered = self.think(asked)
        return Lesson(answered, self.close(asked, answered.texts))

    def _continued(self, prompts: Sequence[list[int]], new: int, strategy: Strategy) -> list[list[int]]:
        texts = []
        for start in range(0, len(prompts), BATCH):
            some = prompts[start : start + BATCH]
            # Full batches, so that one program serves all.
            filled = [*some, *[some[0]] * (BATCH - len(some))]
            made = self.model.generate(filled, new, strategy, seed=self.seed + start)
            texts += [
                [*prompt, *map(int, tokens[:length])]
                for prompt, tokens, length in zip(some, made.tokens, made.lengths, strict=False)
            ]
        return texts

    def _right(
        self, asked: Sequence[Replacements], answers: Sequence[Sequence[int]]
    ) -> Bool[np.ndarray, "N"]:
        ends = self.model.generation.eos_token_ids
        wanted = [[*map(self.id_of, one.thoughts[-1])] for one in asked]
        return np.asarray(
            [
                list(given[:-1]) == right and given[-1] in ends if given else False
                for given, right in zip(answers, wanted, strict=True)
            ]
        )


def fit_probe(thinker: Thinker, lesson: Lesson, taps: Sequence[str], training: ProbeTraining) -> Probe:
    """A probe that is asked at cues, with a threshold of 1: it never leaves."""
    config, params = thinker.model.decoder, thinker.model.params
    features = thinking_features(config, params, taps, lesson.answered.texts)
    moments = lesson.closings.moments
    seen = features[[one.text for one in moments], [one.place for one in moments]]
    weights, biases = training.fit(seen, lesson.closings.is_right)
    return Probe(weights=weights, biases=biases, threshold=1.0, taps=tuple(taps), moments=thinker.cues)


def calibrated(thinker: Thinker, lesson: Lesson, policy: Calibrated, risk: float) -> Calibrated:
    """A policy with the threshold at which it costs a right answer with a probability of at most `risk`."""
    scores = trace_thinking(
        thinker.model.decoder, thinker.model.params, policy, thinker.delimiters, lesson.answered.texts
    )
    premature = lesson.premature(scores.shape[1])
    return replace(policy, threshold=conformal_threshold(premature_scores(scores, premature), risk))


def main() -> None:
    """The command line, see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a model directory or a bundled name")
    parser.add_argument("output", type=Path, help="the directory of the probe")
    parser.add_argument("--questions", type=int, default=400, help="to learn from, and to find the threshold")
    parser.add_argument("--risk", type=float, default=0.1, help="of a right answer that is lost")
    arguments = parser.parse_args()
    thinker = Thinker(jm.load(arguments.model, "float32"))
    lesson = thinker.lesson(arguments.questions, TRAINING_SEED)
    print(
        f"{len(lesson.closings.moments)} cues, answers right at {lesson.closings.is_right.mean():.3f} of them"
    )
    probe = fit_probe(thinker, lesson, TAPS, ProbeTraining(hidden=HIDDEN))
    probe = calibrated(thinker, thinker.lesson(arguments.questions, CALIBRATION_SEED), probe, arguments.risk)
    print(f"threshold at risk {arguments.risk:g}: {probe.threshold:.4f}")
    jm.save_thinking(probe, arguments.output, thinker.model)


if __name__ == "__main__":
    main()
