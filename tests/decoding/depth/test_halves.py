"""Mixers and feed-forwards that are left out on their own: MindSkip and informed routing, by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, peek_scored, quick_jit, random_params

from jaxmodels.decoding.depth import InformedRouting, MindSkip
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import abstract_params
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import ParallelBlock
from jaxmodels.models.decoder import Decoder

CONFIG = ARCHITECTURES["attention"]
BLOCKS, WIDTH = len(CONFIG.blocks), CONFIG.d_model
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(3, 8, seed=1)
RNG = np.random.default_rng(6)


def noise(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


ROUTED = tuple(range(BLOCKS))
MIND_SKIP = MindSkip(weight=noise(BLOCKS, WIDTH), routed=ROUTED)
INFORMED = InformedRouting(
    down=noise(BLOCKS, 2, 3, WIDTH),
    up=noise(BLOCKS, 2, WIDTH, 3) / 2,
    on_stream=noise(BLOCKS, 2, WIDTH) / 2,
    on_forecast=noise(BLOCKS, 2, WIDTH) / 2,
    bias=noise(BLOCKS, 2),
    routed=ROUTED,
)


def unit(x):
    return np.asarray(x) / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6)


def block_by_hand(i, stream, window):
    """(what the mixer adds, what the feed-forward adds to a stream)"""
    block, params = CONFIG.blocks[i], PARAMS["blocks"][str(i)]

    def added(norm, layer, hidden, *window):
        of = getattr(block, layer)
        x = getattr(block, norm)(params[norm], hidden)
        return of.forward(params[layer], x, *window) if window else of(params[layer], x)

    mixer = quick_jit(lambda hidden: added("mixer_norm", "mixer", hidden, window))
    ffn = quick_jit(lambda hidden: added("ffn_norm", "ffn", hidden))
    return lambda hidden: np.asarray(mixer(hidden)), lambda hidden: np.asarray(ffn(hidden))


def embedded():
    window = fresh_window(TOKENS, ropes=CONFIG.ropes)
    return np.asarray(CONFIG.embed(PARAMS, TOKENS, window).hidden), window


@quick_jit
def logits_of(hidden):
    norm = CONFIG.final_norm(PARAMS["final_norm"], hidden.astype(jnp.float32))
    return CONFIG.logits(PARAMS, norm)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.sweep
def test_rows_leave_attention_out_by_the_mean_of_their_prompt():
    hidden, window = embedded()
    gates = []
    for i in range(BLOCKS):
        mixer, ffn = block_by_hand(i, hidden, window)
        wants = sigmoid(unit(hidden).mean(1) @ np.asarray(MIND_SKIP.weight[i])) >= 0.5
        hidden = hidden + np.where(wants[:, None, None], mixer(hidden), 0)
        hidden = hidden + ffn(hidden)
        gates.append(wants)
    gates = np.stack(gates, axis=1)
    assert 0 < gates.sum() < gates.size
    logits, pending = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(3, 12, depth=MIND_SKIP), depth=MIND_SKIP)
    np.testing.assert_allclose(logits, logits_of(hidden), atol=2e-5)
    cache = commit(CONFIG, pending)
    np.testing.assert_array_equal(cache.memory, gates)
    for i in range(BLOCKS):
        np.testing.assert_array_equal((cache.layers[i].positions[:, 0] == 0), gates[:, i])
    _, pending = peek(CONFIG, PARAMS, draw_tokens(3, 1), cache, depth=MIND_SKIP)
    np.testing.assert_array_equal(commit(CONFIG, pending).memory, gates)


def test_tokens_take_forecasts_where_routers_do_not_want_more():
    hidden, window = embedded()
    read = 0
    for i in range(BLOCKS):
        for unit_of in (0, 1):
            x = unit(hidden)
            forecast = x @ np.asarray(INFORMED.down[i, unit_of]).T @ np.asarray(INFORMED.up[i, unit_of]).T
            score = x @ INFORMED.on_stream[i, unit_of] + forecast @ INFORMED.on_forecast[i, unit_of]
            wants = sigmoid(score + INFORMED.bias[i, unit_of]) >= 0.5
            added = block_by_hand(i, hidden, window)[unit_of](hidden)
            hidden = hidden + np.where(wants[:, :, None], added, forecast)
            read += wants.mean() / (2 * BLOCKS)
    assert 0.1 < read < 0.9
    cache = CONFIG.init_cache(3, 9)
    logits, _ = peek(CONFIG, PARAMS, TOKENS, cache, depth=INFORMED)
    np.testing.assert_allclose(logits, logits_of(hidden), atol=2e-5)


@pytest.mark.sweep
def test_windows_by_informed_routing_may_be_cut_anywhere():
    whole, _ = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(3, 9), depth=INFORMED)
    cache, parts = CONFIG.init_cache(3, 9), []
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        logits, pending = peek(CONFIG, PARAMS, TOKENS[:, start:stop], cache, depth=INFORMED)
        cache = commit(CONFIG, pending)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)


@pytest.mark.parametrize("name", ["hybrid", pytest.param("hybrid_moe", marks=pytest.mark.sweep)])
def test_the_history_of_a_mixer_that_is_left_out_stays_empty(name):
    config = ARCHITECTURES[name]
    params, blocks = random_params(config.spec()), len(config.blocks)
    policy = MindSkip(weight=jnp.zeros((blocks, config.d_model)), routed=tuple(range(blocks)))
    shut = dataclasses.replace(policy, threshold=0.6)
    fresh = config.init_cache(3, 9, depth=policy)
    _, pending = peek_scored(config, params, TOKENS, config.init_cache(3, 9, depth=policy), depth=shut)
    kept = commit(config, pending)
    for held, empty in zip(jax.tree.leaves(kept.layers[-1]), jax.tree.leaves(fresh.layers[-1]), strict=True):
        np.testing.assert_array_equal(held, empty)


def test_each_mixer_is_a_branch_of_its_own_that_may_not_run():
    def branches(**options):
        cache = jax.eval_shape(functools.partial(CONFIG.init_cache, 1, 16, **options))
        step = jax.jit(functools.partial(Decoder.peek, CONFIG, **options))
        return step.lower(abstract_params(CONFIG.spec()), TOKENS[:1, :1], cache).as_text().count("case")

    assert branches(depth=MIND_SKIP) == branches() + BLOCKS
    assert branches(depth=INFORMED) == branches() + 2 * BLOCKS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(MIND_SKIP, routed=(0,)), r"weight must be \[1, D\] .* got \[2, 16\]"),
        (lambda: dataclasses.replace(MIND_SKIP, routed=(1, 0)), r"routed must rise, got \[1, 0\]"),
        (lambda: dataclasses.replace(MIND_SKIP, threshold=-1.0), "threshold must be .* got -1.0"),
        (
            lambda: dataclasses.replace(INFORMED, routed=(0,)),
            r"down must be \[1, 2, r, D\].*got \[2, 2, 3, 16\]",
        ),
        (lambda: dataclasses.replace(INFORMED, bias=INFORMED.bias[:1]), r"bias \[2, 2\], got .*\[1, 2\]"),
        (lambda: dataclasses.replace(INFORMED, unread="drop"), "unread must be one of"),
    ],
)
def test_values_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (MindSkip(weight=noise(1, WIDTH - 1), routed=(0,)), "for a stream of width 15, the model's has 16"),
        (dataclasses.replace(MIND_SKIP, routed=(0, 7)), "there is no block 7, the model has 2"),
        (dataclasses.replace(INFORMED, routed=(0, 7)), "there is no block 7, the model has 2"),
    ],
)
def test_policies_of_another_model_are_refused_before_compilation(policy, message):
    def run(params):
        return CONFIG.peek(params, TOKENS, CONFIG.init_cache(3, 9, depth=policy), depth=policy)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, abstract_params(CONFIG.spec()))


def test_blocks_that_are_not_read_in_halves_are_refused():
    first = CONFIG.blocks[0]
    parallel = ParallelBlock(mixer_norm=RMSNorm(dim=WIDTH), mixer=first.mixer, ffn=first.ffn)
    config = dataclasses.replace(CONFIG, blocks=(parallel,) * BLOCKS)

    def run(params):
        return config.peek(params, TOKENS, config.init_cache(3, 9), depth=INFORMED)

    with pytest.raises(ValueError, match="block 0 is a ParallelBlock, whose mixer and feed-forward are not"):
        jax.eval_shape(run, abstract_params(config.spec()))
