import numpy as np
import pytest
from model_helpers import ARCHITECTURES, attention, commit, decoder, draw_tokens, peek, random_params, ssd

from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.models.cache_policies import attention_layers, with_cache_policy
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


def test_each_layer_may_have_its_own():
    config = decoder(attention(window=3), attention(), attention(window=4))
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
