import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.layers.moe import GatedExperts, HyperRouter, LatentSpace, MoE, SigmoidTopK
from jaxmodels.layers.moe.losses import (
    chunk_sparsity_loss,
    coupling_loss,
    load_balance_loss,
    locality_loss,
    router_z_loss,
)
from jaxmodels.layers.moe.routing import expert_load
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.optimizer import AdamW, WarmupCosine, decayed
from jaxmodels.training.recipe import recipe_from_dict, recipe_to_dict
from jaxmodels.training.router_losses import RouterLosses
from jaxmodels.training.train import TrainState, make_train_step

D, E, VOCAB = 8, 4, 11
SCHEDULE = WarmupCosine(peak=1e-2, warmup_steps=1, total_steps=100)
MIXTURE = MoE(
    router=SigmoidTopK(d_model=D, num_experts=E, top_k=2),
    experts=GatedExperts(num_experts=E, d_model=D, d_ff=6),
)
BLOCK = Block(ffn_norm=RMSNorm(dim=D), ffn=MIXTURE)
MODEL = Decoder(vocab_size=VOCAB, d_model=D, blocks=(BLOCK,) * 2, final_norm=RMSNorm(dim=D))
TOKENS = jax.random.randint(jax.random.key(0), (4, 6), 0, VOCAB)
routed = quick_jit(MODEL.forward_with_routing)


ADAM = AdamW()


def step(losses, model=MODEL, accumulate=1, params=None, seed=0, adam=ADAM):
    """One update: (state, metrics)."""
    optimizer = adam.build(SCHEDULE, model.spec())
    params = random_params(model.spec()) if params is None else params
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )
    update = make_train_step(
        model, optimizer, SCHEDULE, accumulate=accumulate, router_losses=losses, seed=seed
    )
    return update(state, TOKENS)


@pytest.mark.sweep
def test_the_loss_is_the_weighted_mean_over_the_mixtures():
    losses = RouterLosses(
        load_balance=0.3, z=0.02, locality=0.1, chunk=0.2, chunk_size=4, coupling=0.5, coupling_alpha=0.7
    )
    params = random_params(MODEL.spec())
    logits, routings = routed(params, TOKENS)

    @quick_jit
    def expected(params, routings):
        total = 0.0
        for i, (name, routing) in enumerate(routings.items()):
            layer = params["blocks"][name]["ffn"]
            noise = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 0), i)
            total += 0.3 * load_balance_loss(routing) + 0.02 * router_z_loss(routing)
            total += 0.1 * locality_loss(routing) + 0.2 * chunk_sparsity_loss(routing, 4)
            total += 0.5 * coupling_loss(layer["router"]["w"], layer["experts"]["w_gate"], noise, 0.7)
        return total / 2

    _, metrics = step(losses, seed=5)
    np.testing.assert_allclose(metrics["router_loss"], expected(params, routings), rtol=1e-5)
    assert abs(step(losses, seed=6)[1]["router_loss"] - metrics["router_loss"]) > 1e-4  # other noise
    np.testing.assert_allclose(metrics["loss"], language_model_loss(logits, TOKENS)[0], rtol=1e-5)
    load = np.stack([np.asarray(r.assigned().sum((0, 1))) for r in routings.values()])
    np.testing.assert_allclose(metrics["busiest_expert"], (load.max(1) / load.mean(1)).max(), rtol=1e-6)


@pytest.mark.sweep
def test_selection_biases_move_against_the_load_of_the_whole_batch():
    params = random_params(MODEL.spec())
    _, routings = routed(params, TOKENS)
    state, _ = step(RouterLosses(bias_rate=0.1), accumulate=2)
    for name, routing in routings.items():
        load = np.asarray(routing.assigned().sum((0, 1)))
        before, after = (
            tree["blocks"][name]["ffn"]["router"]["selection_bias"] for tree in (params, state.params)
        )
        np.testing.assert_allclose(after, before + 0.1 * np.sign(load.mean() - load), atol=1e-6)


@pytest.mark.sweep
def test_later_micro_batches_count_the_load_of_earlier_ones():
    params = random_params(MODEL.spec())
    (_, first), (_, second) = (routed(params, TOKENS[i : i + 2]) for i in (0, 2))
    expected = {"micro_batch": 0.0, "batch": 0.0}
    for name in first:
        before = expert_load(first[name])
        start = load_balance_loss(first[name])
        expected["micro_batch"] += (start + load_balance_loss(second[name])) / 4
        expected["batch"] += (start + load_balance_loss(second[name], load_before=before)) / 4
    for scope, value in expected.items():
        _, metrics = step(RouterLosses(load_balance=1.0, scope=scope), accumulate=2)
        np.testing.assert_allclose(metrics["router_loss"], value, rtol=1e-5)
    assert abs(expected["batch"] - expected["micro_batch"]) > 1e-4


@pytest.mark.sweep
def test_a_scanned_model_trains_like_the_unrolled_one():
    losses = RouterLosses(load_balance=0.1, z=0.1, bias_rate=0.01)
    scanned = ScannedDecoder(MODEL)
    params = random_params(MODEL.spec())
    state, metrics = step(losses, params=params, adam=AdamW(eps=1e-2))
    again, same = step(losses, scanned, params=scanned.stack(params), adam=AdamW(eps=1e-2))
    np.testing.assert_allclose(same["router_loss"], metrics["router_loss"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scanned.unstack(again.params), state.params
    )


def test_the_hypernetwork_of_a_router_is_never_updated():
    router = HyperRouter(d_model=D, num_experts=E, top_k=2, embedding_dim=5, hidden=6)
    block = dataclasses.replace(BLOCK, ffn=dataclasses.replace(MIXTURE, router=router))
    model = dataclasses.replace(MODEL, blocks=(block,))
    params = random_params(model.spec())
    state, _ = step(None, model, params=params, adam=AdamW(weight_decay=0.5))
    before, after = (tree["blocks"]["0"]["ffn"]["router"] for tree in (params, state.params))
    np.testing.assert_array_equal(after["hyper_in"], before["hyper_in"])
    np.testing.assert_array_equal(after["hyper_out"], before["hyper_out"])
    assert (after["embedding"] != before["embedding"]).any()


def test_weight_decay_spares_vectors_stacked_by_expert_or_layer():
    spec = ScannedDecoder(MODEL).spec()["blocks"]["0"]
    mask = decayed(spec)
    assert mask["ffn"]["experts"]["w_up"]
    assert not mask["ffn"]["router"]["selection_bias"]
    assert not mask["ffn_norm"]["scale"]
    biased = GatedExperts(num_experts=E, d_model=D, d_ff=6, bias=True)
    assert not decayed(biased.spec())["b_up"]


def test_losses_that_apply_to_nothing_are_refused():
    unbiased = dataclasses.replace(MIXTURE, router=dataclasses.replace(MIXTURE.router, selection_bias=False))
    model = dataclasses.replace(MODEL, blocks=(dataclasses.replace(BLOCK, ffn=unbiased),))
    with pytest.raises(ValueError, match=r"bias_rate=0\.1, but no router"):
        step(RouterLosses(bias_rate=0.1), model)
    narrow = GatedExperts(num_experts=E, d_model=3, d_ff=6)
    mixture = dataclasses.replace(MIXTURE, experts=narrow, latent=LatentSpace(d_model=D, dim=3))
    model = dataclasses.replace(MODEL, blocks=(dataclasses.replace(BLOCK, ffn=mixture),))
    with pytest.raises(ValueError, match=r"coupling=0\.5 .* which those of block 0 do not have"):
        step(RouterLosses(coupling=0.5), model)
    with pytest.raises(ValueError, match="no block of the model is a mixture"):
        RouterLosses(z=1.0).check(MODEL.spec(), {})
    with pytest.raises(ValueError, match="z must be a finite number >= 0, got -1"):
        RouterLosses(z=-1)
    with pytest.raises(ValueError, match="scope must be one of row, micro_batch, batch, got 'world'"):
        RouterLosses(scope="world")
    with pytest.raises(ValueError, match="coupling_alpha must be at most 1, got 2"):
        RouterLosses(coupling_alpha=2)


def test_a_recipe_holds_them():
    values = {
        "model": {"model_type": "toy", "vocab_size": 300},
        "train_files": ["a"],
        "held_out_files": ["b"],
        "schedule": {"kind": "warmup_cosine", "peak": 1e-3, "warmup_steps": 2, "total_steps": 9},
        "router_losses": {"load_balance": 0.01, "scope": "row"},
    }
    recipe = recipe_from_dict(values)
    assert recipe.router_losses == RouterLosses(load_balance=0.01, scope="row")
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    with pytest.raises(ValueError, match=r"recipe: router_losses\.balance is not known"):
        recipe_from_dict({**values, "router_losses": {"balance": 1}})
