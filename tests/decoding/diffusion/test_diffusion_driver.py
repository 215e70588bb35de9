"""The driver of diffusion against the loop of `diffusers`, and what its program is like."""

import dataclasses

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import CONFIGS, by_tier, condition_of
from diffusers import DDIMScheduler, DiTTransformer2DModel
from diffusers_modules import assert_close, draw, randomised
from model_helpers import quick_jit, random_params

from jaxmodels.checkpoints.diffusers import load_denoiser
from jaxmodels.decoding.diffusion import Asked, Denoise, Injected, NotFinite, drawn
from jaxmodels.decoding.diffusion.driver import whole_run
from jaxmodels.decoding.diffusion.guidance import CFG, Interval, Rescaled, Residual, ZeroStar
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers import DDIM, FlowEuler, FlowMapEuler
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.families import denoiser_from_config

LABELS, NONE = jnp.array([3, 7]), jnp.array([10, 10])
BASE = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(a denoiser of diffusers, ours, its parameters)"""
    theirs = randomised(DiTTransformer2DModel(**BASE))
    directory = tmp_path_factory.mktemp("dit")
    theirs.save_pretrained(directory)
    return theirs, *load_denoiser(directory)


def loop_of_diffusers(model, scheduler, steps, scale, start):
    """What their DiT pipeline does, without its autoencoder."""
    scheduler.set_timesteps(steps)
    half = start
    labels = torch.tensor([3, 7, 10, 10])
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = model(torch.cat([half, half]), timestep=t.expand(4), class_labels=labels).sample
        conditional, unconditional = output[:, :4].chunk(2)
        half = scheduler.step(unconditional + scale * (conditional - unconditional), t, half).prev_sample
    return half


def run(pair, steps=5, **options):
    """Latents of two classes from noise that is always the same."""
    _, config, params = pair
    noise = Injected(draw(2, 8, 8, 4)[0])
    asked = Asked(noise, LABELS, NONE if options.get("guidance") else None)
    return Denoise(sampler=DDIM(), steps=steps, **options).run(config, params, asked)


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_a_run_is_the_loop_of_diffusers(pair, steps):
    start = draw(2, 8, 8, 4)[1].movedim(-1, 1)
    scheduler = DDIMScheduler(clip_sample=False)
    wanted = loop_of_diffusers(pair[0], scheduler, steps, 4.0, start).movedim(1, -1)
    found = run(pair, steps, guidance=CFG(4.0))
    assert_close(found.latents, wanted, 1e-4)
    assert found.calls == steps
    np.testing.assert_array_equal(found.blocks, [2.0] * steps)


def test_without_guidance_only_the_condition_is_computed(pair):
    np.testing.assert_allclose(run(pair).latents, run(pair, guidance=CFG(1.0)).latents, rtol=2e-3, atol=1e-3)


def test_a_stream_gives_the_canvases_of_the_same_run(pair):
    _, config, params = pair
    policy = Denoise(sampler=DDIM(eta=0.5), steps=5, guidance=CFG(2.0))
    asked = Asked(drawn(3, 2, (8, 8, 4)), LABELS, NONE)
    whole = policy.run(config, params, asked)
    parts = list(policy.stream(config, params, asked, every=2))
    assert [part.calls for part in parts] == [2, 2, 1]
    np.testing.assert_allclose(parts[-1].latents, whole.latents, rtol=1e-3, atol=1e-3)
    assert np.abs(parts[0].latents - parts[1].latents).max() > 0.1


def test_an_image_depends_on_seed_index_and_condition_alone(pair):
    _, config, params = pair

    def latents(labels, seed=5):
        asked = Asked(drawn(seed, len(labels), (8, 8, 4)), jnp.array(labels))
        return Denoise(sampler=DDIM(eta=1.0), steps=3).run(config, params, asked).latents

    alone, beside = latents([4]), latents([4, 9, 4])
    np.testing.assert_allclose(beside[:1], alone, rtol=1e-3, atol=1e-3)
    assert np.abs(beside[2] - beside[0]).max() > 0.1  # the same class from other noise
    assert np.abs(latents([4], seed=6) - alone).max() > 0.1


def test_noise_that_is_added_can_be_injected(pair):
    _, config, params = pair
    (start, theirs), (added, added_theirs) = draw(2, 8, 8, 4), draw(4, 2, 8, 8, 4, seed=1)
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    half = theirs.movedim(-1, 1)
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            output = pair[0](half, timestep=t.expand(2), class_labels=torch.tensor([3, 7])).sample[:, :4]
        noise = added_theirs[i].movedim(-1, 1)
        half = scheduler.step(output, t, half, eta=0.7, variance_noise=noise).prev_sample
    policy = Denoise(sampler=DDIM(eta=0.7), steps=4)
    found = policy.run(config, params, Asked(Injected(start, added), LABELS))
    assert_close(found.latents, half.movedim(1, -1), 1e-4)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", by_tier())
def test_every_denoiser_is_run(name):
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    params, condition = random_params(config.spec()), condition_of(name)
    other = jax.tree.map(jnp.zeros_like, condition)
    noise = drawn(0, 2, (8, 8, config.projections.in_channels))
    sampler = DDIM() if config.num_times == 1 else FlowMapEuler()
    found = Denoise(sampler=sampler, steps=2, guidance=CFG(3.0)).run(
        config, params, Asked(noise, condition, other)
    )
    plan, step = sampler.plan(2), quick_jit(config.denoise)
    x = noise.first() * plan.start
    for i, t in enumerate(plan.times):
        times = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (2, *t.shape))
        c, u = (step(params, x, times, each).prediction for each in (condition, other))
        predicted = Predicted(u + 3 * (c - u), x, plan.alpha[i], plan.sigma[i], sampler.prediction)
        x, _ = sampler.step(predicted, jax.tree.map(lambda row, i=i: row[i], plan.rows), (), None)
    np.testing.assert_allclose(found.latents, x, atol=1e-3 * np.abs(x).max())


# --- compiled properties ------------------------------------------------------------------------------


@pytest.fixture
def compilations():
    """How many programs were compiled so far in the test."""
    seen = []

    def note(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield lambda: len(seen)
    jax.monitoring.unregister_event_duration_listener(note)


def test_another_seed_class_or_strength_compiles_nothing(pair, compilations):
    _, config, params = pair

    def latents(seed, labels, guidance, sampler):
        asked = Asked(drawn(seed, 2, (8, 8, 4)), jnp.array(labels), NONE)
        policy = Denoise(sampler=sampler, steps=6, guidance=guidance)
        return np.asarray(policy.run(config, params, asked).latents)

    for first, second, sampler in (
        (CFG(2), CFG(7.5), DDIM()),
        (Rescaled(2.0), Rescaled(5.0, 0.1), DDIM()),
        (Interval(ZeroStar(2.0)), Interval(ZeroStar(3.0, 2), 0.2, 0.7), FlowEuler()),
    ):
        one = latents(0, [1, 2], first, sampler)
        before = compilations()
        others = (
            latents(1, [1, 2], first, sampler),
            latents(0, [1, 5], first, sampler),
            latents(0, [1, 2], second, sampler),
        )
        assert compilations() == before
        assert all(np.abs(other - one).max() > 0.01 for other in others)


def lowered(config, steps):
    policy = Denoise(sampler=DDIM(), steps=steps, guidance=CFG(2.0))
    asked = Asked(drawn(0, 2, (32, 32, 4)), LABELS, NONE)
    tables = policy.prepare(config, asked)
    return whole_run.lower(policy, abstract_params(config.spec()), asked, tables, denoiser=config)


def test_one_program_for_all_steps_whose_memory_does_not_grow_with_them():
    sizes = {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 2, "sample_size": 32}
    config = denoiser_from_config({"_class_name": "DiTTransformer2DModel", **sizes})
    temporary, lengths = {}, {}
    for steps in (5, 50):
        program = lowered(config, steps)
        compiled = program.compile()
        assert "callback" not in compiled.as_text()
        temporary[steps] = compiled.memory_analysis().temp_size_in_bytes
        lengths[steps] = len(program.as_text())
    # Of each step and canvas: the features of its time, a few times over, and a condition for each block.
    rows = 45 * 4 * (3 * 256 + 2 * 384) * 4
    assert temporary[50] - temporary[5] <= rows < 0.1 * temporary[5]
    assert lengths[50] < 1.02 * lengths[5]


# --- bad input ----------------------------------------------------------------------------------------


def test_latents_that_are_not_finite_are_refused_with_their_call(pair):
    _, config, params = pair
    asked = Asked(Injected(draw(2, 8, 8, 4)[0].at[1, 2, 3, 0].set(jnp.nan)), LABELS)
    with pytest.raises(NotFinite, match="behind call 1 of 5 of the model: look for"):
        Denoise(sampler=DDIM(), steps=5).run(config, params, asked)
    added = draw(5, 2, 8, 8, 4)[0].at[3, 0, 0, 0, 0].set(jnp.inf)
    asked = Asked(Injected(draw(2, 8, 8, 4)[0], added), LABELS)
    with pytest.raises(NotFinite, match="behind call 4 of 5 of"):
        list(Denoise(sampler=DDIM(eta=1.0), steps=5).stream(config, params, asked))


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"unconditional": NONE}, "asked has an unconditional condition, but guidance=None"),
        ({"guidance": CFG(2.0)}, {}, r"asked has no unconditional condition, but guidance=CFG\(scale=2.0"),
        ({"sampler": DDIM(eta=1.0)}, {}, r"the sampler adds noise \[3, 2, 8, 8, 4\], got none"),
        ({}, {"noise": Injected(jnp.zeros((2, 7, 8, 4)))}, "2 x 2 do not divide an image of 7 x 8"),
        ({}, {"condition": jnp.zeros(3, int)}, r"integers \[2\] from 0 to 10"),
        ({"steps": 0}, {}, "steps must be a whole number >= 1 .*got 0"),
        ({"steps": 1001}, {}, "steps"),
        ({"sampler": DDIM}, {}, "sampler must be one such as"),
        ({"guidance": 3.0}, {}, r"guidance must be one such as CFG\(4.0\), got 3.0"),
        ({"guidance": Residual()}, {}, r"guidance must be one such as CFG\(4.0\), got Residual\("),
        ({"cache": None}, {}, r"cache must be one such as NoCache\(\), got None"),
    ],
)
def test_what_does_not_fit_is_refused(pair, options, changes, message):
    _, config, params = pair
    asked = dataclasses.replace(Asked(Injected(draw(2, 8, 8, 4)[0]), LABELS), **changes)
    with pytest.raises(ValueError, match=message):
        Denoise(**{"sampler": DDIM(), "steps": 3} | options).run(config, params, asked)
