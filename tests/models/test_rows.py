"""Every array of every kind of cache has its rows first, so that rows can be repeated and taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, attention, commit, decoder, draw_tokens, peek, random_params, ssd

from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.spec import Buffer
from jaxmodels.layers.state.replay import Replay
from jaxmodels.models.rows import repeat_rows, take_rows

KINDS = {
    **ARCHITECTURES,
    "ring_cache": decoder(attention(sliding_window=3, cache=RingCache(longest_peek=8))),
    "sinks": decoder(attention(cache=SinkCache(sinks=1, recent=3, longest_peek=8))),
    "d2o": decoder(attention(cache=D2O(budget=6, recent=3, sinks=1, spare=2, longest_peek=8))),
    "infinipot": decoder(attention(cache=InfiniPotV(budget=16, keep=6, recent=2, longest_peek=8))),
    "lserve": decoder(attention(cache=LServe(budget=16, page=8, longest_peek=8))),
    "replay": decoder(ssd(cache=Replay(ring=6, window=5))),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_lead(name):
    spec = KINDS[name].cache_spec(3, 20)
    leaves = jax.tree.leaves(spec, is_leaf=lambda leaf: isinstance(leaf, Buffer))
    assert {(leaf.axes[0], leaf.shape[0]) for leaf in leaves} == {("batch", 3)}


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "name",
    ["hybrid", "replay", "lserve", "d2o", "sinks"],
)
def test_branches_go_on_apart(name):
    """Two branches of each row go on with tokens of their own, as rows that were fed the whole."""
    config = KINDS[name]
    params, prompt = random_params(config.spec()), draw_tokens(2, 5)
    _, pending = peek(config, params, prompt, config.init_cache(2, 20))
    cache = repeat_rows(commit(config, pending), 2)
    more = draw_tokens(4, 2, seed=1)
    logits, _ = peek(config, params, more, cache)
    _, pending = peek(config, params, jnp.repeat(prompt, 2, axis=0), config.init_cache(4, 20))
    whole = commit(config, pending)
    np.testing.assert_allclose(logits, peek(config, params, more, whole)[0], atol=2e-5)
    rows = jnp.asarray([3, 0])
    taken, _ = peek(config, params, more[rows], take_rows(whole, rows))
    np.testing.assert_allclose(taken, logits[rows], atol=2e-5)
