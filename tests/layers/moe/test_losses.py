import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import random_params
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from jaxmodels.layers.moe import RouterContext, Routing, SoftmaxTopK
from jaxmodels.layers.moe.losses import (
    chunk_sparsity_loss,
    coupling_loss,
    load_balance_loss,
    locality_loss,
    router_z_loss,
    update_selection_bias,
)
from jaxmodels.layers.moe.routing import expert_load

D, E, K = 8, 6, 2
ROUTER = SoftmaxTopK(d_model=D, num_experts=E, top_k=K)


def route(valid=None, seed=1, batch=2):
    params = random_params(ROUTER.spec())
    x = np.random.default_rng(seed).standard_normal((batch, 9, D))
    return ROUTER(params, jnp.asarray(x, jnp.float32), RouterContext(valid=valid))


@pytest.mark.parametrize("padded", [False, True])
def test_balance_over_the_batch_matches_transformers(padded):
    valid = jnp.arange(9) < jnp.asarray([[4], [9]]) if padded else None
    routing = route(valid)
    mask = None if valid is None else torch.tensor(np.asarray(valid, np.int64))
    logits = torch.tensor(np.asarray(routing.logits).reshape(-1, E))
    theirs = load_balancing_loss_func((logits,), E, K, mask)
    np.testing.assert_allclose(load_balance_loss(routing) * K, theirs, rtol=1e-5)


def test_balance_by_row_is_the_mean_of_single_rows():
    rows = [jax.tree.map(lambda a, i=i: a[i : i + 1], route()) for i in range(2)]
    expected = np.mean([load_balance_loss(row) for row in rows])
    np.testing.assert_allclose(load_balance_loss(route(), by_row=True), expected, rtol=1e-6)


def test_balance_over_micro_batches_counts_the_load_of_all():
    first, second = route(seed=1), route(seed=2)
    loads = np.asarray(expert_load(first)) + np.asarray(expert_load(second))
    share = np.asarray(second.scores, np.float64).mean((0, 1))
    expected = E * (loads / loads.sum() * share).sum()
    ours = load_balance_loss(second, load_before=expert_load(first))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_balance_over_a_mapped_axis_is_that_of_the_whole():
    whole = route()
    split = jax.tree.map(lambda a: a[:, None], whole)
    parts = jax.vmap(lambda r: load_balance_loss(r, axis_name="rows"), axis_name="rows")(split)
    np.testing.assert_allclose(parts.mean(), load_balance_loss(whole), rtol=1e-6)


def test_stacked_layers_are_averaged():
    layers = [route(seed=1), route(seed=2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    for loss in (load_balance_loss, router_z_loss):
        np.testing.assert_allclose(loss(stacked), np.mean([loss(r) for r in layers]), rtol=1e-6)


def test_extremes_of_balance():
    def all_to(experts):
        scores = jax.nn.one_hot(experts, E)
        return Routing(experts[..., None], jnp.ones((*experts.shape, 1)), scores, scores)

    np.testing.assert_allclose(load_balance_loss(all_to(jnp.arange(12).reshape(2, 6) % E)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(load_balance_loss(all_to(jnp.zeros((2, 6), jnp.int32))), E, rtol=1e-6)


def test_z_loss_is_the_mean_square_of_the_normaliser_over_real_tokens():
    valid = jnp.arange(9) < jnp.asarray([[4], [9]])
    routing = route(valid)
    z = np.log(np.exp(np.asarray(routing.logits, np.float64)).sum(-1)) ** 2
    np.testing.assert_allclose(router_z_loss(routing), z[np.asarray(valid)].mean(), rtol=1e-5)
    np.testing.assert_allclose(router_z_loss(route()), z.mean(), rtol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_coupling_loss_equals_loops_over_pairs(alpha):
    rng = np.random.default_rng(0)
    w_router, w_in = rng.standard_normal((E, D)), rng.standard_normal((E, D, 5))
    m = [[np.linalg.norm(w_router[i] @ w_in[j]) for j in range(E)] for i in range(E)]
    expected = 0.0
    for i in range(E):
        for j in range(E):
            if i != j:
                expected += max(m[i][j] - alpha * m[i][i], 0) + max(m[j][i] - alpha * m[i][i], 0)
    ours = coupling_loss(jnp.asarray(w_router), jnp.asarray(w_in), alpha=alpha)
    np.testing.assert_allclose(ours, expected / E**2, rtol=1e-5)


def test_coupling_noise_stays_within_half_the_distance_to_the_nearest_row():
    w_router = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    # Experts that let one feature through show what the noise did to it.
    picks_feature = jnp.stack([jnp.eye(4)[:, :1]] * 3)
    plain = coupling_loss(w_router, picks_feature)
    noisy = [coupling_loss(w_router, picks_feature, jax.random.key(i)) for i in range(20)]
    assert np.std(noisy) > 0
    spread = np.abs(np.asarray(noisy) - plain).max()
    rows = np.asarray(w_router)
    gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.where(np.eye(3), np.inf, 0)
    eps = gaps.min(1) / 2 / np.linalg.norm(rows, axis=1)
    assert spread <= 4 * np.abs(rows[:, 0] * eps).sum()


def relu_routing(valid=None):
    logits = jnp.asarray(np.random.default_rng(3).standard_normal((2, 5, E)) / 50, jnp.float32)
    return Routing(jnp.zeros((2, 5, 1), jnp.int32), jnp.ones((2, 5, 1)), logits, logits, valid)


@pytest.mark.parametrize("padded", [False, True])
def test_locality_is_the_cross_entropy_of_neighbours(padded):
    lengths = [5, 3] if padded else [5, 5]
    routing = relu_routing(jnp.arange(5) < jnp.asarray(lengths)[:, None] if padded else None)
    logits = torch.tensor(np.asarray(routing.logits)) * 100
    pairs = [
        torch.nn.functional.binary_cross_entropy_with_logits(row[i], torch.sigmoid(row[i + 1]))
        for row, length in zip(logits, lengths, strict=True)
        for i in range(length - 1)
    ]
    np.testing.assert_allclose(locality_loss(routing), np.mean(pairs), rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_chunk_sparsity_is_the_chance_that_a_chunk_uses_an_expert(padded):
    lengths = [5, 3] if padded else [5, 5]
    routing = relu_routing(jnp.arange(5) < jnp.asarray(lengths)[:, None] if padded else None)
    scores = np.maximum(np.asarray(routing.logits, np.float64), 0)
    chances = scores / (scores.sum(-1, keepdims=True) + 1e-5)
    used = []
    for row, length in zip(chances, lengths, strict=True):
        for start in (0, 2, 4):
            chunk = [1 - p for p in row[start : min(start + 2, length)]]
            used.append(1 - np.prod(chunk, axis=0) if chunk else np.zeros(E))
    np.testing.assert_allclose(chunk_sparsity_loss(routing, 2), np.mean(used), atol=1e-4)


def test_selection_bias_moves_against_the_load():
    bias = jnp.asarray([0.5, 0.0, -0.5])
    moved = update_selection_bias(bias, jnp.asarray([9, 3, 6]), rate=0.1)
    np.testing.assert_allclose(moved, [0.4, 0.1, -0.5], rtol=1e-6)


def test_only_the_scores_have_a_gradient():
    params = random_params(ROUTER.spec())
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, D)), jnp.float32)
    grads = jax.grad(lambda p: load_balance_loss(ROUTER(p, x)))(params)
    load = np.asarray(expert_load(ROUTER(params, x)), np.float64)
    p = np.asarray(ROUTER(params, x).scores, np.float64)
    f = E * load / load.sum() / 18
    expected = np.einsum("bsd,bse->ed", x, p * (f - (p * f).sum(-1, keepdims=True)))
    np.testing.assert_allclose(grads["w"], expected, rtol=1e-3, atol=1e-6)
