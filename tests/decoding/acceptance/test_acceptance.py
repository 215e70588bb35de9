"""Acceptance rules by enumeration: over all drafts and outcomes they give the target's joint distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding import BlockVerification, TokenVerification
from jaxmodels.decoding.acceptance import draw, longest_agreement
from jaxmodels.decoding.trees import fixed_tree

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


# --- trees ---------------------------------------------------------------------------------------------

# Two siblings that both go on; three of which the first goes on; a chain.
TREES = {"both": (0, 0, 1, 1, 2), "first": (0, 0, 0, 1, 1), "chain": (0, 1, 2)}


def path_of(parents, node):
    """The window indices from the first drafted token to a node, without the root."""
    path = []
    while node > 0:
        path.append(node)
        node = parents[node - 1]
    return path[::-1]


def independently(q, before):
    return q


def without_replacement(q, before):
    rest = np.where(np.isin(np.arange(len(q)), before), 0.0, q)
    return rest / rest.sum() if rest.sum() else rest


def most_probable_others(q, before):
    """The first child by chance, its siblings by rank among the rest."""
    if not before:
        return q
    return np.eye(len(q))[np.where(np.isin(np.arange(len(q)), before), -1.0, q).argmax()]


def draft_distributions(draft, parents, tokens, siblings):
    """What each of `tokens` was drawn from, as the tree grows."""
    given = []
    for i, parent in enumerate(parents):
        prefix = tuple(tokens[node - 1] for node in path_of(parents, parent))
        before = [tokens[j] for j in range(i) if parents[j] == parent]
        given.append(siblings(draft[prefix], before))
    return np.asarray(given)


def enumerate_trees(target, draft, vocab, parents, siblings):
    """Every draft that can be, with its probability, and the rule's outcomes for each."""
    drafts = np.asarray(list(itertools.product(range(vocab), repeat=len(parents))))
    q = np.asarray([draft_distributions(draft, parents, row, siblings) for row in drafts])
    chances = np.take_along_axis(q, drafts[:, :, None], axis=2)[:, :, 0]
    # Where nothing is left to draw no token is there, which is counted once.
    weights = np.where(q.any(-1), chances, drafts == 0).prod(1)
    drafts, q, weights = drafts[weights > 0], q[weights > 0], weights[weights > 0]
    paths = [path_of(parents, node) for node in range(len(parents) + 1)]
    p = np.asarray([[target[tuple(row[n - 1] for n in path)] for path in paths] for row in drafts])
    tree = fixed_tree(parents, len(drafts))
    arrays = (jnp.asarray(a, jnp.float32) for a in (p, q))
    outcomes = TokenVerification().outcomes(*arrays, jnp.asarray(drafts), tree)
    return drafts, weights, np.asarray(outcomes, np.float64), paths


@pytest.mark.parametrize("siblings", [independently, without_replacement, most_probable_others])
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize(("target_kind", "draft_kind"), [("full", "full"), ("sparse", "sparse")])
def test_drafting_a_tree_and_accepting_is_sampling_from_the_target(name, siblings, target_kind, draft_kind):
    vocab, parents = 3, TREES[name]
    depth = fixed_tree(parents, 1).depth
    target, draft = tables(vocab, depth, 0, target_kind), tables(vocab, depth, 1, draft_kind)
    drafts, weights, outcomes, paths = enumerate_trees(target, draft, vocab, parents, siblings)
    np.testing.assert_allclose(weights.sum(), 1.0, atol=1e-6)
    np.testing.assert_allclose(outcomes.sum((1, 2)), 1.0, atol=1e-5)
    emitted = {}
    for row, weight, outcome in zip(drafts, weights, outcomes, strict=True):
        for node, token in itertools.product(range(len(paths)), range(vocab)):
            said = (*(int(row[n - 1]) for n in paths[node]), token)
            emitted[said] = emitted.get(said, 0.0) + weight * outcome[node, token]
    for sequence in itertools.product(range(vocab), repeat=depth + 1):
        joint = sum(
            emitted.get(sequence[:n], 0.0)
            * np.prod([target[sequence[:i]][sequence[i]] for i in range(n, depth + 1)])
            for n in range(1, depth + 2)
        )
        assert abs(joint - probability(target, sequence)) < 1e-6, sequence


def test_more_siblings_accept_more():
    target, draft = tables(4, 2, 5, "full"), tables(4, 2, 6, "full")

    def mean(parents):
        _, weights, outcomes, paths = enumerate_trees(target, draft, 4, parents, without_replacement)
        return np.dot(weights, outcomes.sum(-1) @ [len(path) for path in paths])

    assert mean((0, 1)) + 0.05 < mean((0, 0, 1, 1))


def test_a_chain_is_a_tree():
    target, draft = tables(3, 3, 0, "full"), tables(3, 3, 1, "full")
    _, _, outcomes, _ = enumerate_trees(target, draft, 3, TREES["chain"], independently)
    _, _, expected = enumerate_outcomes(TokenVerification(), target, draft, 3, 3)
    np.testing.assert_allclose(outcomes, expected, atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_tokens_without_a_probability_are_not_there(rule):
    """A chain of two, of which the second is missing, has the outcomes of a chain of one."""
    target, draft = tables(3, 2, 2, "full"), tables(3, 2, 3, "full")
    _, _, expected = enumerate_outcomes(rule, target, draft, 3, 1)
    p = np.asarray([[target[(a, 0)[:i]] for i in range(3)] for a in range(3)], np.float32)
    q = np.asarray([[draft[()], np.zeros(3)] for _ in range(3)], np.float32)
    drafted = jnp.asarray([[a, 0] for a in range(3)])
    outcomes = rule.outcomes(jnp.asarray(p), jnp.asarray(q), drafted)
    np.testing.assert_allclose(outcomes[:, :2], expected, atol=1e-6)
    np.testing.assert_allclose(outcomes[:, 2], 0.0, atol=1e-6)


def test_greedy_acceptance_is_the_rule_where_all_is_certain():
    """The longest path that agrees, over all trees of two levels, with tokens that are not there."""
    parents = TREES["both"]
    drafts = np.asarray(list(itertools.product(range(2), repeat=5)))
    choices = np.random.default_rng(0).integers(2, size=(len(drafts), 6))
    counts = np.random.default_rng(1).integers(6, size=len(drafts))
    node = longest_agreement(
        jnp.asarray(choices), jnp.asarray(drafts), jnp.asarray(counts), fixed_tree(parents, len(drafts))
    )
    for row, choice, count, ours in zip(drafts, choices, counts, np.asarray(node), strict=True):
        accepted = [
            n
            for n in range(count + 1)
            if all(row[m - 1] == choice[parents[m - 1]] and m <= count for m in path_of(parents, n))
        ]
        assert ours == max(accepted, key=lambda n: (len(path_of(parents, n)), -n))
    chain = longest_agreement(jnp.asarray(choices[:, :4]), jnp.asarray(drafts[:, :3]), jnp.asarray(counts))
    as_tree = fixed_tree(TREES["chain"], len(drafts))
    same = longest_agreement(
        jnp.asarray(choices[:, :4]), jnp.asarray(drafts[:, :3]), jnp.asarray(counts), as_tree
    )
    np.testing.assert_array_equal(chain, same)


def test_blocks_are_verified_in_chains_alone():
    tree = fixed_tree(TREES["both"], 1)
    with pytest.raises(ValueError, match="the draft is a tree of 5 tokens with up to 2 siblings"):
        BlockVerification().outcomes(jnp.ones((1, 6, 3)), jnp.ones((1, 5, 3)), jnp.ones((1, 5), int), tree)
