import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import attention, decoder, quick_jit, ssd
from toy_language_model import ToyModel

from jaxmodels.layers.spec import Param, init_params
from jaxmodels.training.optimizer import AdamW, Muon, WarmupCosine, WarmupStableDecay, decayed, orthogonalised


def first_updates(optimizer, grads, params):
    """The updates of the first step, in one program, on the host."""
    step = quick_jit(lambda grads, params: optimizer.update(grads, optimizer.init(params), params)[0])
    return jax.device_get(step(grads, params))


def test_warmup_cosine():
    schedule = WarmupCosine(peak=2.0, warmup_steps=4, total_steps=12, final_fraction=0.1)
    rates = np.array([schedule(step) for step in range(14)])
    np.testing.assert_allclose(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
    np.testing.assert_allclose(rates[8], 1.1, rtol=1e-6)
    np.testing.assert_allclose(rates[12:], 0.2, rtol=1e-6)
    assert (np.diff(rates[4:13]) < 0).all()


def test_warmup_stable_decay():
    schedule = WarmupStableDecay(peak=1.0, warmup_steps=2, decay_steps=4, total_steps=10)
    rates = np.array([schedule(step) for step in range(11)])
    np.testing.assert_allclose(rates, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0], atol=1e-7)


def test_weight_decay_is_on_matrices_only():
    spec = ToyModel().spec()
    assert decayed(spec) == {"embedding": True, "norm": {"scale": False}, "previous": True, "head": True}
    params = init_params(spec, jax.random.key(0))
    schedule = WarmupStableDecay(peak=0.1, warmup_steps=0, decay_steps=0, total_steps=9)
    optimizer = AdamW(weight_decay=0.5).build(schedule, spec)
    updates = first_updates(optimizer, jax.tree.map(np.zeros_like, params), params)
    assert not updates["norm"]["scale"].any()
    np.testing.assert_allclose(updates["previous"], -0.05 * np.asarray(params["previous"]), rtol=1e-5)


def test_weight_decay_is_on_no_bias():
    config = decoder(ssd(projection_bias=True), attention(qkv_bias=True, adapter_rank=2))
    recurrent, attending = (decayed(config.spec())["blocks"][i]["mixer"] for i in "01")
    assert {name for name, is_decayed in recurrent.items() if is_decayed is True} == {
        "w_z", "w_x", "w_bc", "w_dt", "w_out", "conv_x", "conv_bc",
    }  # fmt: skip
    assert not any(attending[f"b_{name}"] for name in "qkv")
    assert all(attending["adapter"].values())


def test_gradients_are_clipped_by_global_norm():
    # Adam's first update hides the scale of the gradient unless eps counts: eps = 1 shows it
    spec = {"w": ToyModel().spec()["head"]}
    params = init_params(spec, jax.random.key(0))
    schedule = WarmupStableDecay(peak=1.0, warmup_steps=0, decay_steps=0, total_steps=9)
    optimizer = AdamW(weight_decay=0.0, eps=1.0, clip_norm=0.5).build(schedule, spec)
    gradient = jnp.full(params["w"].shape, 3.0)
    updates = first_updates(optimizer, {"w": gradient}, params)
    clipped = 0.5 / np.sqrt(gradient.size)
    np.testing.assert_allclose(updates["w"], -clipped / (clipped + 1), rtol=1e-5)


CONSTANT = WarmupStableDecay(peak=0.1, warmup_steps=0, decay_steps=0, total_steps=9)
PROJECTIONS = {
    "w_q": Param((2, 3, 8), ("heads", "head_dim", "embed")),
    "w_o": Param((8, 2, 3), ("embed", "heads", "head_dim")),
    "experts": {"w_up": Param((4, 8, 5), ("experts", "embed", "mlp"))},
    "conv_w": Param((4, 12), (None, "ssm_inner")),
    "embed": {"weight": Param((17, 8), ("vocab", "embed"))},
    "scale": Param((8,), ("embed",)),
}


def test_muon_makes_the_updates_of_projections_orthogonal():
    params = init_params(PROJECTIONS, jax.random.key(0))
    optimizer = Muon(weight_decay=0.0, newton_schulz_steps=12).build(CONSTANT, PROJECTIONS)
    grads = init_params(PROJECTIONS, jax.random.key(1))
    updates, grads = first_updates(optimizer, grads, params), jax.device_get(grads)
    matrices = {
        "w_q": (updates["w_q"].reshape(6, 8), grads["w_q"].reshape(6, 8)),
        "w_o": (updates["w_o"].reshape(8, 6), grads["w_o"].reshape(8, 6)),
        **{f"expert {i}": (updates["experts"]["w_up"][i], grads["experts"]["w_up"][i]) for i in range(4)},
    }
    for name, (update, grad) in matrices.items():
        left, _, right = np.linalg.svd(grad, full_matrices=False)
        inside = left.T @ update @ right.T / (-0.1 * 0.2 * np.sqrt(max(grad.shape)))
        # the coefficients of the iteration leave singular values between about 0.7 and 1.2
        assert ((np.diag(inside) > 0.65) & (np.diag(inside) < 1.25)).all(), name
        np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=0.01, err_msg=name)


def test_muon_leaves_the_rest_to_adam():
    assert set(orthogonalised(PROJECTIONS)) == {"w_q", "w_o", "experts/w_up"}
    params = init_params(PROJECTIONS, jax.random.key(0))
    grads = init_params(PROJECTIONS, jax.random.key(1))
    updates = {}
    for kind in (Muon(), AdamW()):
        optimizer = kind.build(CONSTANT, PROJECTIONS)
        updates[type(kind)] = first_updates(optimizer, grads, params)
    for name in ("conv_w", "embed", "scale"):
        jax.tree.map(
            lambda ours, adam: np.testing.assert_allclose(ours, adam, rtol=1e-5),
            updates[Muon][name],
            updates[AdamW][name],
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WarmupCosine(peak=0, warmup_steps=1, total_steps=2), "peak"),
        (lambda: WarmupCosine(peak=1, warmup_steps=3, total_steps=2), "warmup_steps.*got 3"),
        (lambda: WarmupCosine(peak=1, warmup_steps=0, total_steps=0), "total_steps"),
        (lambda: WarmupCosine(peak=1, warmup_steps=0, total_steps=2, final_fraction=2), "final_fraction"),
        (
            lambda: WarmupStableDecay(peak=1, warmup_steps=1, decay_steps=2, total_steps=2),
            r"decay_steps must be in 0\.\.1.*got 2",
        ),
        (lambda: AdamW(b2=1.0), "b2"),
        (lambda: AdamW(eps=0.0), "eps"),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay"),
        (lambda: AdamW(clip_norm=float("nan")), "clip_norm"),
        (lambda: Muon(beta=1.0), r"Muon: beta must be in \[0, 1\), got 1.0"),
        (lambda: Muon(update_rms=0.0), "Muon: update_rms must be positive, got 0.0"),
        (lambda: Muon(newton_schulz_steps=0), "Muon: newton_schulz_steps must be a whole number >= 1"),
    ],
)
def test_values_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
