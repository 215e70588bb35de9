"""Acceptance rules by enumeration: over all drafts and outcomes they give the target's joint distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acceptance_enumeration import (
    assert_exact,
    enumerate_chain,
    enumerate_fork,
    enumerate_tree,
    independently,
    most_probable_others,
    path_of,
    tables,
    without_replacement,
)
from model_helpers import quick_jit

from jaxmodels.decoding.acceptance import (
    BlockVerification,
    MultiPathVerification,
    SampledChild,
    TokenVerification,
    TraversalVerification,
    draw,
    longest_agreement,
)
from jaxmodels.decoding.trees import Fork, fixed_tree, forked_tree

FOR_TREES = [TokenVerification(), TraversalVerification(), SampledChild()]
FOR_FORKS = [*FOR_TREES, MultiPathVerification()]
FOR_CHAINS = [*FOR_FORKS, BlockVerification()]


def named(rules):
    return pytest.mark.parametrize("rule", rules, ids=lambda rule: type(rule).__name__)


# --- chains --------------------------------------------------------------------------------------------


@named(FOR_CHAINS)
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
    target, draft = tables(vocab, gamma, 0, target_kind), tables(vocab, gamma, 1, draft_kind)
    assert_exact(enumerate_chain(rule, target, draft, vocab, gamma), target, vocab)


def mean_accepted(rule, target, draft, vocab, gamma):
    return enumerate_chain(rule, target, draft, vocab, gamma).mean_accepted()


def test_the_example_of_the_block_verification_paper():
    """p = (1/3, 2/3), q = (2/3, 1/3), two drafted tokens: 10/9 accepted by tokens, 11/9 by blocks."""
    prefixes = [(), (0,), (1,), *itertools.product(range(2), repeat=2)]
    target = {prefix: np.asarray([1 / 3, 2 / 3]) for prefix in prefixes}
    draft = {prefix: np.asarray([2 / 3, 1 / 3]) for prefix in prefixes}
    assert abs(mean_accepted(TokenVerification(), target, draft, 2, 2) - 10 / 9) < 1e-12
    assert abs(mean_accepted(BlockVerification(), target, draft, 2, 2) - 11 / 9) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_blocks_never_accept_less_than_tokens(seed):
    target, draft = tables(3, 3, seed, "full"), tables(3, 3, seed + 100, "full")
    by_tokens, by_blocks = (
        mean_accepted(rule, target, draft, 3, 3) for rule in (TokenVerification(), BlockVerification())
    )
    assert by_blocks >= by_tokens - 1e-12


@pytest.mark.parametrize(
    "rule", [TraversalVerification(), MultiPathVerification()], ids=["traversal", "paths"]
)
def test_of_a_chain_these_are_block_verification(rule):
    target, draft = tables(3, 3, 0, "full"), tables(3, 3, 1, "sparse")
    ours, blocks = (enumerate_chain(r, target, draft, 3, 3).outcomes for r in (rule, BlockVerification()))
    np.testing.assert_allclose(ours, blocks, atol=1e-14)


@named([rule for rule in FOR_CHAINS if rule != SampledChild()])
def test_a_draft_that_is_the_target_is_accepted_in_full(rule):
    target = tables(3, 3, 0, "full")
    found = enumerate_chain(rule, target, target, 3, 3)
    np.testing.assert_allclose(found.outcomes[:, -1].sum(-1), 1.0, atol=1e-12)


@named(FOR_CHAINS)
def test_tokens_without_a_probability_are_not_there(rule):
    """A chain of two, of which the second is missing, has the outcomes of a chain of one."""
    target, draft = tables(3, 2, 2, "full"), tables(3, 2, 3, "full")
    expected = enumerate_chain(rule, target, draft, 3, 1).outcomes
    p = np.asarray([[target[(a, 0)[:i]] for i in range(3)] for a in range(3)], np.float32)
    q = np.asarray([[draft[()], np.zeros(3)] for _ in range(3)], np.float32)
    drafted = jnp.asarray([[a, 0] for a in range(3)])
    outcomes = rule.outcomes(jnp.asarray(p), jnp.asarray(q), drafted)
    np.testing.assert_allclose(outcomes[:, :2], expected, atol=1e-6)
    np.testing.assert_allclose(outcomes[:, 2], 0.0, atol=1e-6)


# --- trees ---------------------------------------------------------------------------------------------

# Two siblings that both go on; three of which the first goes on; a chain.
TREES = {"both": (0, 0, 1, 1, 2), "first": (0, 0, 0, 1, 1), "chain": (0, 1, 2)}


@named(FOR_TREES)
@pytest.mark.parametrize("siblings", [independently, without_replacement, most_probable_others])
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize(("target_kind", "draft_kind"), [("full", "full"), ("sparse", "sparse")])
def test_drafting_a_tree_and_accepting_is_sampling_from_the_target(
    rule, name, siblings, target_kind, draft_kind
):
    parents = TREES[name]
    depth = fixed_tree(parents, 1).depth
    target, draft = tables(3, depth, 0, target_kind), tables(3, depth, 1, draft_kind)
    assert_exact(enumerate_tree(rule, target, draft, 3, parents, siblings), target, 3)


@named([TokenVerification(), TraversalVerification()])
def test_more_siblings_accept_more(rule):
    target, draft = tables(4, 2, 5, "full"), tables(4, 2, 6, "full")
    chain, tree = (
        enumerate_tree(rule, target, draft, 4, parents, without_replacement).mean_accepted()
        for parents in ((0, 1), (0, 0, 1, 1))
    )
    assert chain + 0.05 < tree


@named(FOR_TREES)
def test_a_chain_is_a_tree(rule):
    target, draft = tables(3, 3, 0, "full"), tables(3, 3, 1, "full")
    as_tree = enumerate_tree(rule, target, draft, 3, TREES["chain"], independently).outcomes
    np.testing.assert_allclose(as_tree, enumerate_chain(rule, target, draft, 3, 3).outcomes, atol=1e-14)


@pytest.mark.parametrize("siblings", [independently, without_replacement])
@pytest.mark.parametrize("seed", range(3))
def test_from_the_leaves_up_more_is_accepted_than_from_the_root_down(seed, siblings):
    target, draft = tables(3, 2, seed, "full"), tables(3, 2, seed + 100, "full")
    down, up = (
        enumerate_tree(rule, target, draft, 3, TREES["both"], siblings).mean_accepted()
        for rule in (TokenVerification(), TraversalVerification())
    )
    assert down + 1e-3 < up


@pytest.mark.parametrize("rule", [BlockVerification(), MultiPathVerification()], ids=["blocks", "paths"])
def test_rules_for_chains_and_paths_refuse_other_trees(rule):
    tree = fixed_tree(TREES["both"], 1)
    message = rf"acceptance={type(rule).__name__}\(\).* a tree of 5 tokens with up to 2 siblings"
    with pytest.raises(ValueError, match=message):
        rule.outcomes(jnp.ones((1, 6, 3)), jnp.ones((1, 5, 3)), jnp.ones((1, 5), int), tree)


# --- independent paths ---------------------------------------------------------------------------------

FORKS = {"paths": Fork(0, 2, 2), "three": Fork(0, 3, 1), "delayed": Fork(1, 2, 2), "one": Fork(1, 1, 2)}


@named(FOR_FORKS)
@pytest.mark.parametrize("name", FORKS)
@pytest.mark.parametrize(("target_kind", "draft_kind"), [("full", "full"), ("sparse", "sparse")])
def test_drafting_paths_and_accepting_is_sampling_from_the_target(rule, name, target_kind, draft_kind):
    """Paths that begin alike have tokens in common, and tokens may be drawn more than once."""
    fork = FORKS[name]
    depth = fork.trunk + fork.length
    target, draft = tables(3, depth, 0, target_kind), tables(3, depth, 1, draft_kind)
    assert_exact(enumerate_fork(rule, target, draft, 3, fork), target, 3)


@named(FOR_FORKS)
def test_three_paths_of_three_tokens_are_exact(rule):
    target, draft = tables(2, 3, 0, "full"), tables(2, 3, 1, "full")
    assert_exact(enumerate_fork(rule, target, draft, 2, Fork(0, 3, 3)), target, 2)


def test_the_best_of_three_paths_is_longer_than_one():
    """Mean accepted tokens over random tables. Of single tables one path may fare better."""
    by_fork = {fork: [] for fork in (Fork(0, 1, 2), Fork(0, 2, 2), Fork(0, 3, 2))}
    for seed, (fork, found) in itertools.product(range(12), by_fork.items()):
        target, draft = tables(3, 2, seed, "full"), tables(3, 2, seed + 100, "full")
        found.append(enumerate_fork(MultiPathVerification(), target, draft, 3, fork).mean_accepted())
    one, two, three = (np.mean(found) for found in by_fork.values())
    assert one + 0.1 < two
    assert two + 0.05 < three


def test_paths_without_their_last_tokens_are_shorter_paths():
    """Where one path lacks its second token, the level is left out."""
    target, draft = tables(3, 2, 0, "full"), tables(3, 2, 1, "full")
    expected = enumerate_fork(MultiPathVerification(), target, draft, 3, Fork(0, 2, 1))
    drafted = np.pad(expected.drafts, ((0, 0), (0, 2)))
    p = [
        [target[()], *(target[(a,)] for a in row), *(target[(a, 0)] for a in row)] for row in expected.drafts
    ]
    q = [[draft[()], draft[()], draft[(row[0],)], np.zeros(3)] for row in expected.drafts]
    arrays = (np.asarray(a, np.float32) for a in (p, q))

    @quick_jit
    def outcomes_of(p, q, drafted):
        return MultiPathVerification().outcomes(p, q, drafted, forked_tree(drafted, Fork(0, 2, 2)))

    outcomes = outcomes_of(*arrays, drafted)
    np.testing.assert_allclose(outcomes[:, :3], expected.outcomes, atol=1e-6)
    np.testing.assert_allclose(outcomes[:, 3:], 0.0, atol=1e-6)


# --- draws and greedy acceptance -----------------------------------------------------------------------


def test_draws_follow_the_outcomes():
    rng = np.random.default_rng(3)
    outcomes = rng.dirichlet(np.full(12, 0.5)).reshape(3, 4).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    n, token = quick_jit(draw)(np.broadcast_to(outcomes, (20_000, 3, 4)), keys)
    counts = np.zeros((3, 4))
    np.add.at(counts, (np.asarray(n), np.asarray(token)), 1)
    np.testing.assert_allclose(counts / 20_000, outcomes, atol=0.015)


def test_certain_outcomes_are_drawn_whatever_the_key():
    outcomes = np.zeros((5, 3, 4), np.float32)
    outcomes[np.arange(5), [0, 1, 2, 1, 0], [3, 2, 1, 0, 3]] = 1.0
    n, token = draw(jnp.asarray(outcomes), jax.random.split(jax.random.key(1), 5))
    assert n.tolist() == [0, 1, 2, 1, 0]
    assert token.tolist() == [3, 2, 1, 0, 3]


def test_greedy_acceptance_is_the_rule_where_all_is_certain():
    """The longest path that agrees, over all trees of two levels, with tokens that are not there."""
    parents = TREES["both"]
    drafts = np.asarray(list(itertools.product(range(2), repeat=5)))
    choices = np.random.default_rng(0).integers(2, size=(len(drafts), 6))
    counts = np.random.default_rng(1).integers(6, size=len(drafts))
    agreement = quick_jit(longest_agreement)
    node = agreement(choices, drafts, counts, fixed_tree(parents, len(drafts)))
    for row, choice, count, ours in zip(drafts, choices, counts, np.asarray(node), strict=True):
        accepted = [
            n
            for n in range(count + 1)
            if all(row[m - 1] == choice[parents[m - 1]] and m <= count for m in path_of(parents, n))
        ]
        assert ours == max(accepted, key=lambda n: (len(path_of(parents, n)), -n))
    chain = agreement(choices[:, :4], drafts[:, :3], counts)
    as_tree = fixed_tree(TREES["chain"], len(drafts))
    same = agreement(choices[:, :4], drafts[:, :3], counts, as_tree)
    np.testing.assert_array_equal(chain, same)
