"""Recursions through a shared block, against the block over the tokens that are in each recursion alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, quick_jit, random_params
from strategy_helpers import NEW, PROMPTS, decode

from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.decoding.depth import ExpertChoiceRecursions, TokenChoiceRecursions
from jaxmodels.layers.spec import abstract_params

TOKENS = draw_tokens(2, 9, seed=3)
WIDTH, RECURSIONS = 16, 3
RNG = np.random.default_rng(8)
ROUTER = jnp.asarray(RNG.standard_normal((RECURSIONS, WIDTH)), jnp.float32)
POLICIES = {
    "expert": ExpertChoiceRecursions(router=ROUTER, shared=1, alpha=0.3),
    "token": TokenChoiceRecursions(router=ROUTER, shared=1, alpha=0.8),
}
SHARED = {"attention": ("hybrid", (0, 1, 2)), "mamba2": ("hybrid", (1, 0, 2))}


def model(kind):
    """A hybrid whose middle block, which is shared, is of this kind."""
    name, order = SHARED[kind]
    config = ARCHITECTURES[name]
    config = dataclasses.replace(config, blocks=tuple(config.blocks[i] for i in order))
    return config, random_params(config.spec())


@functools.partial(quick_jit, static_argnums=(0, 2))
def block_forward(config, params, index, inputs, positions):
    stream, window = config.begin_forward(params, inputs, positions=positions)
    stream = dataclasses.replace(stream, hidden=inputs)
    return config.blocks[index].forward(params["blocks"][str(index)], stream, window).hidden


def block_over(config, params, index, hidden, positions):
    """A block over one row's tokens at these positions, as if there were no others.

    Behind them come zeros, which no token before them sees, so that all are windows of one size.
    """
    size, longest = len(positions), TOKENS.shape[1]
    inputs = np.zeros((1, longest, WIDTH), np.float32)
    inputs[0, :size] = hidden
    places = np.concatenate([positions, np.arange(longest, 2 * longest - size)]).astype(np.int32)
    return np.asarray(block_forward(config, params, index, inputs, places[None]))[0, :size]


def recursed_by_hand(config, params, policy, hidden):
    """(the stream behind the recursions, how many each token was in)"""
    first, router = hidden.copy(), np.asarray(policy.router)
    inside, depth = np.arange(len(hidden)), np.zeros(len(hidden), int)
    if isinstance(policy, TokenChoiceRecursions):
        shares = np.exp(hidden @ router.T)
        shares /= shares.sum(1, keepdims=True)
    for r in range(RECURSIONS):
        if isinstance(policy, ExpertChoiceRecursions):
            gates = 1 / (1 + np.exp(-hidden @ router[r]))
            inside = np.asarray([i for i in inside if gates[i] > 0.5], int)
        else:
            inside = np.asarray([i for i in range(len(hidden)) if shares[i].argmax() >= r], int)
        if not inside.size:
            break
        out, depth[inside] = block_over(config, params, 1, hidden[inside], inside), depth[inside] + 1
        for i, after in zip(inside, out, strict=True):
            if isinstance(policy, ExpertChoiceRecursions):
                hidden[i] = hidden[i] + policy.alpha * gates[i] * after
            else:
                is_last = shares[i].argmax() == r
                hidden[i] = policy.alpha * shares[i].max() * after + first[i] if is_last else after
    return hidden, depth


@functools.partial(quick_jit, static_argnums=0)
def embedded(config, params, tokens):
    return config.begin_forward(params, tokens)[0].hidden


@functools.partial(quick_jit, static_argnums=0)
def logits_of(config, params, hidden):
    return config.logits(params, config.final_norm(params["final_norm"], hidden))


def row_by_hand(config, params, policy, tokens):
    """(logits, passes) of one row."""
    everywhere = np.arange(len(tokens))
    hidden = block_over(config, params, 0, np.asarray(embedded(config, params, tokens[None]))[0], everywhere)
    hidden, depth = recursed_by_hand(config, params, policy, np.array(hidden))
    hidden = block_over(config, params, 2, hidden, everywhere)
    return np.asarray(logits_of(config, params, hidden[None]))[0], depth + 2


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("name", POLICIES)
def test_each_recursion_is_the_block_over_the_tokens_in_it(name, kind):
    """In windows cut anywhere, with some tokens dropped on the way."""
    (config, params), policy = model(kind), POLICIES[name]
    tokens = np.asarray(TOKENS)
    wanted = [row_by_hand(config, params, policy, row) for row in tokens]
    depths = np.stack([depth for _, depth in wanted])
    assert len(np.unique(depths)) > 2
    cache, parts, read = config.init_cache(2, 14, depth=policy), [], []
    for start, stop in ((0, 5), (5, 6), (6, 9)):
        size = stop - start
        drafted = np.concatenate([tokens[:, start:stop], tokens[:, : 7 - size]], axis=1)
        logits, pending = peek(config, params, drafted, cache, depth=policy)
        cache = commit(config, pending, np.full(2, size))
        parts.append(np.asarray(logits)[:, :size])
        read.append(np.asarray(pending.depth)[:, :size])
    np.testing.assert_array_equal(np.concatenate(read, 1), depths)
    for row, (logits, _) in enumerate(wanted):
        np.testing.assert_allclose(np.concatenate(parts, 1)[row], logits, atol=3e-5)


@pytest.mark.sweep
def test_an_accepted_path_becomes_history_where_its_tokens_were_in_a_recursion():
    """Tokens 0, 2 and 3 of a window, and then what follows: as if the others had never been there."""
    (config, params), policy = model("attention"), POLICIES["expert"]
    path = jnp.asarray([[0, 2, 3]] * 2)
    positions = jnp.asarray([[0, 1, 1, 2, 2]] * 2)
    _, pending = peek(
        config,
        params,
        TOKENS[:, :5],
        config.init_cache(2, 12, depth=policy),
        depth=policy,
        positions=positions,
    )
    ours = commit(config, pending, jnp.asarray([3, 2]), path)
    kept = ours.repeats[1][0].positions
    inside = np.asarray(pending.depth) >= 4
    for row, n in enumerate((3, 2)):
        wanted = [int(positions[row, i]) for i in np.asarray(path[row])[:n] if inside[row, i]]
        assert [p for p in kept[row].tolist() if p >= 0] == wanted


@pytest.mark.sweep
def test_rows_decode_as_alone():
    (config, params), policy = model("attention"), POLICIES["token"]
    strategy = AdaptiveDepth(depth=policy, prompt=policy)
    together = decode(config, params, strategy)
    alone = decode(config, params, strategy, PROMPTS[1:2])
    np.testing.assert_array_equal(together.tokens[1], alone.tokens[0])
    assert (together.counters["layers"] >= 3 * (NEW - 1)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TokenChoiceRecursions(router=ROUTER[0], shared=1),
            r"router must be \[R, D\] .*, got \[16\]",
        ),
        (lambda: ExpertChoiceRecursions(router=ROUTER, shared=-1), "shared must be a whole number >= 0"),
        (lambda: ExpertChoiceRecursions(router=ROUTER, shared=1, alpha=-1.0), "alpha must be .*got -1.0"),
    ],
)
def test_values_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": 5}, "shared: there is no block 5, the model has 3"),
        ({"router": ROUTER[:, 1:]}, r"router \[3, 15\] is for a stream of width 15, the model's has 16"),
    ],
)
def test_routers_of_another_model_are_refused_before_compilation(changes, message):
    config, _ = model("attention")
    policy = dataclasses.replace(POLICIES["expert"], **changes)

    def run(params):
        return config.peek(params, TOKENS, config.init_cache(2, 12, depth=policy), depth=policy)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, abstract_params(config.spec()))
