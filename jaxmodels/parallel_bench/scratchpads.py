"""Questions about lists that are answered after some thinking, and the texts that a model learns it from.

The task is to replace words by rules, such as ``replace Ada with Bob Bob with Cid [ Ada Eli ] =``, until no
rule applies. A thought is the list after each rule was applied once more where it fits, so that any one
thought is easy and an answer without thoughts takes as many steps at once as the longest chain of rules has
that begins in the list. The number of thoughts that are needed cannot be seen from the length of the prompt.

As models of reasoning do, the texts overthink: behind the answer they go on with a few checks, which find
nothing more to replace, and before every further thought stands the same cue.
"""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import jax.numpy as jnp
import numpy as np

from jaxmodels.checks import whole
from jaxmodels.parallel_bench.questions import Question, Words, listed, only
from jaxmodels.parallel_bench.vocabulary import CUE, NAMES, THINK, THOUGHT, THOUGHTFUL, build_tokenizer
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.tokenizer import END_OF_TEXT_ID

FEWEST_ITEMS, MOST_ITEMS = 4, 6
RULES, DEEPEST, MOST_CHECKS = 5, 4, 3
# Of the texts that are learnt from: those whose thinking is cut off.
CUT_SHARE = 0.4
# Of an answer with its thinking, at most, and as many again as two thoughts more take.
MOST_TOKENS = (DEEPEST + MOST_CHECKS + 2) * (MOST_ITEMS + 1) + MOST_ITEMS + 2
# Names in no rule that lists are drawn from, too.
_SPARE = 2


@dataclass(frozen=True)
class Replacements:
    """Words to replace until no rule applies.

    Attributes:
        rules: what stands in the place of each word. No chain of them ends where it began.
        items: the list.
    """

    rules: Mapping[str, str]
    items: Words

    @property
    def question(self) -> Question:
        """With its one answer."""
        rules = " ".join(f"{old} with {new}" for old, new in self.rules.items())
        return Question(prompt=f"replace {rules} {listed(self.items)} =", answers=only(*self.thoughts[-1]))

    @functools.cached_property
    def thoughts(self) -> tuple[Words, ...]:
        """The list after one, two, and so on rounds of replacements, up to the answer."""
        lists = [self.items]
        while (following := tuple(self.rules.get(item, item) for item in lists[-1])) != lists[-1]:
            lists.append(following)
        return tuple(lists[1:])


def ask(length: int, random: Random) -> Replacements:
    """A question about a list of `length` items that takes 1 to `DEEPEST` thoughts, each number as likely."""
    depth = random.randint(1, DEEPEST)
    sizes = [depth]
    while sum(sizes) < RULES:
        sizes.append(random.randint(1, min(depth, RULES - sum(sizes))))
    names = iter(random.sample(NAMES, RULES + len(sizes) + _SPARE))
    chains = [[next(names) for _ in range(size + 1)] for size in sizes]
    rules = [(old, new) for chain in chains for old, new in itertools.pairwise(chain)]
    random.shuffle(rules)
    words = [*(word for chain in chains for word in chain), *names]
    items = [chains[0][0], *random.choices(words, k=length - 1)]
    random.shuffle(items)
    return Replacements(dict(rules), tuple(items))


def replacements(count: int, seed: int = 0) -> list[Replacements]:
    """Questions about lists of all lengths, the same for the same arguments.

    The first of them are the same for every `count`.

    Raises:
        ValueError: a number is out of range.
    """
    whole("count", count, low=1)
    whole("seed", seed)
    randoms = [Random(f"scratchpad/{seed}/{index}") for index in range(count)]
    return [ask(random.randint(FEWEST_ITEMS, MOST_ITEMS), random) for random in randoms]


def windows(step: int, batch: int, seed: int) -> Windows:
    """Those of one step, about lists of one length: prompt, thinking and answer. All but the prompt is
    predicted, and not the end of a thinking that was cut off, lest the model learn to leave early.

    Cut off, at a cue or anywhere, is the thinking of `CUT_SHARE` of the texts. Behind it stands the right
    answer all the same: a model that is cut off answers as well as it can.

    Args:
        step: of the whole run.
        batch: rows.
        seed: of the questions.
    """
    random = Random(f"scratchpad/train/{seed}/{step}")
    length = FEWEST_ITEMS + step % (MOST_ITEMS - FEWEST_ITEMS + 1)
    rows = [_text(ask(length, random), random) for _ in range(batch)]
    size = _longest(length)
    tokens = np.full((batch, size), END_OF_TEXT_ID, np.int32)
    predicted, valid = np.zeros((batch, size), bool), np.zeros(batch, np.int32)
    ids = _ids()
    for row, text in enumerate(rows):
        tokens[row, : len(text.words)] = [ids[word] for word in text.words]
        valid[row] = len(text.words) + 1  # with the end token
        predicted[row, text.prompt : valid[row]] = True
        if text.cut is not None:
            predicted[row, text.cut] = False
    return Windows(tokens=jnp.asarray(tokens), predicted=jnp.asarray(predicted), valid=jnp.asarray(valid))


@dataclass(frozen=True)
class _Text:
    """Words, how many of them are the prompt, and where thinking that was cut off ends."""

    words: list[str]
    prompt: int
    cut: int | None


def _text(asked: Replacements, random: Random) -> _Text:
    thoughts = asked.thoughts + (asked.thoughts[-1],) * random.randint(1, MOST_CHECKS)
    thinking = [word for thought in thoughts for word in (*thought, CUE)][:-1]
    prompt = asked.question.prompt.split()
    is_cut = random.random() < CUT_SHARE
    if is_cut:
        places = (
            range(len(thinking)) if random.random() < 0.5 else range(0, len(thinking), len(asked.items) + 1)
        )
        thinking = thinking[: random.choice(places)]
    words = [*prompt, THINK, *thinking, THOUGHT]
    return _Text([*words, *asked.thoughts[-1]], len(prompt), len(words) - 1 if is_cut else None)


def _longest(length: int) -> int:
    """Tokens of the longest text about a list of so many items, the end token among them."""
    prompt = 1 + 3 * RULES + length + 3
    return prompt + (DEEPEST + MOST_CHECKS) * (length + 1) + 1 + length + 1


@functools.cache
def _ids() -> dict[str, int]:
    return build_tokenizer(THOUGHTFUL).get_vocab()
