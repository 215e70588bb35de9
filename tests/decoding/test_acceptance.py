"""Acceptance rules by enumeration: over all drafts and outcomes they give the target's joint distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding import BlockVerification, TokenVerification
from jaxmodels.decoding.acceptance import draw

RULES = [TokenVerification(), BlockVerification()]


def tables(vocab, depth, seed, kind):
    """A distribution over the next token for every prefix of up to `depth` tokens."""
    rng = np.random.default_rng(seed)
    table = {}
    for length in range(depth + 1):
        for prefix in itertools.product(range(vocab), repeat=length):
            values = rng.dirichlet(np.full(vocab, 0.7))
            if kind == "one-hot":
                values = np.eye(vocab)[values.argmax()]
            elif kind == "sparse":
                values = values * (np.arange(vocab) != rng.integers(vocab))
            table[prefix] = values / values.sum()
    return table


def probability(table, sequence):
    return np.prod([table[sequence[:i]][token] for i, token in enumerate(sequence)])


def enumerate_outcomes(rule, target, draft, vocab, gamma):
    """Every draft with its probability, and the rule's outcomes for each."""
    drafts = list(itertools.product(range(vocab), repeat=gamma))
    p = np.asarray([[target[d[:i]] for i in range(gamma + 1)] for d in drafts], np.float32)
    q = np.asarray([[draft[d[:i]] for i in range(gamma)] for d in drafts], np.float32)
    outcomes = rule.outcomes(jnp.asarray(p), jnp.asarray(q), jnp.asarray(drafts))
    return drafts, [probability(draft, d) for d in drafts], np.asarray(outcomes, np.float64)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize(
    ("vocab", "gamma", "target_kind", "draft_kind"),
    [
        (4, 3, "full", "full"),
        (3, 2, "sparse", "sparse"),
        (4, 1, "sparse", "full"),
        (3, 3, "full", "one-hot"),
        (3, 2, "one-hot", "one-hot"),
    ],
)
def test_drafting_and_accepting_is_sampling_from_the_target(rule, vocab, gamma, target_kind, draft_kind):
    """The emitted tokens, continued by the target where they are fewer than gamma + 1."""
    target, draft = tables(vocab, gamma, 0, target_kind), tables(vocab, gamma, 1, draft_kind)
    drafts, weights, outcomes = enumerate_outcomes(rule, target, draft, vocab, gamma)
    joint = dict.fromkeys(itertools.product(range(vocab), repeat=gamma + 1), 0.0)
    for drafted, weight, outcome in zip(drafts, weights, outcomes, strict=True):
        if weight == 0:
            continue
        np.testing.assert_allclose(outcome.sum(), 1.0, atol=1e-6)
        for n, token in itertools.product(range(gamma + 1), range(vocab)):
            emitted = (*drafted[:n], token)
            for sequence in joint:
                if sequence[: n + 1] == emitted:
                    rest = [target[sequence[:i]][sequence[i]] for i in range(n + 1, gamma + 1)]
                    joint[sequence] += weight * outcome[n, token] * np.prod(rest)
    for sequence, value in joint.items():
        assert abs(value - probability(target, sequence)) < 1e-6, sequence


def mean_accepted(rule, target, draft, vocab, gamma):
    _, weights, outcomes = enumerate_outcomes(rule, target, draft, vocab, gamma)
    by_count = outcomes.sum(-1) @ np.arange(gamma + 1)
    return float(np.dot(weights, by_count))


def test_the_example_of_the_block_verification_paper():
    """p = (1/3, 2/3), q = (2/3, 1/3), two drafted tokens: 10/9 accepted by tokens, 11/9 by blocks."""
    prefixes = [(), (0,), (1,), *itertools.product(range(2), repeat=2)]
    target = {prefix: np.asarray([1 / 3, 2 / 3]) for prefix in prefixes}
    draft = {prefix: np.asarray([2 / 3, 1 / 3]) for prefix in prefixes}
    by_tokens, by_blocks = (mean_accepted(rule, target, draft, 2, 2) for rule in RULES)
    assert abs(by_tokens - 10 / 9) < 1e-6
    assert abs(by_blocks - 11 / 9) < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_blocks_never_accept_less_than_tokens(seed):
    target, draft = tables(3, 3, seed, "full"), tables(3, 3, seed + 100, "full")
    by_tokens, by_blocks = (mean_accepted(rule, target, draft, 3, 3) for rule in RULES)
    assert by_blocks >= by_tokens - 1e-6


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_draft_that_is_the_target_is_accepted_in_full(rule):
    target = tables(3, 3, 0, "full")
    _, _, outcomes = enumerate_outcomes(rule, target, target, 3, 3)
    np.testing.assert_allclose(outcomes[:, -1].sum(-1), 1.0, atol=1e-6)


def test_draws_follow_the_outcomes():
    rng = np.random.default_rng(3)
    outcomes = rng.dirichlet(np.full(12, 0.5)).reshape(3, 4).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    n, token = draw(jnp.broadcast_to(outcomes, (20_000, 3, 4)), keys)
    counts = np.zeros((3, 4))
    np.add.at(counts, (np.asarray(n), np.asarray(token)), 1)
    np.testing.assert_allclose(counts / 20_000, outcomes, atol=0.015)


def test_certain_outcomes_are_drawn_whatever_the_key():
    outcomes = np.zeros((5, 3, 4), np.float32)
    outcomes[np.arange(5), [0, 1, 2, 1, 0], [3, 2, 1, 0, 3]] = 1.0
    n, token = draw(jnp.asarray(outcomes), jax.random.split(jax.random.key(1), 5))
    assert n.tolist() == [0, 1, 2, 1, 0]
    assert token.tolist() == [3, 2, 1, 0, 3]
