import jax
import jax.numpy as jnp
import numpy as np
from model_helpers import quick_jit, random_params

from jaxmodels.layers.moe import HyperRouter
from jaxmodels.layers.spec import init_params

ROUTER = HyperRouter(d_model=6, num_experts=5, top_k=2, embedding_dim=8, hidden=7)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 6)), jnp.float32)


def test_the_weights_come_from_the_embedding():
    params = random_params(ROUTER.spec())
    hidden = np.maximum(params["embedding"] @ params["hyper_in"], 0)
    w = (hidden @ params["hyper_out"]).reshape(5, 6).T
    np.testing.assert_allclose(ROUTER(params, X).logits, np.asarray(X) @ w, rtol=1e-5, atol=1e-5)


def test_folded_it_is_a_plain_router():
    params = random_params(ROUTER.spec())
    plain, folded = ROUTER.fold(params)
    assert set(folded) == set(plain.spec())
    ours, theirs = ROUTER(params, X), plain(folded, X)
    np.testing.assert_array_equal(ours.experts, theirs.experts)
    np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_only_the_embedding_is_trained():
    params = init_params(ROUTER.spec(), jax.random.key(0))
    slope = quick_jit(jax.grad(lambda p: (ROUTER(p, X).weights ** 2).sum()))
    grads = jax.device_get(slope(params))
    assert np.abs(grads["embedding"]).max() > 0
    assert not grads["hyper_in"].any()
    assert not grads["hyper_out"].any()
    assert {name for name, param in ROUTER.spec().items() if param.frozen} == {"hyper_in", "hyper_out"}
