"""The router's training: its slopes against plain Python, and where prices lead it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_caches import tiny

from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.calibration import kept_along
from jaxmodels.decoding.diffusion.caches.harmonica import HarmoniCa
from jaxmodels.decoding.diffusion.caches.harmonica_training import RouterTraining, Routing
from jaxmodels.decoding.diffusion.driver import Asked, Denoise
from jaxmodels.decoding.diffusion.guidance.cfg import CFG
from jaxmodels.decoding.diffusion.noise import Injected
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.ddim import DDIM
from jaxmodels.models.modules import COMPUTE

SCALE, STEPS = 1.5, 4


@pytest.fixture(scope="module")
def model():
    return tiny("DiT")


def asked(number):
    noise = np.random.default_rng(number).standard_normal((2, 8, 8, 4)).astype(np.float32)
    return Asked(Injected(noise), jnp.array([1, 2]), jnp.array([1000, 1000]))


def guided(step, hook=COMPUTE):
    """The guided prediction of a step, and the variance that is not guided."""
    c, u = jnp.split(step.finish(step.run(step.embed(), range(step.denoiser.num_blocks), hook)), 2)
    return jnp.concatenate([(u + SCALE * (c - u))[..., :4], c[..., 4:]], axis=-1)


def mixed(step, logits, kept):
    """The guided prediction of a step whose parts are mixed, and their new outputs."""
    names, new = step.denoiser.module_names(), {}

    def hook(name, compute):
        new[name] = compute()
        if kept is None:
            return new[name]
        weight = jax.nn.sigmoid(logits[names.index(name)])
        return weight * new[name] + (1 - weight) * kept[name]

    return guided(step, hook), new


def slopes_by_hand(model, router, errors, price, threshold):
    """The loss's derivatives by the logits of all steps but the first, as the published loop finds them."""
    config, params, _ = model
    names = config.module_names()
    sampler = DDIM()
    plan, wanted = sampler.plan(STEPS), asked(0)
    given = config.read(params, jnp.concatenate([wanted.condition, wanted.unconditional]))
    x, kept, slopes = wanted.noise.start * plan.start, None, []
    rows = [jax.tree.map(lambda table, i=i: jnp.float32(table[i]), plan.rows) for i in range(STEPS)]

    def loss(logits, step, error, kept):
        prediction, new = mixed(step, logits, kept)
        squares = ((prediction - guided(step)) ** 2).mean()
        return error * squares + price * jax.nn.sigmoid(logits).sum(), (prediction, new)

    for i in range(STEPS):
        made = config.conditions(params, jnp.full(4, plan.times[i], jnp.float32), given)
        step = Step(params, jnp.concatenate([x, x]), given, made, config)
        slope, (prediction, new) = jax.grad(loss, has_aux=True)(router[i], step, errors[i], kept)
        if kept is None:
            kept = new
        else:
            slopes.append(np.asarray(slope))
            is_kept = jax.nn.sigmoid(router[i]) > threshold
            kept |= {name: new[name] for name, is_on in zip(names, is_kept, strict=True) if is_on}
        alpha, sigma = jnp.float32(plan.alpha[i]), jnp.float32(plan.sigma[i])
        x, _ = sampler.step(Predicted(prediction, x, alpha, sigma, sampler.prediction), rows[i], (), None)
    return np.stack(slopes)


@pytest.mark.sweep
def test_slopes_are_those_of_the_published_loop(model):
    config, params, _ = model
    rng = np.random.default_rng(0)
    router = rng.normal(size=(STEPS, 4)).astype(np.float32)
    errors = rng.random(STEPS).astype(np.float32)
    price, threshold = 1e-3, 0.4
    sampler = DDIM()
    routing = Routing(router, errors, threshold, price, CFG(SCALE), sampler.prediction)
    policy = Denoise(sampler=sampler, steps=STEPS, guidance=CFG(SCALE), cache=routing)
    *_, state = kept_along(policy, config, params, asked(0))
    wanted = slopes_by_hand(model, router, errors, price, threshold)
    assert np.abs(wanted).min() > 0
    np.testing.assert_allclose(state.slopes[1:], wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("price", "computed"), [(10.0, 1 / STEPS), (1e-12, 1.0)])
def test_a_router_computes_what_is_worth_its_price(model, price, computed):
    config, params, _ = model
    policy = Denoise(sampler=DDIM(), steps=STEPS, guidance=CFG(SCALE))
    training = RouterTraining(runs=15, price=price, learning_rate=0.7, threshold=0.3, refresh=8)
    reports = []
    router = training.train(policy, config, params, asked, lambda *report: reports.append(report))
    assert len(reports) == 15 and all(np.isfinite(reports).ravel())
    mask = HarmoniCa(router, threshold=0.3).rows(config, DDIM().plan(STEPS))
    assert mask.mean() == pytest.approx(computed)


def test_numbers_outside_their_range():
    with pytest.raises(ValueError, match="price must be a finite number > 0, got 0"):
        RouterTraining(price=0)
    with pytest.raises(ValueError, match=r"runs must be a whole number >= 1.*got 0"):
        RouterTraining(runs=0)
