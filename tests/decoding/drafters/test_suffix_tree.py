"""Suffix decoding by trees: those of a trie, grown best first, and generations that stay as they are."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from step_enumeration import assert_exact_step, tiny
from strategy_helpers import (
    BESIDE_A_MODEL,
    architecture,
    assert_same_generation,
    decode,
    expected,
    stop_inside,
)
from suffix_tries import trie

from jaxmodels.decoding import Speculative, SuffixDecoding, SuffixTree
from jaxmodels.decoding.drafters.matches import NO_TOKEN, matches_of, searched
from jaxmodels.decoding.drafters.suffix_tree import TreeSearch
from jaxmodels.decoding.lengths import GrowShrink


def grown_by_hand(root, limit, least_probability, depth, siblings):
    """(chance, tokens of the path) of each node of a tree, in the order in which they are added."""
    added, open_nodes = [], [((), root, [])]
    while len(added) < limit:
        offers = []
        for place, (path, node, taken) in enumerate(open_nodes):
            if len(path) < depth and len(taken) < siblings:
                rest = [(child.count, token) for token, child in node.children.items() if token not in taken]
                if rest:
                    count, token = max(rest, key=lambda offer: offer[0])
                    offers.append((count, -place, token))
        if not offers or max(offers)[0] / root.count < least_probability:
            break
        count, place, token = max(offers, key=lambda offer: offer[:2])
        path, node, taken = open_nodes[-place]
        taken.append(token)
        added.append((count / root.count, (*path, token)))
        open_nodes.append(((*path, token), node.children[token], []))
    return added


def by_trie(root, context, drafter):
    """(score, paths in their order) of the best tree over all lengths of matches."""
    search, best = drafter.search, (0.0, [])
    for m in range(search.least, min(len(context) - 1, search.most) + 1):
        node = root
        for token in context[-m:]:
            node = node.children.get(token) if node else None
        if node is None:
            break
        limit = min(search.size, int(search.factor * m + search.offset + 1e-6))
        added = grown_by_hand(node, limit, search.least_probability, drafter.depth, drafter.siblings)
        score = sum(chance for chance, _ in added)
        if added and score >= best[0] - 1e-9:
            best = score, [path for _, path in added]
    return best[0], sorted(best[1], key=len)


@quick_jit
def grown(drafter, text, length, earlier):
    """The tree of one text, by its own matches or by those in another."""
    most = drafter.search.most
    matches = matches_of(text, length, most) if earlier is None else searched(earlier, text, length, most)
    grow = TreeSearch(search=drafter.search.search, depth=drafter.depth, siblings=drafter.siblings)
    return grow(matches.text[0], matches.lengths[0], int(earlier is None))


def found(drafter, text, earlier=None):
    """(score, tokens, parents) by arrays."""
    padded, length = jnp.asarray([[*text, *[0] * (40 - len(text))]]), jnp.asarray([len(text)])
    tree = grown(drafter, padded, length, None if earlier is None else jnp.asarray([earlier]))
    count = int(tree.count)
    return float(tree.score), tree.tokens[:count].tolist(), tree.parents[:count].tolist()


def paths_of(tokens, parents):
    """The tokens from the newest one to each drafted one."""
    paths = [()]
    for token, parent in zip(tokens, parents, strict=True):
        paths.append((*paths[parent], token))
    return paths[1:]


def test_the_published_example():
    drafter = SuffixTree(search=SuffixDecoding(size=10, least=1, factor=2.0, offset=0.0))
    score, tokens, parents = found(drafter, [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4, 6, 1, 2, 3])
    assert tokens == [4, 5, 1, 6, 1, 2]
    assert [parent - 1 for parent in parents] == [-1, -1, 0, 0, 1, 2]
    assert score == pytest.approx(0.5 + 5 * 0.25)


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ({"least": 1, "factor": 1.0, "offset": 0.0}, {}),
        ({"least": 1, "offset": 1.0, "factor": 2.0, "least_probability": 0.17}, {"depth": 3}),
        ({"least": 2, "most": 5, "offset": -1.0, "least_probability": 0.0}, {"siblings": 2}),
    ],
    ids=["published", "shallow", "narrow"],
)
def test_trees_are_those_of_a_trie(options, bounds):
    """Grown from arrays, with the same paths in the same order."""
    rng, drafted = np.random.default_rng(0), 0
    drafter = SuffixTree(search=SuffixDecoding(size=7, **options), **bounds)
    for length in range(2, 40):
        text = rng.integers(3, size=length).tolist()
        answers = [rng.integers(3, size=9).tolist() for _ in range(3)]
        corpus = [token for answer in answers for token in (*answer, NO_TOKEN)]
        for ours, theirs in (
            (found(drafter, text), by_trie(trie([text]), text, drafter)),
            (found(drafter, text, corpus), by_trie(trie(answers), [-9, *text], drafter)),
        ):
            assert paths_of(*ours[1:]) == theirs[1], text
            assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
            drafted += len(ours[1])
    assert drafted > 80


TREE = SuffixTree(search=SuffixDecoding(size=7, least=1, offset=1.0, least_probability=0.05), depth=4)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain, strategy = expected(name), Speculative(draft=TREE, top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert ours.counters["accepted"].sum() > 0
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_a_tree_holds_a_way_that_a_chain_leaves_out():
    """Where what came most often is wrong, what came less often is right."""
    config, params = architecture("ssd")
    plain = expected("ssd")
    pairs = {pair for row in plain.tokens.tolist() for pair in itertools.pairwise(row)}
    wrong = [[before, (after + 1) % 29] for before, after in pairs]
    search = SuffixDecoding(size=7, least=1, most=1, offset=7.0)
    search = search.remembering([*wrong, *wrong, *pairs], room=512)
    chain = decode(config, params, Speculative(draft=search))
    ours = decode(config, params, Speculative(draft=SuffixTree(search=search)))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert ours.counters["calls"].sum() < chain.counters["calls"].sum()


@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution():
    search = SuffixDecoding(size=3, least=1, offset=3.0, least_probability=0.0)
    assert_exact_step(*tiny("attention", 0), Speculative(draft=SuffixTree(search=search)), levels=0, kept=[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be a whole number >= 1 .*, got 0"),
        ({"siblings": 1.5}, "siblings must be a whole number, got 1.5"),
        ({"search": 7}, "search must be a SuffixDecoding, got 7"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuffixTree(**arguments)


def test_lengths_that_cut_chains_are_refused():
    with pytest.raises(ValueError, match=r"length=GrowShrink\(...\) shortens chains .* draft=SuffixTree\("):
        Speculative(draft=SuffixTree(), length=GrowShrink())


def test_a_corpus_of_another_vocabulary_is_refused():
    config, params = architecture("ssd")
    drafter = SuffixTree().remembering([[config.vocab_size, 1]], room=8)
    with pytest.raises(ValueError, match=f"names token {config.vocab_size}, which lies outside the voc"):
        decode(config, params, Speculative(draft=drafter), new=2)
