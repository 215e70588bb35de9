"""The layer against loops over tokens and experts, in every arrangement of rows."""

import dataclasses

import jax
import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import (
    Capacity,
    ClampedGatedExperts,
    Dense,
    DenseAbove,
    Dropless,
    GatedExperts,
    LatentSpace,
    MoE,
    PlainExperts,
    RouterContext,
    SigmoidTopK,
    SoftmaxTopK,
)
from jaxmodels.layers.norm import RMSNorm

D, F, E = 10, 6, 5
ROUTER = SoftmaxTopK(d_model=D, num_experts=E, top_k=2)
EXPERTS = {
    "gated": (GatedExperts(num_experts=E, d_model=D, d_ff=F, bias=True), moe_oracle.gated_expert),
    "plain": (PlainExperts(num_experts=E, d_model=D, d_ff=F), moe_oracle.plain_expert),
    "clamped": (ClampedGatedExperts(num_experts=E, d_model=D, d_ff=F, limit=0.5), None),
}
DISPATCHES = {
    "dropless": Dropless(),
    "dense": Dense(),
    "roomy": Capacity(factor=E),
    "few": DenseAbove(tokens=14),
    "many": DenseAbove(tokens=13),
}


def clamped(params, expert, x):
    return moe_oracle.clamped_expert(params, expert, x, limit=0.5)


def draw(layer, batch=2, size=7, seed=0):
    params = random_params(layer.spec(), seed)
    x = np.random.default_rng(seed + 1).standard_normal((batch, size, D)).astype(np.float32)
    return params, jnp.asarray(x)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("kind", EXPERTS)
def test_equals_a_loop_over_tokens_and_experts(kind, dispatch):
    experts, expert = EXPERTS[kind]
    layer = MoE(router=ROUTER, experts=experts, dispatch=DISPATCHES[dispatch])
    params, x = draw(layer)
    y, routing = quick_jit(layer.routed)(params, x)
    expected = moe_oracle.mixture(
        expert or clamped,
        moe_oracle.in_float64(params["experts"]),
        np.asarray(x, np.float64),
        np.asarray(routing.experts),
        np.asarray(routing.weights),
        E,
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_weights_may_multiply_what_experts_are_given(dispatch):
    experts, expert = EXPERTS["gated"]
    router = SigmoidTopK(d_model=D, num_experts=E, top_k=2, renormalise=False, selection_bias=False)
    layer = MoE(router=router, experts=experts, dispatch=DISPATCHES[dispatch], weighted="inputs")
    params, x = draw(layer)
    valid = jnp.asarray([[True] * 7, [True] * 4 + [False] * 3])
    y, routing = quick_jit(layer.routed)(params, x, RouterContext(valid=valid))
    stack, expected = moe_oracle.in_float64(params["experts"]), np.zeros_like(x, np.float64)
    for b, s, slot in np.ndindex(*routing.experts.shape):
        if valid[b, s]:
            given = float(routing.weights[b, s, slot]) * np.asarray(x[b, s], np.float64)
            expected[b, s] += expert(stack, int(routing.experts[b, s, slot]), given)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'outputs' or 'inputs', got 'input'"):
        dataclasses.replace(layer, weighted="input")


def test_shared_expert_and_its_gate_are_added():
    shared = GatedMLP(d_model=D, d_ff=9)
    layer = MoE(router=ROUTER, experts=EXPERTS["gated"][0], shared=shared, shared_gate=True)
    params, x = draw(layer)
    ungated = dataclasses.replace(layer, shared_gate=False)
    routed, beside = (
        np.asarray(quick_jit(part)(given, x))
        for part, given in ((dataclasses.replace(ungated, shared=None), params), (shared, params["shared"]))
    )
    gate = moe_oracle.sigmoid(np.asarray(x) @ np.asarray(params["shared_gate"]["w"]).T)
    np.testing.assert_allclose(quick_jit(layer)(params, x), routed + gate * beside, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(quick_jit(ungated)(params, x), routed + beside, rtol=1e-5, atol=1e-5)


def test_norms_may_stand_around_experts_and_the_shared_layer():
    """The router reads what none of them has touched."""
    names = ("expert_norm", "expert_post_norm", "shared_norm", "shared_post_norm")
    plain = MoE(router=ROUTER, experts=EXPERTS["gated"][0], shared=GatedMLP(d_model=D, d_ff=9))
    layer = dataclasses.replace(plain, **dict.fromkeys(names, RMSNorm(dim=D)))
    params, x = draw(layer)
    y, routing = layer.routed(params, x)
    normed = {name: layer.expert_norm(params[name], x) for name in names}
    routed = moe_oracle.mixture(
        EXPERTS["gated"][1],
        moe_oracle.in_float64(params["experts"]),
        np.asarray(normed["expert_norm"], np.float64),
        np.asarray(routing.experts),
        np.asarray(routing.weights),
        E,
    )
    shared = layer.shared(params["shared"], normed["shared_norm"])
    expected = layer.expert_norm(params["expert_post_norm"], jnp.asarray(routed, jnp.float32))
    expected = expected + layer.shared_norm(params["shared_post_norm"], shared)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(routing.logits, plain.router(params["router"], x).logits)
    with pytest.raises(ValueError, match="shared_post_norm needs a shared feed-forward"):
        MoE(router=ROUTER, experts=EXPERTS["gated"][0], shared_post_norm=RMSNorm(dim=D))


@pytest.mark.parametrize("bias", [False, True])
def test_experts_may_work_in_a_narrower_space(bias):
    latent = LatentSpace(d_model=D, dim=4, bias=bias)
    experts = GatedExperts(num_experts=E, d_model=4, d_ff=F)
    layer = MoE(router=ROUTER, experts=experts, shared=GatedMLP(d_model=D, d_ff=9), latent=latent)
    params, x = draw(layer)
    y, routing = layer.routed(params, x)
    p = moe_oracle.in_float64(params)
    inner = moe_oracle.mixture(
        moe_oracle.gated_expert,
        p["experts"],
        np.asarray(x, np.float64) @ p["latent"]["w_down"].T + p["latent"].get("b_down", 0),
        np.asarray(routing.experts),
        np.asarray(routing.weights),
        E,
    )
    outer = inner @ p["latent"]["w_up"].T + p["latent"].get("b_up", 0)
    np.testing.assert_allclose(y, outer + layer.shared(params["shared"], x), rtol=1e-4, atol=1e-5)
    assert layer.flops_per_token(3) == 2 * D * E + 2 * (6 * 4 * F) + 4 * D * 4 + 6 * D * 9


@pytest.mark.parametrize("dispatch", [Dropless(), Capacity(factor=1.0)])
def test_padding_and_other_rows_change_nothing(dispatch):
    layer = MoE(router=ROUTER, experts=EXPERTS["gated"][0], dispatch=dispatch)
    params, x = draw(layer, batch=3)
    valid = jnp.arange(7)[None] < jnp.asarray([4, 7, 0])[:, None]
    routed = quick_jit(layer.routed)
    y, _ = routed(params, x, RouterContext(valid=valid))
    noise = jnp.where(valid[..., None], x, 100.0)
    again, _ = routed(params, noise, RouterContext(valid=valid))
    np.testing.assert_array_equal(np.where(valid[..., None], y - again, 0.0), 0.0)
    alone, _ = routed(params, x[:1], RouterContext(valid=valid[:1]))
    np.testing.assert_allclose(y[0, :4], alone[0, :4], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[2], 0.0)


def test_capacity_drops_the_latest_slots_of_a_full_expert():
    layer = MoE(router=ROUTER, experts=EXPERTS["gated"][0], dispatch=Capacity(factor=0.5))
    params, x = draw(layer)
    y, routing = layer.routed(params, x)
    capacity = layer.dispatch.slots_per_expert(7, 2, E)
    assert capacity == 2
    experts = np.array(routing.experts)
    for row in experts.reshape(2, -1):
        for expert in range(E):
            row[np.flatnonzero(row == expert)[capacity:]] = E
    assert (experts == E).any()
    expected = moe_oracle.mixture(
        moe_oracle.gated_expert,
        moe_oracle.in_float64(params["experts"]),
        np.asarray(x, np.float64),
        experts,
        np.asarray(routing.weights),
        E,
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dispatch", [Dropless(), Capacity(factor=E)])
def test_gradients_equal_those_of_the_dense_form(dispatch):
    router = SigmoidTopK(d_model=D, num_experts=E, top_k=3, scale=2.0)
    layer = MoE(router=router, experts=EXPERTS["gated"][0], dispatch=dispatch)
    params, x = draw(layer)

    def loss(params, layer):
        return (layer(params, x) ** 2).sum()

    ours = quick_jit(jax.grad(loss), static_argnums=1)(params, layer)
    dense = quick_jit(jax.grad(loss), static_argnums=1)(params, dataclasses.replace(layer, dispatch=Dense()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, dense)
    assert np.abs(ours["router"]["w"]).max() > 1e-3
    np.testing.assert_array_equal(ours["router"]["selection_bias"], 0.0)


def test_bfloat16_stays_bfloat16():
    layer = MoE(router=ROUTER, experts=EXPERTS["gated"][0])
    params, x = draw(layer)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    y, routing = layer.routed(half, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert routing.weights.dtype == routing.logits.dtype == jnp.float32


def test_flops_count_the_chosen_experts():
    shared = GatedMLP(d_model=D, d_ff=9)
    layer = MoE(router=ROUTER, experts=EXPERTS["gated"][0], shared=shared)
    assert layer.flops_per_token(3) == 2 * D * E + 2 * 6 * D * F + 6 * D * 9


def test_router_and_experts_must_agree():
    with pytest.raises(ValueError, match=r"num_experts=5.*num_experts=4"):
        MoE(router=ROUTER, experts=GatedExperts(num_experts=4, d_model=D, d_ff=F))
    with pytest.raises(ValueError, match=r"d_model=10.*d_model=8"):
        MoE(router=ROUTER, experts=GatedExperts(num_experts=E, d_model=8, d_ff=F))
    with pytest.raises(ValueError, match=r"experts\.d_model=10 must equal latent\.dim=4"):
        MoE(router=ROUTER, experts=EXPERTS["gated"][0], latent=LatentSpace(d_model=D, dim=4))
    with pytest.raises(ValueError, match=r"router\.d_model=10 must equal latent\.d_model=8"):
        MoE(router=ROUTER, experts=EXPERTS["gated"][0], latent=LatentSpace(d_model=8, dim=D))
    with pytest.raises(ValueError, match=r"shared_gate=True.*shared=None"):
        MoE(router=ROUTER, experts=EXPERTS["gated"][0], shared_gate=True)
    with pytest.raises(ValueError, match="factor must be positive, got 0"):
        Capacity(factor=0)
