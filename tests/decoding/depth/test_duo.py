"""The block's own feed-forward, a small one, or none: by hand, and by an oracle."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, quick_jit, random_params

from jaxmodels.decoding.depth import (
    ChosenFeedForwards,
    RoutedFeedForwards,
    SmallFeedForwards,
    best_feed_forwards,
)
from jaxmodels.layers.spec import abstract_params

CONFIG = ARCHITECTURES["attention"]
BLOCKS, WIDTH = len(CONFIG.blocks), CONFIG.d_model
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(3, 7, seed=2)
RNG = np.random.default_rng(7)


def noise(*shape):
    return jnp.asarray(RNG.standard_normal(shape) / 2, jnp.float32)


SMALL = SmallFeedForwards(
    w_gate=noise(BLOCKS, 5, WIDTH), w_up=noise(BLOCKS, 5, WIDTH), w_down=noise(BLOCKS, WIDTH, 5)
)
ROUTED = RoutedFeedForwards(small=SMALL, router=noise(BLOCKS, 3, WIDTH))


@quick_jit
def embedded():
    return CONFIG.begin_forward(PARAMS, TOKENS)[0].hidden


@functools.partial(quick_jit, static_argnums=0)
def mixed(i, hidden):
    block, params = CONFIG.blocks[i], PARAMS["blocks"][str(i)]
    _, window = CONFIG.begin_forward(PARAMS, TOKENS)
    return hidden + block.mixer.forward(
        params["mixer"], block.mixer_norm(params["mixer_norm"], hidden), window
    )


@functools.partial(quick_jit, static_argnums=0)
def own_feed_forward(i, hidden):
    block, params = CONFIG.blocks[i], PARAMS["blocks"][str(i)]
    return block.ffn(params["ffn"], block.ffn_norm(params["ffn_norm"], hidden))


@quick_jit
def logits_of(hidden):
    stream = dataclasses.replace(CONFIG.begin_forward(PARAMS, TOKENS)[0], hidden=hidden)
    return CONFIG.logits(PARAMS, CONFIG.normalise(PARAMS, stream))


def by_hand(choose):
    """Logits where `choose(block, x)` gives each token's choice."""
    small_gate, small_up, small_down = map(np.asarray, (SMALL.w_gate, SMALL.w_up, SMALL.w_down))
    hidden = embedded()
    for i in range(BLOCKS):
        hidden = np.asarray(mixed(i, hidden))
        x = hidden / np.sqrt(np.mean(hidden**2, axis=-1, keepdims=True) + 1e-6)
        gate = x @ small_gate[i].T
        small = (gate / (1 + np.exp(-gate)) * (x @ small_up[i].T)) @ small_down[i].T
        big = np.asarray(own_feed_forward(i, hidden))
        choice = choose(i, x)[:, :, None]
        hidden = hidden + np.where(choice == 2, big, np.where(choice == 1, small, 0))
    return logits_of(hidden)


def test_each_token_takes_the_feed_forward_that_its_router_prefers():
    taken = []

    def choose(block, x):
        taken.append(2 - (x @ np.asarray(ROUTED.router)[block].T).argmax(-1))
        return taken[-1]

    wanted = by_hand(choose)
    assert set(np.concatenate(taken).ravel()) == {0, 1, 2}
    found, _ = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(3, 8), depth=ROUTED)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_given_choices_are_those_of_each_row():
    choices = np.asarray([[2, 0], [1, 2], [0, 1]])
    wanted = by_hand(lambda block, x: np.broadcast_to(choices[:, block, None], x.shape[:2]))
    policy = ChosenFeedForwards(small=SMALL, choices=choices)
    found, _ = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(3, 8), depth=policy)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@functools.cache
def history():
    """The cache in front of the last but one token."""
    return commit(CONFIG, peek(CONFIG, PARAMS, TOKENS[:, :-2], CONFIG.init_cache(3, 8))[1])


@quick_jit
def read_by(policy, tokens, cache):
    return CONFIG.peek(PARAMS, tokens, cache, depth=policy)[0].logits


def nats_of(choices):
    """What the last token costs where the one before it takes these."""
    tokens, policy = np.asarray(TOKENS), ChosenFeedForwards(small=SMALL, choices=choices)
    logits = np.asarray(read_by(policy, tokens[:, -2:-1], history()))[:, 0]
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(3), tokens[:, -1]]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("budget", [1.0, 0.6, 0.1])
def test_the_oracle_finds_choices_within_the_budget_that_are_among_the_best(budget):
    cost = np.asarray([0.0, 0.2, 1.0])
    choices, nats = best_feed_forwards(CONFIG, PARAMS, SMALL, TOKENS, budget=budget, small_cost=0.2)
    assert (cost[choices].mean(1) <= budget).all()
    np.testing.assert_allclose(nats, nats_of(choices), atol=1e-5)
    every = [p for p in itertools.product(range(3), repeat=BLOCKS) if cost[list(p)].mean() <= budget]
    found = np.stack([nats_of(np.asarray([plan] * 3)) for plan in every])
    assert (nats >= found.min(0) - 1e-5).all()
    assert (nats <= np.median(found, axis=0) + 1e-5).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(SMALL, w_up=SMALL.w_up[:1]), r"got \[2, 5, 16\], \[1, 5, 16\] and"),
        (
            lambda: dataclasses.replace(ROUTED, router=ROUTED.router[:1]),
            r"must be \[2, 3, 16\] .*\[1, 3, 16\]",
        ),
        (lambda: ChosenFeedForwards(small=SMALL, choices=np.asarray([3, 0])), "from 0 to 2, got 0 to 3"),
        (
            lambda: best_feed_forwards(CONFIG, PARAMS, SMALL, TOKENS, budget=2, small_cost=0.1),
            "budget must be a finite number >= 0 and <= 1, got 2",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ChosenFeedForwards(small=SMALL, choices=np.zeros((2, 2), int)), r"\[2, 2\] are not for 3 rows and"),
        (ChosenFeedForwards(small=SMALL, choices=np.zeros(5, int)), "are not for 3 rows and a model of 2"),
        (
            RoutedFeedForwards(small=jax.tree.map(lambda a: a[:1], SMALL), router=ROUTED.router[:1]),
            "is for 1 blocks of width 16, but the model has 2 of width 16",
        ),
    ],
)
def test_policies_of_another_model_are_refused_before_compilation(policy, message):
    def run(params):
        return CONFIG.peek(params, TOKENS, CONFIG.init_cache(3, 8), depth=policy)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, abstract_params(CONFIG.spec()))
