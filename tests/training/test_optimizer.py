import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_language_model import ToyModel

from jaxmodels.layers.spec import init_params
from jaxmodels.training.optimizer import AdamW, WarmupCosine, WarmupStableDecay, decayed


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
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert not updates["norm"]["scale"].any()
    np.testing.assert_allclose(updates["previous"], -0.05 * params["previous"], rtol=1e-5)


def test_gradients_are_clipped_by_global_norm():
    # Adam's first update hides the scale of the gradient unless eps counts: eps = 1 shows it
    spec = {"w": ToyModel().spec()["head"]}
    params = init_params(spec, jax.random.key(0))
    schedule = WarmupStableDecay(peak=1.0, warmup_steps=0, decay_steps=0, total_steps=9)
    optimizer = AdamW(weight_decay=0.0, eps=1.0, clip_norm=0.5).build(schedule, spec)
    gradient = jnp.full(params["w"].shape, 3.0)
    updates, _ = optimizer.update({"w": gradient}, optimizer.init(params), params)
    clipped = 0.5 / np.sqrt(gradient.size)
    np.testing.assert_allclose(updates["w"], -clipped / (clipped + 1), rtol=1e-5)


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
    ],
)
def test_values_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
