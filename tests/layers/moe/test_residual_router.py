"""MoE++ against loops that follow the released layer."""

import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.layers.moe import GatedExperts, MoE, ResidualRouter, RouterContext, ZeroComputationExperts

D, F, FFNS = 10, 6, 3
E = FFNS + 4


def layer(**options):
    return MoE(
        router=ResidualRouter(d_model=D, num_experts=E, **options),
        experts=GatedExperts(num_experts=FFNS, d_model=D, d_ff=F),
        zero_computation=ZeroComputationExperts(d_model=D),
        input_scale=2.0,
    )


def one_token(p, x, previous, hidden, std):
    """Logits and output of one token."""
    router = p["router"]
    logits = np.tanh(x @ router["w_in"].T) @ router["w"].T if hidden else x @ router["w"].T
    logits = logits + previous @ router["w_previous"].T
    gates = moe_oracle.softmax(logits / (logits.std(ddof=1) / std) if std else logits)
    chosen = np.argsort(-gates)[:2]
    weights = np.where(chosen == E - 1, 0.0, gates[chosen])
    weights = weights / weights.sum()
    x = 2 * x
    y = np.zeros(D)
    for expert, weight in zip(chosen, weights, strict=True):
        if expert < FFNS:
            y += weight * moe_oracle.gated_expert(p["experts"], expert, x)
        elif expert < FFNS + 2:
            a = moe_oracle.softmax(x @ p["zero_computation"]["w"][expert - FFNS])
            y += weight * (a[0] * x + a[1] * p["zero_computation"]["constant"][expert - FFNS])
        elif expert == FFNS + 2:
            y += weight * x
    return logits, y, chosen


@pytest.mark.parametrize(("hidden", "std"), [(12, None), (None, 0.7)])
def test_equals_the_released_layer_token_by_token(hidden, std):
    mixture = layer(hidden=hidden, logit_std=std)
    params = random_params(mixture.spec())
    p = moe_oracle.in_float64(params)
    rng = np.random.default_rng(2)
    x, previous = rng.standard_normal((2, 30, D)), rng.standard_normal((2, 30, E))
    context = RouterContext(previous=jnp.asarray(previous))
    y, routing = quick_jit(mixture.routed)(params, jnp.asarray(x, jnp.float32), context)
    used = set()
    for at in np.ndindex(2, 30):
        logits, expected, chosen = one_token(p, x[at], previous[at], hidden, std)
        np.testing.assert_allclose(routing.logits[at], logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(y[at], expected, rtol=1e-3, atol=1e-4)
        used |= set(chosen.tolist())
    assert used == set(range(E))


def test_without_a_layer_before_nothing_is_added():
    mixture = layer()
    params = random_params(mixture.spec())
    x = np.ones((1, 2, D), np.float32)
    zero = np.zeros((1, 2, E), np.float32)
    behind_zero, _ = quick_jit(mixture.routed)(params, x, RouterContext(previous=zero))
    np.testing.assert_array_equal(quick_jit(mixture)(params, x), behind_zero)
    assert mixture.carried_logits == E


def test_copies_and_zeros_need_no_parameters():
    experts = ZeroComputationExperts(d_model=3, constants=0, copies=2, zeros=1)
    assert experts.spec() == {}
    x, weights = jnp.asarray([[1.0, 2.0, 3.0]]), jnp.asarray([[0.25, 0.5, 0.25]])
    np.testing.assert_allclose(experts({}, x, weights), 0.75 * x)


def test_counts_must_fit():
    with pytest.raises(ValueError, match=r"num_experts=7.*num_experts=2 plus the 4"):
        MoE(
            router=ResidualRouter(d_model=D, num_experts=7),
            experts=GatedExperts(num_experts=2, d_model=D, d_ff=F),
            zero_computation=ZeroComputationExperts(d_model=D),
        )
    with pytest.raises(ValueError, match="top_k of at least 2, got 1"):
        ResidualRouter(d_model=D, num_experts=E, top_k=1)
    with pytest.raises(ValueError, match="zeros=-1"):
        ZeroComputationExperts(d_model=D, zeros=-1)
