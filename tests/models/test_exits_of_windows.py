"""A window that the first blocks read token by token and the others at once is the window of the whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    attention,
    decoder,
    delta,
    draw_tokens,
    quick_jit,
    random_params,
    ssd,
)

from jaxmodels.layers.rope import Rope
from jaxmodels.layers.rope_scaling import LongRopeScaling
from jaxmodels.layers.spec import abstract_params
from jaxmodels.layers.state.replay import Replay
from jaxmodels.models.exits import BehindExit, Halves

SIZE, CAPACITY = 4, 32
LONG = LongRopeScaling(
    short_factor=(1.0, 1.5, 2.0),
    long_factor=(4.0, 5.0, 9.0),
    original_max_position_embeddings=8,
    factor=4.0,
)
RESCALED = attention(rope=Rope(rotary_dim=6, theta=50.0, scaling=LONG))
MODELS = {name: model for name, model in ARCHITECTURES.items() if len(model.blocks) > 1} | {
    "replayed": decoder(ssd(cache=Replay(ring=6, window=SIZE)), delta(cache=Replay(ring=7, window=SIZE))),
    "encoded_anew": dataclasses.replace(decoder(RESCALED, RESCALED), recode_beyond=8),
}
CORE = ("attention", "ssd", "hybrid", "encoded_anew")
OTHERS = [name for name in MODELS if name not in CORE]


@functools.partial(quick_jit, static_argnames=("config", "layers"))
def in_parts(params, tokens, cache, valid, ends, *, config, layers):
    """The window read in two parts, with the tokens given beforehand: its logits, and what settles it.

    ends: how many tokens there are before each row's chain ends of itself.
    """

    def choose(i, scored, asked):
        following = jax.lax.dynamic_index_in_dim(tokens, jnp.minimum(i + 1, SIZE - 1), 1, keepdims=False)
        return following, i + 2 < ends, asked + 1

    halves = Halves(config, layers)
    assert halves.can_chain(cache, SIZE)
    asked, at_exit, rest = halves.chain(
        params, tokens[:, 0], cache, SIZE, choose, jnp.asarray(0), valid=valid
    )
    reader = BehindExit(halves=halves, at_exit=at_exit)
    scored, pending = reader.peek(params, tokens, rest, valid=at_exit.pending.valid, known=rest.length + 1)
    return scored.logits, (at_exit, pending), asked


@functools.partial(quick_jit, static_argnames=("config", "layers"))
def follow_parts(params, tokens, pending, n, *, config, layers):
    halves, (at_exit, behind) = Halves(config, layers), pending
    rest = BehindExit(halves=halves, at_exit=at_exit).commit(behind, n)
    cache = halves.commit(at_exit, n, rest)
    return cache, config.peek(params, tokens, cache)[0].logits


@functools.partial(quick_jit, static_argnames="config")
def at_once(params, tokens, cache, valid, *, config):
    scored, pending = config.peek(params, tokens, cache, valid=valid, known=cache.length + 1)
    return scored.logits, pending


@functools.partial(quick_jit, static_argnames="config")
def settle(params, tokens, cache, lengths, *, config):
    return config.commit(config.peek(params, tokens, cache, valid=lengths)[1])


@functools.partial(quick_jit, static_argnames="config")
def follow(params, tokens, pending, n, *, config):
    cache = config.commit(pending, n)
    return cache, config.peek(params, tokens, cache)[0].logits


@pytest.mark.sweep
@pytest.mark.parametrize("name", [*CORE, *OTHERS[::2]])
def test_two_parts_are_one_window(name):
    """Rows with all tokens, some and none, whose chains end early in some; every number is then kept."""
    config = MODELS[name]
    params = random_params(config.spec())
    batch, layers = SIZE + 1, len(config.blocks) - 1
    prompts, lengths = draw_tokens(batch, 4), np.asarray([3, 4, 1, 2, 3], np.int32)
    cache = settle(params, prompts, config.init_cache(batch, CAPACITY), lengths, config=config)
    more = settle(params, prompts[:, ::-1], cache, np.full(batch, 3, np.int32), config=config)
    tokens, following = draw_tokens(batch, SIZE, seed=1), draw_tokens(batch, 3, seed=2)
    whole_length, ragged, ending = (
        np.asarray(numbers, np.int32) for numbers in ([SIZE] * batch, [0, 1, 2, SIZE, 3], [2, 3, 2, 2, 2])
    )
    for valid, ends in ((whole_length, whole_length), (ragged, whole_length), (whole_length, ending)):
        logits, whole = at_once(params, tokens, more, np.minimum(valid, ends), config=config)
        ours, pending, asked = in_parts(params, tokens, more, valid, ends, config=config, layers=layers)
        np.testing.assert_array_equal(pending[1].valid, whole.valid)
        real = np.arange(SIZE) < np.asarray(whole.valid)[:, None]
        np.testing.assert_allclose(ours[real], logits[real], atol=3e-5)
        assert int(asked) == int(np.minimum(valid, ends).max()) - 1, "the head is asked too often"
        for shift in range(SIZE + 1):
            n = np.minimum((np.arange(batch, dtype=np.int32) + shift) % (SIZE + 1), whole.valid)
            left, expected = follow(params, following, whole, n, config=config)
            ours_left, ours_next = follow_parts(params, following, pending, n, config=config, layers=layers)
            assert jax.tree.structure(ours_left) == jax.tree.structure(left)
            np.testing.assert_array_equal(ours_left.length, left.length)
            np.testing.assert_allclose(ours_next, expected, atol=5e-5)


@pytest.mark.sweep
def test_behind_the_exit_only_the_other_blocks_are_computed():
    """By the FLOPs of the compiled programs: of four equal blocks the last three, and the head."""
    blocks = decoder(*[attention()] * 4).blocks
    config = dataclasses.replace(decoder(attention()), blocks=blocks)
    params = abstract_params(config.spec())
    cache = jax.eval_shape(lambda: config.init_cache(1, CAPACITY))
    token = jax.ShapeDtypeStruct((1,), jnp.int32)

    def exits(params, token, cache):
        chain = Halves(config, 1).chain
        nothing = jnp.zeros(())
        return chain(
            params,
            token,
            cache,
            SIZE,
            lambda i, scored, carry: (token, token > 0, carry),
            nothing,
            valid=token,
        )[1:]

    def behind(params, token, at_exit, rest):
        reader = BehindExit(halves=Halves(config, 1), at_exit=at_exit)
        return reader.peek(params, jnp.repeat(token[:, None], SIZE, 1), rest)[0].logits

    def whole(layers, params, token, cache):
        shorter = dataclasses.replace(config, blocks=blocks[:layers])
        cache = dataclasses.replace(cache, layers=cache.layers[:layers])
        return shorter.peek(params, jnp.repeat(token[:, None], SIZE, 1), cache)[0].logits

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    at_exit, rest = jax.eval_shape(exits, params, token, cache)
    ours = flops(behind, params, token, at_exit, rest)
    three, four = (flops(functools.partial(whole, layers), params, token, cache) for layers in (3, 4))
    assert ours < three + 0.1 * (four - three)


def test_streams_in_front_of_the_exit_are_refused():
    config = ARCHITECTURES["attention"]
    reader = BehindExit(halves=Halves(config, 1), at_exit=None)
    with pytest.raises(ValueError, match="taps: the model has no 'blocks/0'"):
        reader.peek(None, jnp.zeros((1, 2), jnp.int32), None, taps=("blocks/0",))
