import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.layers.moe import Dense, DenseAbove, Dropless, MoE, PlainExperts, ReLURouter

D, F, E = 10, 4, 7


def expected_scores(logits, norm, scale, eps=1e-5, norm_scale=1.5):
    s = np.maximum(np.asarray(logits, np.float64), 0)
    if norm == "sum":
        return s / (s.sum(-1, keepdims=True) * norm_scale + 1e-5)
    if norm == "rms":
        return s / np.sqrt((s**2).mean(-1, keepdims=True) + eps) * np.asarray(scale, np.float64)
    return s


@pytest.mark.parametrize("norm", ["none", "sum", "rms"])
@pytest.mark.parametrize("dispatch", [Dropless(), Dense(), DenseAbove(tokens=4)])
def test_equals_blockffn_as_one_big_feed_forward(norm, dispatch):
    router = ReLURouter(d_model=D, num_experts=E, norm=norm, norm_scale=1.5)
    layer = MoE(
        router=router,
        experts=PlainExperts(num_experts=E, d_model=D, d_ff=F, activation="silu"),
        dispatch=dispatch,
    )
    params = random_params(layer.spec())
    x = np.random.default_rng(1).standard_normal((2, 5, D)).astype(np.float32)
    y, routing = quick_jit(layer.routed)(params, jnp.asarray(x))
    p = moe_oracle.in_float64(params)
    scores = expected_scores(x @ p["router"]["w"].T, norm, params["router"].get("scale"))
    up = np.einsum("bsd,edf->bsef", x, p["experts"]["w_up"])
    hidden = up * moe_oracle.sigmoid(up) * scores[..., None]
    np.testing.assert_allclose(
        y, np.einsum("bsef,efd->bsd", hidden, p["experts"]["w_down"]), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(np.asarray(routing.experts) == E, scores == 0)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be 'none', 'sum' or 'rms', got 'layer'"):
        ReLURouter(d_model=4, num_experts=2, norm="layer")
