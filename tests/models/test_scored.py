"""What `peek` gives beside logits, where it computes the head, and what may be fed in place of tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from configurations import CASES
from model_helpers import (
    ARCHITECTURES,
    VOCAB,
    attention,
    commit,
    decoder,
    draw_tokens,
    forward,
    peek_scored,
    quick_jit,
    random_params,
)

import jaxmodels as jm
from jaxmodels.layers.norm import WeightlessRMSNorm
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.prefill import prefill, prefill_with_taps
from jaxmodels.models.scored import NOWHERE

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 8)
WHOLE = forward(CONFIG, PARAMS, TOKENS)
forward_scored = quick_jit(Decoder.forward_scored, static_argnums=0, static_argnames="taps")


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


# --- taps --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gpt2", "gemma"])
def pair(request, build_reference):
    """A model with learned positions and one with scaled embeddings, ours and as transformers runs it."""
    reference = build_reference(next(case for case in CASES if case.family == request.param))
    return jm.load(reference.directory), reference


def test_taps_are_the_hidden_states_of_transformers(pair):
    ours, reference = pair
    with torch.no_grad():
        states = reference.model(torch.tensor(reference.tokens), output_hidden_states=True).hidden_states
    *behind, normed = [state.numpy() for state in states]
    names = ours.config.stream_names[:-1]  # transformers shows the last block's output behind the final norm
    assert names == ("embeddings", *(f"blocks/{i}" for i in range(len(behind) - 1)))
    tokens = jnp.asarray(reference.tokens)
    cache = ours.config.init_cache(*tokens.shape)
    peeked, _ = peek_scored(ours.config, ours.params, tokens, cache, taps=(*names, "hidden"))
    for scored in (peeked, forward_scored(ours.config, ours.params, tokens, taps=(*names, "hidden"))):
        assert scored.taps.keys() == {*names, "hidden"}
        np.testing.assert_array_equal(scored.taps["hidden"], scored.hidden)
        for name, expected in zip(names, behind, strict=True):
            close(scored.taps[name], expected)
        close(scored.hidden, normed)


@pytest.mark.wide(every_run=1)
def test_attention_weights_are_those_of_transformers(pair):
    ours, reference = pair
    reference.model.set_attn_implementation("eager")
    with torch.no_grad():
        seen = reference.model(torch.tensor(reference.tokens), output_attentions=True).attentions
    reference.model.set_attn_implementation("sdpa")
    tokens = jnp.asarray(reference.tokens)
    names = tuple(f"blocks/{i}/attention_weights" for i in range(len(seen)))
    assert set(names) < set(ours.config.tap_names)
    size = tokens.shape[1]
    for windows in ((size,), (size - 3, 3)):
        cache, start = ours.config.init_cache(*tokens.shape), 0
        for window in windows:
            part = tokens[:, start : start + window]
            peeked, pending = peek_scored(ours.config, ours.params, part, cache, taps=names)
            for name, expected in zip(names, seen, strict=True):
                close(peeked.taps[name], expected.numpy().mean(1)[:, start : start + window])
            cache, start = ours.config.commit(pending), start + window


@pytest.mark.sweep
def test_a_prompt_has_features_whatever_its_windows():
    taps, lengths = ("blocks/1", "embeddings", "hidden"), jnp.asarray([8, 5])
    expected = forward_scored(CONFIG, PARAMS, TOKENS, taps=taps)
    for window in (8, 4, 2):
        feed = quick_jit(functools.partial(prefill_with_taps, CONFIG, window=window, taps=taps))
        last, cache, seen = feed(PARAMS, TOKENS, lengths, CONFIG.init_cache(2, 12))
        assert seen.keys() == set(taps)
        for row, length in enumerate((8, 5)):
            for name in taps:
                close(seen[name][row, :length], expected.taps[name][row, :length])
            close(last[row], expected.hidden[row, length - 1])
        np.testing.assert_array_equal(cache.length, lengths)


def test_a_prompt_has_no_features_of_other_names():
    cache = CONFIG.init_cache(2, 12)
    with pytest.raises(ValueError, match="taps: the model has no 'blocks/7'; it has embeddings, blocks/0"):
        prefill_with_taps(CONFIG, PARAMS, TOKENS, jnp.asarray([8, 5]), cache, 4, ("blocks/7",))


def test_a_prompt_needs_no_final_norm_with_parameters():
    config = dataclasses.replace(CONFIG, final_norm=WeightlessRMSNorm())
    feed = quick_jit(functools.partial(prefill, config, window=4))
    last, _ = feed(PARAMS, TOKENS, jnp.asarray([8, 5]), config.init_cache(2, 12))
    hidden = forward_scored(config, PARAMS, TOKENS).hidden
    close(last, np.stack([hidden[0, 7], hidden[1, 4]]))


# --- the head ----------------------------------------------------------------------------------------


def test_the_head_is_computed_where_it_is_asked_for():
    cache = CONFIG.init_cache(2, 8)
    at = jnp.asarray([[7, 0], [3, 3]])
    scored, _ = peek_scored(CONFIG, PARAMS, TOKENS, cache, logits_at=at)
    close(scored.logits, jnp.take_along_axis(WHOLE, at[:, :, None], axis=1))
    nowhere, _ = peek_scored(CONFIG, PARAMS, TOKENS, cache, logits_at=NOWHERE)
    assert nowhere.logits is None and nowhere.taps == {}
    close(CONFIG.logits(PARAMS, nowhere.hidden), WHOLE)
    close(forward_scored(CONFIG, PARAMS, TOKENS, logits_at=at).logits, scored.logits)


def test_a_head_that_is_not_asked_for_costs_nothing():
    config = dataclasses.replace(CONFIG, vocab_size=4000)
    params = abstract_params(config.spec())
    cache = jax.eval_shape(functools.partial(config.init_cache, 2, 8))

    def flops(**options):
        lowered = jax.jit(functools.partial(config.peek, **options)).lower(params, TOKENS, cache)
        return lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()["flops"]

    token = 2 * 2 * 4000 * config.d_model  # of both rows
    everywhere, nowhere = flops(), flops(logits_at=NOWHERE)
    assert 8 * token <= everywhere - nowhere < 8.1 * token
    assert token <= flops(logits_at=jnp.zeros((2, 1), jnp.int32)) - nowhere < 1.1 * token


# --- embeddings as inputs ----------------------------------------------------------------------------


@pytest.mark.wide(every_run=1)
def test_embeddings_are_fed_as_transformers_feeds_them(pair):
    """Around the embedding layer of transformers, with vectors that are no token's."""
    ours, reference = pair
    tokens = torch.tensor(reference.tokens)
    with torch.no_grad():
        fed = reference.model.get_input_embeddings()(tokens)
        close(ours.config.embeddings(ours.params, jnp.asarray(reference.tokens)), fed.numpy())
        fed = fed + 0.1 * torch.randn(fed.shape, generator=torch.Generator().manual_seed(0))
        expected = reference.model(inputs_embeds=fed, use_cache=False).logits.numpy()
    inputs = jnp.asarray(fed.numpy())
    close(forward(ours.config, ours.params, inputs), expected)
    cache = ours.config.init_cache(2, inputs.shape[1])
    for part in (inputs[:, :3], inputs[:, 3:]):
        scored, pending = peek_scored(ours.config, ours.params, part, cache)
        close(scored.logits, expected[:, :3] if part.shape[1] == 3 else expected[:, 3:])
        cache = commit(ours.config, pending)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("attention", "ssd") else pytest.mark.sweep)
        for name in ARCHITECTURES
    ],
)
def test_tokens_and_their_embeddings_are_one(name):
    config = ARCHITECTURES[name]
    params = random_params(config.spec())
    embedded = config.embeddings(params, TOKENS)
    close(forward(config, params, embedded), forward(config, params, TOKENS))


def test_a_prompt_may_be_embeddings():
    lengths, results = jnp.asarray([8, 5]), []
    for inputs in (TOKENS, CONFIG.embeddings(PARAMS, TOKENS)):
        feed = quick_jit(functools.partial(prefill, CONFIG, window=4))
        results.append(feed(PARAMS, inputs, lengths, CONFIG.init_cache(2, 12)))
    jax.tree.map(close, *results)


def test_embeddings_have_a_slope():
    embedded = CONFIG.embeddings(PARAMS, TOKENS)
    direction = jax.random.normal(jax.random.key(0), embedded.shape)

    def loss(step):
        return jax.nn.log_softmax(CONFIG.forward(PARAMS, embedded + step * direction))[..., 3].mean()

    value = quick_jit(loss)
    slope = quick_jit(jax.grad(loss))(0.0)
    np.testing.assert_allclose(slope, (value(3e-4) - value(-3e-4)) / 6e-4, rtol=5e-3)


def test_padding_of_embeddings_may_hold_anything():
    embedded = CONFIG.embeddings(PARAMS, TOKENS).at[1, 5:].set(jnp.nan)
    scored = forward_scored(CONFIG, PARAMS, embedded, valid=jnp.asarray([8, 5]))
    close(scored.logits[1, :5], WHOLE[1, :5])


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (TOKENS, {"taps": ("blocks/3",)}, "taps: the model has no 'blocks/3'; it has embeddings, blocks/0, "),
        (TOKENS, {"taps": "embeddings"}, r"taps must be a sequence of names, .* got 'embeddings'"),
        (TOKENS, {"taps": 3}, "taps must be a sequence of names"),
        (
            TOKENS,
            {"logits_at": jnp.zeros((3, 1), int)},
            r"logits_at: expected i32\[2, P\].* got int32\[3, 1\]",
        ),
        (TOKENS, {"logits_at": jnp.zeros((2,), int)}, r"logits_at: expected i32\[2, P\].* got int32\[2\]"),
        (TOKENS, {"logits_at": 7}, r"logits_at: expected EVERYWHERE, NOWHERE or window indices .*got 7"),
        (TOKENS, {"logits_at": jnp.zeros((2, 1))}, "logits_at: expected EVERYWHERE, NOWHERE or window"),
        (jnp.zeros((2, 8, 15)), {}, r"inputs: embeddings must be \[B, S, 16\], got float32\[2, 8, 15\]"),
        (jnp.zeros((2, 8)), {}, r"inputs: embeddings must be \[B, S, 16\], got float32\[2, 8\]"),
        (TOKENS[0], {}, r"inputs: expected token ids, integers \[B, S\], .* got int32\[8\]"),
        (TOKENS == 1, {}, r"inputs: expected token ids, .* got bool\[2, 8\]"),
        (TOKENS, {"condition": jnp.zeros((2, 4))}, r"condition: no block reads one, but \[2, 4\] is given"),
    ],
)
def test_requests_that_do_not_fit_are_refused_before_compilation(inputs, options, message):
    params = abstract_params(CONFIG.spec())
    cache = CONFIG.init_cache(2, 9)
    for verb in (CONFIG.forward_scored, lambda *given, **options: CONFIG.peek(*given, cache, **options)):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda p, verb=verb: verb(p, inputs, **options), params)


def test_histories_that_are_encoded_anew_need_tokens():
    config = dataclasses.replace(CONFIG, recode_beyond=10)
    embedded = config.embeddings(PARAMS, TOKENS)
    peek_scored(config, PARAMS, embedded, config.init_cache(2, 10))
    with pytest.raises(ValueError, match=r"inputs are embeddings, but beyond 10 tokens \(recode_beyond\)"):
        peek_scored(config, PARAMS, embedded, config.init_cache(2, 11))


def test_more_tokens_than_learned_positions_are_refused():
    config = dataclasses.replace(CONFIG, learned_positions=7)
    params = abstract_params(config.spec())
    for verb in (config.forward, config.forward_scored, config.forward_with_routing):
        with pytest.raises(ValueError, match="8 tokens, but the model has learned 7 positions"):
            jax.eval_shape(verb, params, TOKENS)
    assert jax.eval_shape(config.forward_with_routing, params, TOKENS[:, 1:])[0].shape == (2, 7, VOCAB)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("sink_logits", [False, True])
def test_attention_weights_are_zero_where_nothing_is_seen(sink_logits):
    layer = attention(num_kv_heads=2, sink_logits=sink_logits, sliding_window=4)
    config = decoder(layer, layer)
    params, tokens = random_params(config.spec()), draw_tokens(2, 9)
    taps = ("blocks/0/attention_weights", "blocks/1/attention_weights")
    _, pending = peek_scored(config, params, tokens[:, :5], config.init_cache(2, 12))
    scored, _ = peek_scored(config, params, tokens[:, 5:], commit(config, pending), taps=taps)
    for name in taps:
        weights = np.asarray(scored.taps[name])
        assert weights.shape == (2, 4, 12)
        sums = weights.sum(-1)
        assert ((sums < 1 - 1e-3) if sink_logits else (np.abs(sums - 1) < 1e-5)).all()
        for query in range(4):  # sees itself and three positions before it
            seen = np.zeros(12, bool)
            seen[5 + query - 3 : 5 + query + 1] = True
            assert (weights[:, query, ~seen] == 0).all() and (weights[:, query, seen] > 0).all()
