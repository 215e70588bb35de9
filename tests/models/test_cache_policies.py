import numpy as np
import pytest
from cache_helpers import project_by_hand, rotate, softmax_by_hand
from model_helpers import (
    ARCHITECTURES,
    attention,
    commit,
    decoder,
    delta,
    draw_tokens,
    peek,
    random_params,
    ssd,
)

from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.state.every_token import EVERY_TOKEN
from jaxmodels.layers.state.replay import Replay
from jaxmodels.layers.sum_mixer import Branch, SumMixer
from jaxmodels.models.cache_policies import (
    attention_layers,
    attention_variances,
    d2o_by_layer,
    state_policies_of,
    with_cache_policy,
    with_state_policy,
)
from jaxmodels.models.costs import cache_bytes, flops_per_token

HYBRID = ARCHITECTURES["hybrid"]


def test_only_attention_layers_get_the_policy():
    policy = SinkCache(sinks=1, recent=3, longest_peek=4)
    config = with_cache_policy(HYBRID, policy)
    assert attention_layers(config) == (1,)
    assert config.blocks[1].mixer.cache == policy
    assert (config.blocks[0], config.blocks[2]) == (HYBRID.blocks[0], HYBRID.blocks[2])
    assert with_cache_policy(config, FULL_CACHE) == HYBRID
    assert config.spec() == HYBRID.spec()


def test_attention_in_a_sum_gets_it_too():
    beside = SumMixer(branches=(Branch(name="attention", mixer=attention()), Branch(name="ssd", mixer=ssd())))
    config, policy = decoder(ssd(), beside), SinkCache(sinks=1, recent=3, longest_peek=4)
    assert attention_layers(config) == (1,)
    branches = with_cache_policy(config, policy).blocks[1].mixer.branches
    assert (branches[0].mixer.cache, branches[1].mixer) == (policy, ssd())
    params = random_params(config.spec())
    assert attention_variances(config, params, draw_tokens(1, 4)).shape == (1,)


def test_recurrent_layers_get_a_policy_of_states():
    beside = SumMixer(branches=(Branch(name="attention", mixer=attention()), Branch(name="ssd", mixer=ssd())))
    config, policy = decoder(delta(), attention(), beside), Replay(ring=4, window=2)
    changed = with_state_policy(config, policy)
    assert state_policies_of(changed) == ((0, policy), (2, policy))
    assert changed.blocks[1] == config.blocks[1]
    assert changed.spec() == config.spec()
    assert with_state_policy(changed, EVERY_TOKEN) == config
    assert state_policies_of(with_state_policy(config, policy, layers=[2])) == ((0, EVERY_TOKEN), (2, policy))
    with pytest.raises(ValueError, match=r"layer 1 does not have: those of the model are \[0, 2\]"):
        with_state_policy(config, policy, layers=[1])
    with pytest.raises(ValueError, match="none of the model's 1 layers is Mamba-2 or a gated delta rule"):
        with_state_policy(decoder(attention()), policy)


def test_each_layer_may_have_its_own():
    config = decoder(attention(sliding_window=3), attention(), attention(sliding_window=4))
    ring, sinks = RingCache(longest_peek=4), SinkCache(recent=5, longest_peek=4)
    mixed = with_cache_policy(config, [ring, sinks], layers=[2, 1])
    assert [block.mixer.cache for block in mixed.blocks] == [FULL_CACHE, sinks, ring]


def test_a_model_runs_with_it():
    """A hybrid whose attention has room for all tokens, and whose later layers see what it gives them."""
    params, tokens = random_params(HYBRID.spec()), draw_tokens(2, 6)
    logits = {}
    for recent in (5, 2):
        config = with_cache_policy(HYBRID, SinkCache(sinks=1, recent=recent, longest_peek=3))
        cache = config.init_cache(2, 1000)
        _, pending = peek(config, params, tokens[:, :3], cache)
        logits[recent] = peek(config, params, tokens[:, 3:], commit(config, pending))[0]
    cache = HYBRID.init_cache(2, 6)
    _, pending = peek(HYBRID, params, tokens[:, :3], cache)
    expected = peek(HYBRID, params, tokens[:, 3:], commit(HYBRID, pending))[0]
    np.testing.assert_allclose(logits[5], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(logits[2] - expected).max() > 1e-3


@pytest.mark.sweep
def test_costs_follow_the_policy():
    config = with_cache_policy(decoder(attention()), SinkCache(sinks=4, recent=12, longest_peek=16))
    assert cache_bytes(config, "float32").per_token == 0
    assert flops_per_token(config, 16) == flops_per_token(config, 10_000)
    assert flops_per_token(config, 15).context < flops_per_token(config, 16).context


@pytest.mark.parametrize(
    ("config", "layers", "message"),
    [
        (HYBRID, [0], r"SinkCache\(.*layer 0 does not have: its mixer is SSDMixer"),
        (HYBRID, [3], "layer 3 is not one of the model's layers 0 to 2"),
        (HYBRID, [0, 1, 2], "1 policies for 3 layers"),
        (decoder(ssd()), None, r"SinkCache\(.*none of the model's 1 layers is attention"),
    ],
)
def test_layers_without_a_cache_are_refused(config, layers, message):
    policy = SinkCache()
    with pytest.raises(ValueError, match=message):
        with_cache_policy(config, [policy] if layers == [0, 1, 2] else policy, layers)


# --- D2O by layer ----------------------------------------------------------------------------------


def test_the_variance_of_attention_by_hand():
    config = decoder(attention(num_kv_heads=4), ssd(), attention(num_kv_heads=4, rope=None))
    params, tokens = random_params(config.spec()), draw_tokens(2, 9)
    ours = attention_variances(config, params, tokens)
    assert ours.shape == (2,)
    x = np.asarray(params["embed"]["weight"])[tokens].astype(np.float64)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    x = x * np.asarray(params["blocks"]["0"]["mixer_norm"]["scale"])
    mixer, layer = params["blocks"]["0"]["mixer"], config.blocks[0].mixer
    by_head = []
    for row in x:
        q, k, _ = project_by_hand(layer, mixer, row)
        q, k = (rotate(a, np.arange(9), layer.rope) for a in (q, k))
        logits = np.einsum("snh,tnh->nst", q, k) * layer.head_dim**-0.5
        weights = softmax_by_hand(np.where(np.tril(np.ones((9, 9), bool)), logits, -np.inf))
        by_head.append(weights.sum(1).var(-1))
    variances = np.mean(by_head, axis=0)
    scaled = (variances - variances.min()) / (variances.max() - variances.min() + 1e-6)
    np.testing.assert_allclose(ours[0], scaled.mean(), rtol=1e-3)


def test_budgets_by_layer():
    config = decoder(*(attention(num_kv_heads=4) for _ in range(5)))
    params, tokens = random_params(config.spec()), draw_tokens(1, 12)
    policy = D2O(budget=20, recent=10, sinks=2, longest_peek=8)
    by_layer = d2o_by_layer(config, params, tokens, policy)
    caches = [block.mixer.cache for block in by_layer.blocks]
    assert [type(cache) for cache in caches] == [type(FULL_CACHE)] * 2 + [D2O] * 2 + [type(FULL_CACHE)]
    variances = attention_variances(config, params, tokens)[2:4]
    assert (caches[2].budget > caches[3].budget) == (variances[0] < variances[1])
    assert caches[2].budget + caches[3].budget == pytest.approx(40, abs=1)
    assert all(cache.recent == pytest.approx(cache.budget / 2, abs=1) for cache in caches[2:4])
    with pytest.raises(ValueError, match="dense=4 and the last one leave none of 5 attention layers"):
        d2o_by_layer(config, params, tokens, policy, dense=4)
