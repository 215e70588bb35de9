"""Exits of thinking against a loop over whole texts, row by row."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, quick_jit
from strategy_helpers import (
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
)

from jaxmodels.decoding import Autoregressive, ThinkingExit
from jaxmodels.decoding.processors import Suppress
from jaxmodels.decoding.thinking import (
    AtTokens,
    Delimiters,
    EveryTokens,
    PathDeviation,
    Probe,
    trace_thinking,
)

BEGIN, END = 3, (7, 11)  # of the prompts all but the second hold the beginning, and two go on behind it
BETWEEN = Delimiters(begin=BEGIN, end=END, closing=(7, 11, 2))
EVERY = EveryTokens()
SIZE = max(map(len, PROMPTS)) + NEW


def probe(threshold, *widths, moments=EVERY):
    """A network that was not trained, of the last stream and one in front of it."""
    random, sizes = np.random.default_rng(0), (2 * D_MODEL, *widths, 1)
    layers = [random.standard_normal(size).astype(np.float32) for size in itertools.pairwise(sizes)]
    return Probe(
        weights=tuple(map(jnp.asarray, layers)),
        biases=tuple(jnp.zeros(width) for width in sizes[1:]),
        threshold=threshold,
        taps=("embeddings", "hidden"),
        moments=moments,
    )


NEVER = {
    "probe": lambda: probe(1.0, 5),
    "path_deviation": lambda: PathDeviation(threshold=99.0, entropy=1.0, window=2),
}


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("ssd", "probe"),
        pytest.param("ring", "path_deviation", marks=pytest.mark.sweep),
        pytest.param("latent", "path_deviation", marks=pytest.mark.sweep),
        pytest.param("hybrid", "probe", marks=pytest.mark.sweep),
    ],
)
def test_where_nothing_leaves_the_output_is_that_of_autoregressive_decoding(name, policy):
    strategy = ThinkingExit(delimiters=BETWEEN, policy=NEVER[policy](), decode=Autoregressive(top_logprobs=2))
    ours = decode(*architecture(name), strategy)
    assert_same_generation(ours, expected(name))
    assert not ours.counters["exits"].any() and ours.counters["thinking"].all(where=[True, False, True, True])


class Reference:
    """A row's decoding by reading its whole text for each token."""

    def __init__(self, config, params):
        def read(tokens, length):
            cache = config.init_cache(1, SIZE)
            scored, _ = config.peek(params, tokens, cache, valid=length, taps=("embeddings", "hidden"))
            streams = jnp.concatenate([scored.taps["embeddings"], scored.taps["hidden"]], -1)
            return streams[0], scored.logits[0]

        self.read = quick_jit(read)

    def behind(self, text):
        """(the streams of the last token, the logits behind it)"""
        padded = np.zeros((1, SIZE), np.int32)
        padded[0, : len(text)] = text
        seen = self.read(padded, np.asarray([len(text)], np.int32))
        return [np.asarray(part)[len(text) - 1] for part in seen]

    def decode(self, prompt, leaves):
        """(tokens, how many of them think, exits, scores of all that was asked)"""
        text, closing, thinking, exits, scores = list(prompt), [], 0, 0, {}
        for new in range(NEW):
            streams, logits = self.behind(text)
            start = begun(text)
            if start is not None and new and len(text) > start and not closing:
                scores[len(text) - 1] = leaves.score(text[start:], streams, logits)
                if scores[len(text) - 1] > leaves.threshold:
                    closing, exits = [*BETWEEN.closing], exits + 1
            thinking += start is not None
            text.append(closing.pop(0) if closing else int(logits.argmax()))
        return text[len(prompt) :], thinking, exits, scores


def begun(text):
    """Where the segment begins that the text ends in; None outside."""
    start = None
    for i, token in enumerate(text):
        if start is None and token == BEGIN:
            start = i + 1
        elif start is not None and i > start and tuple(text[i - 1 : i + 1]) == END:
            start = None
    return start


class ByProbe:
    """The probe in NumPy."""

    def __init__(self, policy, is_asked):
        self.policy, self.is_asked, self.threshold = policy, is_asked, policy.threshold

    def score(self, thoughts, streams, logits):
        if not self.is_asked(thoughts):
            return -np.inf
        first, second = (np.asarray(weight) for weight in self.policy.weights)
        return 1 / (1 + np.exp(-(np.maximum(streams @ first, 0) @ second)[0]))


ASKED = {
    "every_second": (EveryTokens(2), lambda thoughts: len(thoughts) % 2 == 0),
    "at_tokens": (AtTokens(range(0, 29, 2)), lambda thoughts: thoughts[-1] % 2 == 0),
}


@pytest.mark.parametrize(
    ("name", "moments"),
    [("attention", "every_second"), pytest.param("hybrid", "at_tokens", marks=pytest.mark.sweep)],
)
def test_each_row_leaves_where_the_probe_says_so_and_answers(name, moments):
    config, params = architecture(name)
    when, is_asked = ASKED[moments]
    policy = probe(0.6, 5, moments=when)
    ours = decode(config, params, ThinkingExit(delimiters=BETWEEN, policy=policy))
    reference = Reference(config, params)
    rows = [reference.decode(prompt, ByProbe(policy, is_asked)) for prompt in PROMPTS]
    assert ours.tokens[:, :NEW].tolist() == [row[0] for row in rows]
    assert ours.counters["thinking"].tolist() == [row[1] for row in rows]
    assert ours.counters["exits"].tolist() == [row[2] for row in rows]
    assert 0 < (ours.counters["exits"] > 0).sum() < len(PROMPTS)
    texts = [[*prompt, *row[0]] for prompt, row in zip(PROMPTS, rows, strict=True)]
    traced = trace_thinking(config, params, policy, BETWEEN, texts)
    for row, (_, _, _, scores) in enumerate(rows):
        for place, score in scores.items():
            np.testing.assert_allclose(traced[row, place], score, rtol=1e-4)


@pytest.mark.sweep
def test_what_closes_is_written_whatever_the_processors_say():
    config, params = architecture("attention")
    strategy = ThinkingExit(
        delimiters=BETWEEN,
        policy=probe(0.0, 5),
        decode=Autoregressive(processors=(Suppress([7, 11]),)),
    )
    ours = decode(config, params, strategy, [[5, BEGIN]])
    assert ours.tokens[0, 1:4].tolist() == [7, 11, 2] and ours.counters["exits"][0] == 1
    # One token of thought, and the two with which it ends.
    assert ours.counters["thinking"][0] == 3 and not ours.stuck.any()


def test_a_policy_of_another_model_and_unknown_tokens_are_refused():
    config, params = architecture("attention")
    narrow = Probe(weights=(jnp.ones((3, 1)),), biases=(jnp.zeros(1),), threshold=0.5)
    with pytest.raises(ValueError, match=rf"weights\[0\] \[3, 1\] has 3 inputs.*have {D_MODEL} features"):
        decode(config, params, ThinkingExit(delimiters=BETWEEN, policy=narrow))
    with pytest.raises(ValueError, match="Delimiters names token 999, which lies outside the vocabulary"):
        decode(config, params, ThinkingExit(delimiters=Delimiters(begin=3, end=999), policy=narrow))
    cued = probe(0.5, moments=AtTokens((1, 998)))
    with pytest.raises(ValueError, match="AtTokens names token 998"):
        decode(config, params, ThinkingExit(delimiters=BETWEEN, policy=cued))
    with pytest.raises(ValueError, match=r"policy must be one such as Probe\(...\), got 0.5"):
        ThinkingExit(delimiters=BETWEEN, policy=0.5)


def test_another_threshold_and_other_cues_are_data():
    strategies = [
        ThinkingExit(delimiters=BETWEEN, policy=probe(threshold, moments=AtTokens(cues)))
        for threshold, cues in ((0.5, (1, 2)), (0.9, (4, 5, 6)))
    ]
    first, second = (jax.tree.flatten(strategy) for strategy in strategies)
    assert first[1] == second[1]
    assert [jnp.shape(leaf) for leaf in first[0]] == [jnp.shape(leaf) for leaf in second[0]]
