"""A question and the answers to it that count."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeAlias

Words: TypeAlias = tuple[str, ...]


class Answers(Protocol):
    """The acceptable answers to one question."""

    @property
    def length(self) -> int:
        """Words of each of them."""

    def __contains__(self, words: object) -> bool:
        """Whether a tuple of words is one of them."""

    def __iter__(self) -> Iterator[Words]:
        """Each once."""

    def draw(self, random: Random) -> Words:
        """One of them, all equally likely."""


@dataclass(frozen=True)
class Listed:
    """Answers that are few enough to be written down."""

    answers: tuple[Words, ...]

    @property
    def length(self) -> int:
        return len(self.answers[0])

    def __contains__(self, words: object) -> bool:
        return words in self.answers

    def __iter__(self) -> Iterator[Words]:
        return iter(self.answers)

    def draw(self, random: Random) -> Words:
        return random.choice(self.answers)


@dataclass(frozen=True)
class Permutations:
    """All orders of some distinct words, the given one among them."""

    words: Words

    @property
    def length(self) -> int:
        return len(self.words)

    def __contains__(self, words: object) -> bool:
        return isinstance(words, tuple) and Counter(words) == Counter(self.words)

    def __iter__(self) -> Iterator[Words]:
        return itertools.permutations(self.words)

    def draw(self, random: Random) -> Words:
        return tuple(random.sample(self.words, len(self.words)))


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the model is asked, and the answers that count."""

    prompt: str
    answers: Answers


def only(*words: str) -> Listed:
    """The one acceptable answer."""
    return Listed((words,))


def listed(items: Sequence[str]) -> str:
    """A list as prompts write it."""
    return f"[ {' '.join(items)} ]"
