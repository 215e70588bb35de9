"""The stream batch against frame by frame loops over the same noise, and against the published updates."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from denoiser_models import CONFIGS
from model_helpers import quick_jit, random_params

from jaxmodels.decoding.diffusion import Injected, StreamDiffusion, drawn
from jaxmodels.decoding.diffusion.guidance import Residual, ResidualFromFirst
from jaxmodels.decoding.diffusion.samplers import DDIM, DPMPP, LCM
from jaxmodels.decoding.diffusion.stream import next_frame
from jaxmodels.models.denoisers.families import denoiser_from_config

SAMPLER, STEPS = LCM(visited=(20, 30, 41)), 3
CLASS, NONE = jnp.array([3]), jnp.array([1000])


@pytest.fixture(scope="module")
def model():
    name = "DiTTransformer2DModel"
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name]})
    return config, random_params(config.spec())


@pytest.fixture(scope="module")
def frames():
    return jnp.asarray(np.random.default_rng(7).standard_normal((6, 8, 8, 4)), jnp.float32)


def streamed(model, frames, unconditional=None, sampler=SAMPLER, **options):
    """What the stream gives for these frames, one by one; None for frames of noise alone."""
    config, params = model
    policy = StreamDiffusion(sampler=sampler, steps=STEPS, **options)
    slots = policy.prepare(config, params, drawn(0, STEPS, (8, 8, 4)), CLASS, unconditional)
    state, given = policy.begin(slots), []
    for latents in frames:
        frame, state = policy.frame(config, params, slots, state, latents)
        given.append(np.asarray(frame))
    return given


def predictor(model):
    config, params = model
    step = quick_jit(config.denoise)

    def noise(x, time, label):
        return step(params, x[None], jnp.full(1, time, jnp.float32), label).prediction[0, ..., :4]

    return noise


def scalings(sampler):
    """Of each step: time, alpha, sigma, and the shares of the canvas and of clean data, as published."""
    times = (np.arange(50, 0, -1) * 20 - 1)[list(sampler.visited)]
    products = sampler.noise.products[times]
    scaled = 10.0 * times
    return zip(
        times,
        np.sqrt(products),
        np.sqrt(1 - products),
        0.25 / (scaled**2 + 0.25),
        scaled / np.sqrt(scaled**2 + 0.25),
        strict=True,
    )


def test_without_guidance_each_frame_goes_through_the_loop_of_a_consistency_model(model, frames):
    noise, predict = drawn(0, STEPS, (8, 8, 4)).first(), predictor(model)
    given = streamed(model, frames)
    for number in range(len(frames) - STEPS + 1):
        clean = frames[number]
        for i, (time, alpha, sigma, skip, out) in enumerate(scalings(SAMPLER)):
            x = alpha * clean + sigma * noise[i]
            clean = skip * x + out * (x - sigma * predict(x, time, CLASS)) / alpha
        np.testing.assert_allclose(given[number + STEPS - 1], clean, atol=1e-3 * np.abs(clean).max())


@pytest.mark.parametrize("policy", [Residual, ResidualFromFirst])
def test_guidance_is_the_published_one(model, frames, policy):
    scale, delta, predict = 1.4, 0.8, predictor(model)
    initial = list(drawn(0, STEPS, (8, 8, 4)).first())
    steps = list(scalings(SAMPLER))
    canvases, stock, wanted = initial[1:], initial[1:], []
    for latents in frames:
        x = [steps[0][1] * latents + steps[0][2] * initial[0], *canvases]
        stock = [initial[0], *stock]
        if policy is ResidualFromFirst:
            stock[0] = predict(x[0], steps[0][0], NONE)
        clean, led = [], []
        for i, (time, alpha, sigma, skip, out) in enumerate(steps):
            away = delta * stock[i]
            noise = away + scale * (predict(x[i], time, CLASS) - away)
            clean.append(skip * x[i] + out * (x[i] - sigma * noise) / alpha)
            alone = sigma * stock[i]
            led.append(skip * alone + out * (alone - sigma * noise) / alpha)
        behind = list(zip(steps[1:], initial[1:], clean[:-1], led[:-1], strict=True))
        canvases = [step[1] * data + step[2] * noise for step, noise, data, _ in behind]
        stock = [noise + step[1] / step[2] * rest for step, noise, _, rest in behind]
        wanted.append(clean[-1])
    unconditional = NONE if policy is ResidualFromFirst else None
    given = streamed(model, frames, unconditional, guidance=policy(scale, delta))
    np.testing.assert_allclose(given[2:], wanted[2:], atol=2e-3 * np.abs(wanted[2:]).max())


def test_a_stock_that_the_model_predicts_stays(model, frames):
    """A model whose noise is that which was put in: the stock is its fixed point."""
    config, params = model
    noise = drawn(0, STEPS, (8, 8, 4))
    policy = StreamDiffusion(sampler=SAMPLER, steps=STEPS, guidance=Residual(3.0))
    slots = policy.prepare(config, params, noise, CLASS)

    class Knowing(type(config)):
        def finish(self, params, streams, made, height, width):
            return noise.first()

    knowing = Knowing(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    state = policy.begin(slots)
    for latents in frames:
        found, state = policy.frame(knowing, params, slots, state, latents)
        np.testing.assert_allclose(state.stock, noise.first()[1:], atol=1e-4)
    np.testing.assert_allclose(found, frames[-STEPS], atol=1e-3)


def test_frames_of_noise_alone_and_other_samplers(model):
    given = streamed(model, [None] * 5, sampler=DDIM())
    np.testing.assert_allclose(
        given[3], given[4], atol=1e-4 * np.abs(given[3]).max()
    )  # always the same noise
    assert np.abs(given[1] - given[2]).max() > 0.01


def test_one_program_for_all_frames_strengths_and_seeds(model, frames):
    config, params = model
    streamed(model, frames[:2], guidance=Residual(1.2))
    before = next_frame.count()
    streamed(model, frames, guidance=Residual(2.0, 0.5))
    assert next_frame.count() == before
    policy = StreamDiffusion(sampler=SAMPLER, steps=STEPS, guidance=Residual(1.2))
    slots = policy.prepare(config, params, drawn(1, STEPS, (8, 8, 4)), CLASS)
    lowered = next_frame.lower(policy, params, slots, frames[0], policy.begin(slots), denoiser=config)
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * 2 * 8 * 8 * 4 * 4  # canvases and stock stay in their place


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": drawn(0, 2, (8, 8, 4))}, "noise: expected that of 3 canvases, one for each step, got 2"),
        ({"unconditional": NONE}, "an unconditional condition is given, but guidance=None"),
        ({"guidance": ResidualFromFirst()}, "no unconditional condition is given, but guidance=ResidualFrom"),
        ({"condition": jnp.array([1, 2])}, r"integers \[1\] from 0 to 1000"),
        ({"sampler": DPMPP()}, "remembers earlier steps, which frames in a stream do not"),
        ({"sampler": LCM(visited=(1, 2))}, r"steps=3, but visited=\(1, 2\) are 2 steps"),
        ({"guidance": 1.2}, r"guidance must be one such as Residual\(1.2\), got 1.2"),
    ],
)
def test_what_does_not_fit_is_refused(model, change, message):
    given = {"noise": Injected(jnp.zeros((3, 8, 8, 4))), "condition": CLASS, "sampler": SAMPLER} | change
    options = {name: given.pop(name) for name in ("sampler", "guidance") if name in given}
    with pytest.raises(ValueError, match=message):
        StreamDiffusion(steps=STEPS, **options).prepare(*model, **given)


def test_a_frame_of_another_size_is_refused(model):
    config, params = model
    policy = StreamDiffusion(sampler=SAMPLER, steps=STEPS)
    slots = policy.prepare(config, params, drawn(0, STEPS, (8, 8, 4)), CLASS)
    with pytest.raises(ValueError, match=r"latents: expected \[8, 8, 4\], got \[4, 8, 4\]"):
        policy.frame(config, params, slots, policy.begin(slots), jnp.zeros((4, 8, 4)))
