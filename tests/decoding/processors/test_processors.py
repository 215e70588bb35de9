"""Every processor against the class of `transformers` that it stands for, on logits with ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process

from jaxmodels.decoding.processors import (
    BadWords,
    ForcedBos,
    ForcedEos,
    FrequencyPenalty,
    LogitBias,
    MinLength,
    MinNewTokens,
    NoRepeatNGram,
    PresencePenalty,
    RepetitionPenalty,
    SequenceBias,
    Suppress,
    SuppressAtBegin,
)
from jaxmodels.decoding.processors.chain import process
from jaxmodels.decoding.strategy import Request, empty_output

VOCAB, SLOTS, NEW, STOPS = 23, 8, 12, (4, 9)
# (prompt, answer so far): short ones, repetitions, and an answer that one more token fills.
TEXTS = [
    ([3], []),
    ([5, 1, 5], [1]),
    ([2, 7, 1, 8, 2, 8], [1, 8, 2, 8, 4, 5, 9]),
    ([6, 6], [6, 6, 6]),
    ([9, 3, 4, 9, 3], [4, 1, 2, 9, 3, 4, 1, 2, 3, 9, 3]),
]
_RNG = np.random.default_rng(0)
LOGITS = _RNG.integers(-3, 4, (len(TEXTS), VOCAB)).astype(np.float32)


def request_and_output():
    """What strategies hold where each text's next token is chosen; what lies beyond a text would be seen."""
    request = Request(
        tokens=jnp.asarray([[*prompt, *[7] * (SLOTS - len(prompt))] for prompt, _ in TEXTS]),
        lengths=jnp.asarray([len(prompt) for prompt, _ in TEXTS]),
        max_new=jnp.asarray(NEW),
        stop_tokens=jnp.asarray([*STOPS, -1, -1]),
        pad_token=jnp.asarray(7),
        keys=jax.random.split(jax.random.key(0), len(TEXTS)),
    )
    output = empty_output(len(TEXTS), NEW, request.pad_token)
    tokens = jnp.asarray([[*answer, *[7] * (NEW - len(answer))] for _, answer in TEXTS])
    return request, output.replace(tokens=tokens, lengths=jnp.asarray([len(answer) for _, answer in TEXTS]))


_process = jax.jit(lambda chain, logits, *rest: process(chain, logits[:, None], *rest)[:, 0])


def ours(*chain):
    return np.asarray(_process(chain, LOGITS, *request_and_output()))


def theirs(make):
    """`make(prompt length)` gives the class's instance for a row."""
    rows = []
    for (prompt, answer), logits in zip(TEXTS, LOGITS, strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        rows.append(make(len(prompt))(ids, torch.tensor(logits)[None])[0].numpy())
    return np.stack(rows)


WORDS = [[3], [5, 1], [8, 2, 8], [6, 6, 6, 6], [1, 2, 3, 9, 3, 7], [2, 22]]
BIASES = [[[3], 1.5], [[4], -2.0], [[1, 5], 3.0], [[9, 3, 4], -7.0], [[3, 4], -1.0], [[6, 6, 2], 2.5]]
CASES = {
    "repetition": (
        [RepetitionPenalty(1.7), RepetitionPenalty(0.6)],
        [lambda n, p=p: logits_process.RepetitionPenaltyLogitsProcessor(p) for p in (1.7, 0.6)],
    ),
    "n-grams": (
        [NoRepeatNGram(size) for size in (1, 2, 3, 4, 30)],
        [lambda n, s=s: logits_process.NoRepeatNGramLogitsProcessor(s) for s in (1, 2, 3, 4, 30)],
    ),
    "bad words": (
        [BadWords(WORDS), BadWords([[4]])],
        [lambda n, w=w: logits_process.NoBadWordsLogitsProcessor(w) for w in (WORDS, [[4]])],
    ),
    "sequence bias": (
        [SequenceBias([(ids, bias) for ids, bias in BIASES])],
        [lambda n: logits_process.SequenceBiasLogitsProcessor(BIASES)],
    ),
    "logit bias": (
        [LogitBias({3: 1.5, 9: -100.0})],
        [lambda n: logits_process.SequenceBiasLogitsProcessor([[[3], 1.5], [[9], -100.0]])],
    ),
    "suppressed": (
        [Suppress((1, 22, 5))],
        [lambda n: logits_process.SuppressTokensLogitsProcessor([1, 22, 5])],
    ),
    "suppressed at the beginning": (
        [SuppressAtBegin((1, 22, 5))],
        [lambda n: logits_process.SuppressTokensAtBeginLogitsProcessor([1, 22, 5], n)],
    ),
    "least length": (
        [MinLength(size) for size in (2, 9)],
        [lambda n, s=s: logits_process.MinLengthLogitsProcessor(s, [*STOPS]) for s in (2, 9)],
    ),
    "least answer": (
        [MinNewTokens(size) for size in (0, 1, 7)],
        [lambda n, s=s: logits_process.MinNewTokensLengthLogitsProcessor(n, s, [*STOPS]) for s in (0, 1, 7)],
    ),
    "forced begin": ([ForcedBos(11)], [lambda n: logits_process.ForcedBOSTokenLogitsProcessor(11)]),
    "forced end": (
        [ForcedEos((9,)), ForcedEos((4, 9))],
        [lambda n, e=e: logits_process.ForcedEOSTokenLogitsProcessor(n + NEW, e) for e in ([9], [4, 9])],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_equals_the_class_of_transformers(name):
    expected = [theirs(make) for make in CASES[name][1]]
    for processor, one in zip(CASES[name][0], expected, strict=True):
        np.testing.assert_array_equal(ours(processor), one)
    assert (np.stack(expected) != LOGITS).any()


def test_a_chain_applies_each_to_what_the_one_before_gives():
    words, penalty, ngram = BadWords([[3], [5, 1]]), RepetitionPenalty(1.3), NoRepeatNGram(2)
    expected = theirs(
        lambda n: logits_process.LogitsProcessorList(
            [
                logits_process.SequenceBiasLogitsProcessor([[[3], 2.0]]),
                logits_process.RepetitionPenaltyLogitsProcessor(1.3),
                logits_process.NoRepeatNGramLogitsProcessor(2),
                logits_process.NoBadWordsLogitsProcessor([[3], [5, 1]]),
            ]
        )
    )
    np.testing.assert_array_equal(ours(LogitBias({3: 2.0}), penalty, ngram, words), expected)
    assert (ours(penalty, LogitBias({3: 2.0})) != ours(LogitBias({3: 2.0}), penalty)).any()


def test_frequency_and_presence_penalties_count_the_answer_alone():
    """The definition of the OpenAI API: mu - count * frequency - (count > 0) * presence."""
    counts = np.zeros_like(LOGITS)
    for row, (_, answer) in zip(counts, TEXTS, strict=True):
        np.add.at(row, answer, 1)
    expected = LOGITS - np.float32(0.75) * counts - np.float32(0.5) * (counts > 0)
    np.testing.assert_array_equal(ours(FrequencyPenalty(0.75), PresencePenalty(0.5)), expected)
    assert counts.max() > 1


def test_a_window_is_its_texts_one_by_one():
    """Logits behind the first i of three draft tokens are those of a text that ends with them."""
    chain = (
        RepetitionPenalty(1.3),
        NoRepeatNGram(2),
        BadWords(WORDS),
        MinNewTokens(5),
        FrequencyPenalty(0.5),
    )
    chain = (*chain, SuppressAtBegin((1,)), ForcedEos((9,)))
    request, output = request_and_output()
    drafts = _RNG.integers(0, 10, (len(TEXTS), 3)).astype(np.int32)
    windows = _RNG.normal(size=(len(TEXTS), 4, VOCAB)).astype(np.float32)
    together = jax.jit(process)(chain, windows, request, output, drafts)
    alone = jax.jit(process)
    for b, (_, answer) in enumerate(TEXTS):
        for i in range(4):
            new = [*answer, *drafts[b, :i].tolist()]
            if len(new) >= NEW:
                continue
            padded = jnp.zeros((1, NEW), jnp.int32).at[0, : len(new)].set(jnp.asarray(new, jnp.int32))
            row = request.replace(tokens=request.tokens[b : b + 1], lengths=request.lengths[b : b + 1])
            so_far = output.replace(tokens=padded, lengths=jnp.asarray([len(new)]))
            np.testing.assert_array_equal(
                together[b, i], alone(chain, windows[b : b + 1, i : i + 1], row, so_far)[0, 0]
            )
    part = jax.jit(process)(chain, windows[:, 2:3], request, output, drafts, first=2)
    np.testing.assert_array_equal(part, together[:, 2:3])


def test_numbers_and_tokens_are_data():
    def run(chain):
        before = _process._cache_size()
        ours(*chain)
        return _process._cache_size() - before

    first = (NoRepeatNGram(2), Suppress((1,)), BadWords([[1, 2]]), LogitBias({1: 2.0}), MinNewTokens(3))
    other = (NoRepeatNGram(5), Suppress((1, 2, 3)), BadWords([[7], [1, 2, 3]]), LogitBias({4: 1.0}))
    assert run((*first, RepetitionPenalty(1.1))) == 1
    assert run((*other, MinNewTokens(9), RepetitionPenalty(1.7))) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepetitionPenalty(0.0), "penalty must be a finite number > 0, got 0.0"),
        (lambda: FrequencyPenalty(float("nan")), "penalty must be a finite number, got nan"),
        (lambda: PresencePenalty("1"), "penalty must be a number, got '1'"),
        (lambda: NoRepeatNGram(0), "size must be a whole number >= 1"),
        (lambda: MinNewTokens(-1), "minimum must be a whole number >= 0"),
        (lambda: MinLength(1.5), "minimum must be a whole number, got 1.5"),
        (lambda: ForcedBos(-1), "token must be a whole number >= 0"),
        (lambda: Suppress(()), "tokens must be a sequence of at least one token id, got ()"),
        (lambda: Suppress(3), "tokens must be a sequence of token ids, got 3"),
        (lambda: SuppressAtBegin("ab"), "tokens must be a sequence of token ids, got 'ab'"),
        (lambda: ForcedEos((1, -2)), r"tokens\[1\] must be a whole number >= 0"),
        (lambda: BadWords([[1], []]), r"sequences\[1\] must be a sequence of at least one token id"),
        (lambda: BadWords([]), "sequences must hold at least one sequence"),
        (lambda: SequenceBias({}), "biases must hold at least one sequence"),
        (lambda: SequenceBias({(1, 2): float("inf")}), r"bias of \(1, 2\) must be a finite number, got inf"),
        (lambda: LogitBias({}), "biases must hold at least one token"),
        (lambda: LogitBias({1: "x"}), "bias of token 1 must be a number, got 'x'"),
        (lambda: LogitBias(None), "biases must hold at least one token, .* as pairs, got None"),
        (lambda: LogitBias([1, 2]), r"biases must hold .* or as pairs, got \[1, 2\]"),
        (lambda: LogitBias(b"ab"), "biases must hold .* or as pairs, got b'ab'"),
        (lambda: SequenceBias(3), "biases must hold at least one sequence, .* got 3"),
        (lambda: SequenceBias([(1,)]), r"biases must hold .* or as pairs, got \[\(1,\)\]"),
        (lambda: BadWords(None), "sequences must hold at least one sequence of token ids, got None"),
        (lambda: BadWords("ab"), r"sequences\[0\] must be a sequence of token ids, got 'a'"),
        (lambda: Suppress(b"ab"), "tokens must be a sequence of token ids, got b'ab'"),
        (lambda: ForcedEos({1: 2}), r"tokens must be a sequence of token ids, got \{1: 2\}"),
        (lambda: RepetitionPenalty(None), "penalty must be a number, got None"),
        (lambda: FrequencyPenalty(None), "penalty must be a number, got None"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
