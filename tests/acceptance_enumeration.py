"""Acceptance rules, enumerated: what they emit over every draft that can be, with its probability.

All is computed in float64, so that a rule that is exact is so to 1e-10.
"""

import functools
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from model_helpers import quick_jit

from jaxmodels.decoding.trees import fixed_tree, forked_tree


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


def path_of(parents, node):
    """The window indices from the first drafted token to a node, without the root."""
    path = []
    while node > 0:
        path.append(node)
        node = parents[node - 1]
    return path[::-1]


# What a sibling is drawn from, given the distribution behind its parent and the siblings before it.
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


@dataclass(frozen=True)
class Enumeration:
    """Every draft with its probability, and the outcomes of a rule for each.

    Attributes:
        drafts: [drafts, G].
        weights: [drafts].
        outcomes: [drafts, G+1, V].
        paths: of each window token, the window tokens that lead to it from the first drafted one.
    """

    drafts: np.ndarray
    weights: np.ndarray
    outcomes: np.ndarray
    paths: list

    def emitted(self):
        """The probability of each sequence that a round can emit."""
        said = {}
        for row, weight, outcome in zip(self.drafts, self.weights, self.outcomes, strict=True):
            for (node, token), chance in np.ndenumerate(outcome):
                sequence = (*(int(row[n - 1]) for n in self.paths[node]), token)
                said[sequence] = said.get(sequence, 0.0) + weight * chance
        return said

    def mean_accepted(self):
        return float(self.weights @ self.outcomes.sum(-1) @ [len(path) for path in self.paths])


def enumerate_chain(rule, target, draft, vocab, gamma):
    """A chain of `gamma` tokens, to which rules are applied without a tree."""
    drafts = np.asarray(list(itertools.product(range(vocab), repeat=gamma)))
    p = [[target[tuple(d[:i])] for i in range(gamma + 1)] for d in drafts]
    q = [[draft[tuple(d[:i])] for i in range(gamma)] for d in drafts]
    paths = [list(range(1, n + 1)) for n in range(gamma + 1)]
    return _enumeration(rule, drafts, np.asarray(p), np.asarray(q), paths, lambda drafted: None)


def enumerate_tree(rule, target, draft, vocab, parents, siblings):
    """A tree of known shape."""
    drafts = np.asarray(list(itertools.product(range(vocab), repeat=len(parents))))
    paths = [path_of(parents, node) for node in range(len(parents) + 1)]
    given = []
    for row in drafts:
        tokens = [tuple(row[n - 1] for n in path) for path in paths]
        given.append([])
        for i, parent in enumerate(parents):
            before = [row[j] for j in range(i) if parents[j] == parent]
            given[-1].append(siblings(draft[tokens[parent]], before))
    p = [[target[tuple(row[n - 1] for n in path)] for path in paths] for row in drafts]
    return _enumeration(
        rule,
        drafts,
        np.asarray(p),
        np.asarray(given),
        paths,
        lambda drafted: fixed_tree(parents, len(drafted)),
    )


def enumerate_fork(rule, target, draft, vocab, fork):
    """Independent paths behind a trunk: every token is drawn by what its own path holds."""
    paths = [[], *([*range(1, n + 2)] for n in range(fork.trunk))]
    for i, k in itertools.product(range(fork.length), range(fork.paths)):
        of_path = [fork.level(before).start + k + 1 for before in range(i + 1)]
        paths.append([*range(1, fork.trunk + 1), *of_path])
    drafts = np.asarray(list(itertools.product(range(vocab), repeat=fork.size)))
    p = [[target[tuple(row[n - 1] for n in path)] for path in paths] for row in drafts]
    q = [[draft[tuple(row[n - 1] for n in path[:-1])] for path in paths[1:]] for row in drafts]
    return _enumeration(
        rule, drafts, np.asarray(p), np.asarray(q), paths, lambda drafted: forked_tree(drafted, fork)
    )


# One program for each rule and shape, whatever the tables.
@functools.partial(quick_jit, static_argnums=0)
def outcomes_of(rule, p, q, drafted, tree):
    return rule.outcomes(p, q, drafted, tree)


def _enumeration(rule, drafts, p, q, paths, tree_of):
    chances = np.take_along_axis(q, drafts[:, :, None], axis=2)[:, :, 0]
    # Where nothing is left to draw no token is there, which is counted once.
    weights = np.where(q.any(-1), chances, drafts == 0).prod(1)
    drafts, p, q, weights = (array[weights > 0] for array in (drafts, p, q, weights))
    with jax.enable_x64(True):
        drafted = jnp.asarray(drafts, jnp.int32)
        outcomes = outcomes_of(rule, p, q, drafted, tree_of(drafted))
        assert outcomes.dtype == jnp.float64
        outcomes = np.asarray(outcomes)
    return Enumeration(drafts, weights, outcomes, paths)


def assert_exact(found, target, vocab, most=1e-10):
    """What is emitted, continued by the model where it is shorter than the longest, is the model's."""
    np.testing.assert_allclose(found.weights.sum(), 1.0, atol=most)
    np.testing.assert_allclose(found.outcomes.sum((1, 2)), 1.0, atol=most)
    emitted, size = found.emitted(), 1 + max(map(len, found.paths))
    for sequence in itertools.product(range(vocab), repeat=size):
        joint = sum(
            emitted.get(sequence[:n], 0.0)
            * np.prod([target[sequence[:i]][sequence[i]] for i in range(n, size)])
            for n in range(1, size + 1)
        )
        assert abs(joint - probability(target, sequence)) < most, sequence
