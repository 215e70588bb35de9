"""Medusa's heads draft chains and trees for every kind of model, and leave what it says as it is."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draft_heads import medusa, medusa_drafter
from model_helpers import D_MODEL, VOCAB, random_params
from strategy_helpers import BESIDE_A_MODEL, NEW, architecture, assert_same_generation, decode, expected

from jaxmodels.decoding import MedusaTreeDrafter, Sample, Speculative
from jaxmodels.decoding.drafters.medusa_drafter import LastHidden
from jaxmodels.decoding.drafters.medusa_tree_drafter import MC_SIM_7B_63, rank_paths

PATHS = rank_paths({(): 3, (0,): 2, (1,): 1, (0, 0): 2})


def tree_drafter(paths=PATHS, **fields):
    drafter = medusa_drafter(**fields)
    return MedusaTreeDrafter(
        head=drafter.head, params=drafter.params, token_ids=drafter.token_ids, paths=paths
    )


@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_text_is_that_of_sequential_decoding(name):
    config, params = architecture(name)
    ours = decode(config, params, Speculative(draft=medusa_drafter(known=13), top_logprobs=2))
    assert_same_generation(ours, expected(name))


@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_text_from_a_tree_is_that_of_sequential_decoding(name):
    config, params = architecture(name)
    ours = decode(config, params, Speculative(draft=tree_drafter(known=13), top_logprobs=2))
    assert_same_generation(ours, expected(name))


def test_heads_that_know_the_model_are_right():
    """A model whose next token depends on the last one alone, and heads that have its table's powers."""
    config, params = architecture("attention")
    zeros = jax.tree.map(jnp.zeros_like, params)
    table = np.random.default_rng(0).permutation(VOCAB)
    codes = np.random.default_rng(1).standard_normal((VOCAB, D_MODEL)).astype(np.float32)
    codes /= np.sqrt((codes**2).mean(-1, keepdims=True))  # as behind the final norm
    successor = np.zeros((VOCAB, D_MODEL), np.float32)
    successor[table] = codes  # the token behind t has the greatest product with the code of t
    params = {
        **zeros,
        "embed": {"weight": jnp.asarray(codes)},
        "final_norm": {"scale": jnp.ones(D_MODEL)},
        "head": {"weight": jnp.asarray(successor)},
    }
    head = medusa()
    ours = random_params(head.spec())
    further = successor
    for k in range(head.heads):
        for layer in ours["heads"][str(k)]["layers"].values():
            layer["weight"], layer["bias"] = jnp.zeros_like(layer["weight"]), jnp.zeros_like(layer["bias"])
        moved = np.zeros_like(further)
        moved[table] = further
        further = moved
        ours["heads"][str(k)]["output"]["weight"] = jnp.asarray(further)
    drafter = medusa_drafter()
    drafter = type(drafter)(head=head, params=ours)
    out = decode(config, params, Speculative(draft=drafter))
    assert out.steps == -(-(NEW - 1) // (1 + head.heads))


def test_a_token_of_a_tree_is_the_guess_that_its_path_names():
    drafter = tree_drafter()
    hidden = jax.random.normal(jax.random.key(2), (2, D_MODEL))
    scores = np.asarray(drafter.head(drafter.params, hidden))
    around = SimpleNamespace(token=jnp.zeros(2, jnp.int32), output=SimpleNamespace(done=jnp.zeros(2, bool)))
    proposal, _ = drafter.propose(LastHidden(hidden=hidden), around)
    for row in range(2):
        for node, path in enumerate(drafter.paths):
            guesses = np.argsort(-scores[row, len(path) - 1], kind="stable")
            assert proposal.tokens[row, node] == guesses[path[-1]]
            parent = int(proposal.tree.parents[row, node])
            assert path[:-1] == (() if parent == 0 else drafter.paths[parent - 1])


def test_the_tree_of_the_authors_has_its_shape():
    """By depth 10, 28, 23 and 2 tokens; the sixth guess of head 0 has one child, the best of head 1."""
    depths = [sum(len(path) == depth for path in MC_SIM_7B_63) for depth in (1, 2, 3, 4)]
    assert depths == [10, 28, 23, 2]
    assert (5, 0) in MC_SIM_7B_63 and (5, 1) not in MC_SIM_7B_63
    assert (0, 0, 0, 1) in MC_SIM_7B_63 and (1, 0, 1) in MC_SIM_7B_63 and (2, 2) in MC_SIM_7B_63
    assert tree_drafter(MC_SIM_7B_63, heads=4).parents[10:13] == (1, 1, 1)


@pytest.mark.sweep
@pytest.mark.parametrize("draft", [medusa_drafter, tree_drafter], ids=["chain", "tree"])
def test_sampled_rows_are_as_if_alone(draft):
    config, params = architecture("attention")
    strategy = Speculative(draft=draft(), sampler=Sample())
    prompts = [[3, 1, 4], [9, 2, 6, 5]]
    together = decode(config, params, strategy, prompts=prompts)
    alone = decode(config, params, strategy, prompts=prompts[:1])
    np.testing.assert_array_equal(together.tokens[0], alone.tokens[0])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), r"paths must be ranks that lead to each token, such as .*, got \(\)"),
        (((0,), (1, 0)), r"paths: \(1, 0\) goes on from \(1,\), which is not among them"),
        (((0,), (0, 0), (0, 0, 0), (0, 0, 0, 0)), "is 4 tokens deep, and there are 3 heads"),
        (((0,), (29,)), r"paths: \(29,\) asks for guess 29 of 29 tokens"),
    ],
    ids=["none", "parent", "deep", "wide"],
)
def test_what_is_no_tree_for_the_heads_is_refused(paths, message):
    with pytest.raises(ValueError, match=message):
        tree_drafter(paths)


def test_more_tokens_than_heads_are_refused():
    with pytest.raises(ValueError, match="size must be a whole number >= 1 and <= 3, got 4"):
        medusa_drafter(size=4)
