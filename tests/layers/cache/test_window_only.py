"""Attention that keeps nothing: windows that are stages by themselves, and padding in them."""

import jax.numpy as jnp
import numpy as np
from cache_helpers import close, draw, start
from model_helpers import attention, quick_jit, random_params

from jaxmodels.layers.cache.window_only import WindowOnly
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.stages import StageAlone
from jaxmodels.layers.window import fresh_window

SIZES = (1, 4, 9)
LAYER = attention(sink_logits=True, rope=Rope(rotary_dim=4, theta=50.0), cache=WindowOnly())
PARAMS = random_params(LAYER.spec())
X = draw(2, sum(SIZES))


def whole(x, mask):
    """The layer over a sequence without a cache."""
    forward = quick_jit(lambda params, x: LAYER.forward(params, x, fresh_window(x, mask=mask)))
    return forward(PARAMS, jnp.asarray(x))


def test_stages_one_by_one_are_all_at_once():
    stages = StageAlone(SIZES)
    stream, outputs = start(LAYER, PARAMS, capacity=1), []
    for part in np.split(X, np.cumsum(SIZES)[:-1], axis=1):
        y, pending = stream.peek(part, kind=stages)
        stream = stream.commit(pending, part.shape[1])
        outputs.append(y)
    close(np.concatenate(outputs, axis=1), whole(X, stages))
    assert stream.state == ()


def test_padding_is_seen_by_no_token():
    y, _ = start(LAYER, PARAMS).peek(X, valid=[14, 5], kind=BIDIRECTIONAL)
    close(y[0], whole(X, BIDIRECTIONAL)[0])
    close(y[1, :5], whole(X[:, :5], BIDIRECTIONAL)[1])
