"""A draft that drafts in tokens of its own: the text stays the model's, and its history is that text."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import two_tokenizers
from model_helpers import VOCAB, quick_jit, random_params
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    MODELS,
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    bigram_draft,
    decode,
    expected,
    ready,
    stop_inside,
)
from test_model_drafter import around
from test_other_tokenizer import ORDER, renamed
from two_tokenizers import DRAFT_VOCAB, symbols, told

from jaxmodels.decoding import Autoregressive, Draft, ModelDrafter, ReencodedDrafter, Speculative, map_texts
from jaxmodels.decoding.drafters import Verdict


def texts():
    return map_texts(two_tokenizers.target(), two_tokenizers.draft(), VOCAB, DRAFT_VOCAB)


def another(name, seed=3):
    """A draft with the other vocabulary and random weights."""
    config = replace(MODELS[name], vocab_size=DRAFT_VOCAB)
    return Draft(config, random_params(config.spec(), seed))


def knowing(rows):
    """A draft that has seen the texts of rows of the model's tokens, in its own tokens."""
    names, backend = symbols(two_tokenizers.target()), two_tokenizers.draft().backend
    spelled = ["".join(s if isinstance(s, str) else chr(s) for t in row for s in names[t]) for row in rows]
    return bigram_draft([backend.encode(text).ids for text in spelled], DRAFT_VOCAB)


@pytest.mark.parametrize("name", ["attention", pytest.param("hybrid", marks=pytest.mark.sweep)])
def test_the_text_is_that_of_the_model(name):
    config, params = architecture(name)
    draft = knowing([[*p, *row] for p, row in zip(PROMPTS, expected(name).tokens.tolist(), strict=True)])
    drafter = ReencodedDrafter(draft=draft, texts=texts(), size=3, draft_tokens=5)
    strategy = Speculative(draft=drafter, top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, expected(name))
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()
    stop = stop_inside(expected(name).tokens)
    assert_same_generation(decode(config, params, strategy, stop=(stop,)), expected(name, stop=(stop,)))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["ssd", "attention"])
def test_the_same_model_under_other_ids_drafts_as_itself(name):
    config, params = architecture(name)
    letters = [two_tokenizers.letters(order) for order in (np.arange(VOCAB), ORDER)]
    other = ReencodedDrafter(
        draft=Draft(config, renamed(params)), texts=map_texts(*letters, VOCAB, VOCAB), size=3
    )
    ours = decode(config, params, Speculative(draft=other))
    itself = decode(config, params, Speculative(draft=ModelDrafter(draft=Draft(config, params), size=3)))
    np.testing.assert_array_equal(ours.tokens, itself.tokens)
    np.testing.assert_array_equal(ours.counters["accepted"], itself.counters["accepted"])
    np.testing.assert_array_equal(ours.counters["calls"], itself.counters["calls"])


class ByHand:
    """The same drafting with lists: a whole forward for each drafted token, all texts as tuples."""

    def __init__(self, draft, size, steps):
        self.size, self.steps = size, steps
        self.forward, self.params = quick_jit(draft.config.forward), draft.params
        self.table, self.names = texts().vocabulary, symbols(two_tokenizers.draft())

    def pieces(self, token):
        return self.table.pieces[token, : self.table.lengths[token]].tolist()

    def next(self, history):
        padded = np.zeros((1, 96), np.int32)
        padded[0, : len(history)] = history
        return int(self.forward(self.params, jnp.asarray(padded))[0, len(history) - 1].argmax())

    def draft(self, history):
        drafted = []
        while len(drafted) < self.steps and (not drafted or self.names[drafted[-1]]):
            drafted.append(self.next([*history, *drafted]))
        return drafted

    def run(self, prompt, answer):
        """(calls, drafted, accepted) for an answer that the model gives."""
        history = [piece for token in (*prompt, answer[0]) for piece in self.pieces(token)]
        said, calls, drafted_in_all, accepted_in_all = 1, 0, 0, 0
        while said < len(answer):
            drafted = self.draft(history)
            text = tuple(s for token in drafted for s in self.names[token])
            tokens, ends = told(text, two_tokenizers.target(), self.size)
            right = [a == b for a, b in zip(tokens, answer[said:], strict=False)]
            accepted = right.index(False) if False in right else len(right)
            stops = np.cumsum([len(self.names[token]) for token in drafted]).tolist()
            kept = old = 0
            for j in range(1, accepted + 1):
                if ends[j - 1] in stops and stops.index(ends[j - 1]) + 1 <= j * self.table.longest:
                    kept, old = stops.index(ends[j - 1]) + 1, j
            new = answer[said + old : said + accepted + 1]
            history += [*drafted[:kept], *(piece for token in new for piece in self.pieces(token))]
            said, calls = said + accepted + 1, calls + 1
            drafted_in_all, accepted_in_all = drafted_in_all + len(tokens), accepted_in_all + accepted
        return calls, drafted_in_all, accepted_in_all


@pytest.mark.sweep
def test_it_drafts_behind_the_text_in_its_own_tokens():
    """A recurrent draft, and a model that says much of what it does: every round as by hand."""
    draft = another("ssd")
    by_hand, start = (
        ByHand(draft, 3, 5),
        [two_tokenizers.target().backend.encode(t).ids for t in ("the cat", "a", "on the mat that", "hen")],
    )
    rows = []
    for prompt in start:
        history = [piece for token in prompt for piece in by_hand.pieces(token)]
        for _ in range(20):
            history.append(by_hand.next(history))
        text = tuple(s for token in history for s in by_hand.names[token])
        rows.append(told(text, two_tokenizers.target(), 99)[0])
    model = bigram_draft(rows, VOCAB)
    drafter = ReencodedDrafter(draft=draft, texts=texts(), size=3, draft_tokens=5)
    ours = decode(model.config, model.params, Speculative(draft=drafter), start)
    said = decode(model.config, model.params, Autoregressive(), start)
    np.testing.assert_array_equal(ours.tokens, said.tokens)
    for b, prompt in enumerate(start):
        expected = by_hand.run(prompt, said.tokens[b, :NEW].tolist())
        found = tuple(int(ours.counters[name][b]) for name in ("calls", "drafted", "accepted"))
        assert found == expected
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()


@pytest.mark.sweep
def test_what_the_model_says_otherwise_replaces_what_was_drafted():
    """5 6 7 8 where the model says 7 and then a token of the pieces 9 10: 8 becomes 9, and 10 is new."""
    names = two_tokenizers.letters(np.arange(VOCAB))
    config, params = architecture("ssd")
    made, newest = map_texts(names, names, VOCAB, VOCAB), 11
    pieces = jnp.pad(made.vocabulary.pieces, ((0, 0), (0, 1))).at[newest].set(jnp.asarray([9, 10]))
    table = made.vocabulary.replace(pieces=pieces, lengths=made.vocabulary.lengths.at[newest].set(2))
    drafter = ReencodedDrafter(draft=Draft(config, params), texts=made.replace(vocabulary=table), size=2)
    request = ready(config, params, Speculative(draft=drafter), prompts=[[5]]).request
    here = replace(around(config, params, request, None), token=jnp.asarray([6]), limit=jnp.asarray([2]))

    @quick_jit
    def run():
        first, pending = drafter.propose(drafter.begin(here, {}), here)
        following = jnp.asarray([[0, newest, 0]]).at[:, 0].set(first.tokens[:, 0])
        verdict = Verdict(
            path=jnp.asarray([[0, 1, 2]]), count=jnp.asarray([2]), tokens=following,
            choices=jnp.zeros((1, 3), jnp.int32), taps={},
        )  # fmt: skip
        second, _ = drafter.propose(drafter.settle(pending, here, verdict), here)
        return first.tokens[0, :1], second.tokens[0]

    seven, drafted = map(np.asarray, run())  # 7 is what this draft says there
    text = jnp.asarray([[5, 6, *seven, 9, 10, *drafted]])
    logits = quick_jit(config.forward)(params, text)[0]
    np.testing.assert_array_equal(drafted, logits[4:6].argmax(-1))


@pytest.mark.parametrize("processors", [(), PROCESSORS], ids=["plain", "processors"])
@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution(processors):
    letters = two_tokenizers.letters(np.asarray([0, 1, 2])), two_tokenizers.letters(np.asarray([2, 3, 1, 0]))
    config = replace(tiny("ssd", 1)[0], vocab_size=4)
    draft = Draft(config, random_params(config.spec(), 1))
    drafter = ReencodedDrafter(draft=draft, texts=map_texts(*letters, 3, 4), size=2)
    strategy = Speculative(draft=drafter, processors=processors)
    assert_exact_step(*tiny("hybrid", 0), strategy, levels=0, kept=[0, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"texts": 3}, "texts must be a TextMap.*got 3"),
        ({"size": 0}, "size.*0"),
        ({"draft_tokens": 0}, "draft_tokens.*0"),
        ({"draft": 3}, "draft must be a model"),
    ],
    ids=["texts", "size", "draft_tokens", "draft"],
)
def test_what_cannot_be_is_refused(wrong, message):
    given = {"draft": another("attention"), "texts": texts(), **wrong}
    with pytest.raises(ValueError, match=message):
        ReencodedDrafter(**given)


def test_maps_of_other_vocabularies_are_refused():
    config, params = architecture("ssd")
    drafter = ReencodedDrafter(draft=Draft(config, params), texts=texts(), size=3)
    with pytest.raises(ValueError, match=f"draft with {DRAFT_VOCAB} tokens.*draft has {VOCAB}"):
        decode(config, params, Speculative(draft=drafter))
