"""A budget of draft tokens over a batch: where it is spent, and that sampling stays exact with it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acceptance_enumeration import Enumeration, assert_exact, tables
from strategy_helpers import architecture, assert_same_generation, bigram_draft, decode, expected

from jaxmodels.decoding import (
    BlockVerification,
    Draft,
    PromptLookup,
    Speculative,
    TokenVerification,
    TreeDrafter,
)
from jaxmodels.decoding.drafters import Proposal
from jaxmodels.decoding.lengths import Budget
from jaxmodels.decoding.lengths.budget import spend


def spent_by_hand(hopes, count, tokens):
    """One after another, to the row whose next token is the most probable."""
    given = np.zeros(len(hopes), int)
    for _ in range(min(tokens, count.sum())):
        offers = [
            (-hopes[b, given[b]], given[b], b) if given[b] < count[b] else (np.inf,)
            for b in range(len(hopes))
        ]
        given[min(range(len(hopes)), key=lambda b: offers[b])] += 1
    return given


@pytest.mark.parametrize("tokens", [0, 1, 5, 9, 100])
def test_the_most_probable_tokens_of_all_rows_are_taken(tokens):
    rng = np.random.default_rng(tokens)
    hopes = np.cumprod(rng.choice([0.5, 0.7, 0.9, 1.0], size=(6, 4)), axis=1).astype(np.float32)
    count = rng.integers(5, size=6)
    ours = spend(jnp.asarray(hopes), jnp.asarray(count), tokens)
    np.testing.assert_array_equal(ours, spent_by_hand(hopes, count, tokens))
    assert ours.sum() == min(tokens, count.sum())


@pytest.mark.parametrize("rule", [TokenVerification(), BlockVerification()], ids=["tokens", "blocks"])
@pytest.mark.parametrize("tokens", [2, 3])
def test_sampling_with_a_budget_is_exact(rule, tokens):
    """A row whose length depends on its own draft, and on what another row drafted."""
    vocab, gamma = 3, 3
    target, draft = tables(vocab, gamma, 0, "full"), tables(vocab, gamma, 1, "full")
    drafts = np.asarray(list(itertools.product(range(vocab), repeat=gamma)))
    p = np.asarray([[target[tuple(d[:i])] for i in range(gamma + 1)] for d in drafts])
    q = np.asarray([[draft[tuple(d[:i])] for i in range(gamma)] for d in drafts])
    weights = np.take_along_axis(q, drafts[:, :, None], axis=2)[:, :, 0].prod(1)

    def count(tokens_, q_):
        """Of this draft beside one that is always the same."""
        proposal = Proposal(
            tokens=jnp.stack([tokens_, jnp.zeros(gamma, int)]),
            count=jnp.full(2, gamma),
            distributions=jnp.stack([q_, jnp.broadcast_to(jnp.asarray([0.4, 0.3, 0.3]), q_.shape)]),
        )
        return Budget(tokens=tokens).share(proposal)[0]

    with jax.enable_x64(True):
        lengths = jax.vmap(count)(jnp.asarray(drafts), jnp.asarray(q))
        is_there = jnp.arange(gamma) < lengths[:, None]
        given = jnp.where(is_there[:, :, None], jnp.asarray(q), 0.0)
        outcomes = np.asarray(rule.outcomes(jnp.asarray(p), given, jnp.asarray(drafts)))
    assert len(np.unique(lengths)) > 1
    paths = [list(range(1, n + 1)) for n in range(gamma + 1)]
    assert_exact(Enumeration(drafts, weights, outcomes, paths), target, vocab)


@pytest.mark.sweep
@pytest.mark.parametrize("tokens", [0, 5])
def test_greedy_equals_autoregressive_decoding(tokens):
    config, params = architecture("attention")
    plain = expected("attention")
    draft = bigram_draft(plain.tokens, config.vocab_size)
    strategy = Speculative(draft=draft, gamma=3, length=Budget(tokens=tokens), top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert ours.counters["drafted"].sum() <= tokens * ours.steps
    assert (ours.counters["accepted"].sum() > 0) == (tokens > 0)


@pytest.mark.parametrize(
    ("drafter", "message"),
    [
        (TreeDrafter(draft=Draft(*architecture("ssd")), siblings=(2, 1)), "the draft is a tree of 3 tokens"),
        (PromptLookup(size=3), "this drafter gives none"),
    ],
    ids=["tree", "lookup"],
)
def test_drafts_that_it_cannot_judge_are_refused(drafter, message):
    with pytest.raises(ValueError, match=message):
        decode(*architecture("ssd"), Speculative(draft=drafter, length=Budget(tokens=4)))


@pytest.mark.parametrize("tokens", [-1, 2.5])
def test_budgets_that_are_none_are_refused(tokens):
    with pytest.raises(ValueError, match="tokens must be a whole number"):
        Budget(tokens=tokens)
