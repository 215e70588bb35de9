import math

import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.layers.moe import ExpertChoice, GatedExperts, MoE, RouterContext

D, F, E = 10, 6, 4
LAYER = MoE(
    router=ExpertChoice(d_model=D, num_experts=E, experts_per_token=1.5),
    experts=GatedExperts(num_experts=E, d_model=D, d_ff=F),
)


def picks_of_row(x, w, valid):
    """[S, E] weights of the tokens that each expert picks in one row, by sorting them."""
    scores = moe_oracle.softmax(x @ w)
    count = math.ceil(1.5 * valid / E)
    weights = np.zeros_like(scores)
    for expert in range(E):
        best = np.argsort(-scores[:valid, expert], kind="stable")[:count]
        weights[best, expert] = scores[best, expert]
    return weights


def test_every_expert_picks_its_best_real_tokens_of_each_row():
    params = random_params(LAYER.spec())
    p = moe_oracle.in_float64(params)
    x = np.random.default_rng(1).standard_normal((3, 9, D)).astype(np.float32)
    lengths = [9, 5, 0]
    valid = np.arange(9) < np.asarray(lengths)[:, None]
    y, routing = quick_jit(LAYER.routed)(params, jnp.asarray(x), RouterContext(valid=jnp.asarray(valid)))
    assert routing.max_pairs == 3 * E * 4 < 3 * 9 * E
    for row, length in enumerate(lengths):
        weights = picks_of_row(x[row].astype(np.float64), p["router"]["w"].T, length)
        np.testing.assert_allclose(routing.dense_weights()[row], weights, rtol=1e-5, atol=1e-6)
        experts = np.broadcast_to(np.arange(E), (1, 9, E))
        expected = moe_oracle.mixture(
            moe_oracle.gated_expert,
            p["experts"],
            x[row : row + 1].astype(np.float64),
            experts,
            weights[None],
            E,
        )
        np.testing.assert_allclose(y[row], expected[0], rtol=1e-4, atol=1e-5)


def test_it_is_not_causal_and_says_so():
    assert not LAYER.causal
    with pytest.raises(ValueError, match=r"at most num_experts=4, got 5"):
        ExpertChoice(d_model=D, num_experts=E, experts_per_token=5)
