"""Flows run backwards: against a torch loop over the published tensors, and passes against single tokens."""

import jax.numpy as jnp
import numpy as np
import published_flows as published
import pytest
from diffusers_modules import draw as numbers
from flow_models import HEADS, flow
from model_helpers import quick_jit
from safetensors.torch import load_file

from jaxmodels.checkpoints.diffusers import save_flow
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.decoding.flows.drawing import FlowDrawing, draw
from jaxmodels.decoding.flows.gs_jacobi import GSJacobi, Guess
from jaxmodels.decoding.flows.inversion import SEQUENTIAL
from jaxmodels.decoding.flows.measures import StepMeasures, measure_steps, planned
from jaxmodels.decoding.flows.reading import FlowGuidance

CLASSES = jnp.array([2, 0])


@pytest.fixture(scope="module")
def model():
    return flow(num_blocks=2, layers_per_block=1)


def drawn(model, inversion, guidance=None, noise=None):
    config, params = model
    noise = numbers(2, 16, 8)[0] if noise is None else noise
    behind, passes = draw(
        params, noise, CLASSES, FlowDrawing(inversion=inversion, guidance=guidance), config=config
    )
    return behind[-1], passes


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "guidance",
    [None, FlowGuidance(scale=0.8), FlowGuidance(scale=0.8, rises=True, temperature=1.5)],
    ids=["plain", "guided", "rising"],
)
def test_tokens_are_those_of_the_published_loop(model, guidance, tmp_path):
    save_flow(model[0], model[1], tmp_path)
    state = load_file(tmp_path / f"{STEM}.safetensors")
    given = {} if guidance is None else {"guidance": guidance.scale, "rises": guidance.rises}
    given |= {} if guidance is None else {"temperature": guidance.temperature}
    expected = published.backward(state, numbers(2, 16, 8)[1], [2, 0], HEADS, **given)
    found, passes = drawn(model, SEQUENTIAL, guidance)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert passes.tolist() == [15, 15]
    again, _ = drawn(model, GSJacobi(), guidance)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-4)


def test_running_back_undoes_the_flow(model):
    config, params = model
    images = numbers(2, 8, 8, 2, seed=3)[0]
    z, _ = quick_jit(config.forward)(params, images, CLASSES)
    noise = z / jnp.sqrt(params["prior"]["variance"])
    found, _ = drawn(model, SEQUENTIAL, noise=noise)
    np.testing.assert_allclose(config.images(found), images, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "inversion",
    [
        GSJacobi(guesses=Guess.ZERO),
        GSJacobi(segments=4),
        GSJacobi(segments=(16, 0), guesses=(Guess.ZERO, Guess.NOISE)),
    ],
    ids=["from zero", "segments", "of each step"],
)
def test_passes_find_what_single_tokens_give(model, inversion):
    expected, _ = drawn(model, SEQUENTIAL)
    found, passes = drawn(model, inversion)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if inversion.segments == 1:
        assert (passes < 13).all()


def test_a_pass_makes_one_token_more_exact(model):
    expected, _ = drawn(model, SEQUENTIAL)
    exact, passes = drawn(model, GSJacobi(tolerance=0.0))
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5)
    assert (passes <= 16).all()
    rough, passes = drawn(model, GSJacobi(passes=2))
    assert passes.tolist() == [2, 2]
    assert np.abs(rough - expected).max() > 1e-3


def test_tokens_are_cut_to_the_bound(model):
    found, _ = drawn(model, GSJacobi(bound=0.5))
    first = numbers(2, 16, 8)[0][:, :1] * jnp.sqrt(model[1]["prior"]["variance"][:1])
    assert np.abs(found[:, 1:]).max() <= 0.5
    assert np.abs(first).max() > 0.5


def test_measures_are_those_of_the_paper(model):
    config, params = model
    images = numbers(5, 8, 8, 2)[0]
    found = measure_steps(config, params, images, jnp.zeros(5, jnp.int32))
    # The first step takes tokens as they are: its guesses and its convergence can be computed on the host.
    step, own, x = config.steps[0], params["steps"]["0"], np.asarray(config.tokens(images))

    @quick_jit
    def steps(tokens):
        hidden = step.trunk.forward(own["blocks"], step.embed(own, tokens, 0, jnp.zeros(5, jnp.int32)))
        return step.steps(own, hidden)

    def read(tokens):
        return (np.pad(np.asarray(a)[:, :-1], ((0, 0), (1, 0), (0, 0))) for a in steps(tokens))

    log_scale, shift = read(x)
    z = (x - shift) * np.exp(-log_scale)
    of_scale, of_shift = np.split(np.asarray(own["out"]["w"]), 2)

    def spectral(matrix):
        return np.linalg.svd(matrix, compute_uv=False)[0]

    convergence = spectral((np.exp(-log_scale) * x).mean(0)) * spectral(of_scale) + spectral(of_shift)
    np.testing.assert_allclose(found.convergence[0], convergence, rtol=1e-4)
    again, moved = read(z)
    missed = spectral((z * np.exp(again) + moved - x).mean(0))
    np.testing.assert_allclose(found.from_noise[0], missed, rtol=1e-3)


def test_dominant_steps_are_found_in_segments_from_the_better_guess():
    measures = StepMeasures(
        convergence=(8.0, 1.0, 1.0), from_noise=(1.0, 3.0, 2.0), from_zero=(2.0, 1.0, 2.0)
    )
    assert planned(measures, 4) == GSJacobi(
        segments=(4, 1, 1), guesses=(Guess.NOISE, Guess.ZERO, Guess.NOISE)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"segments": (1, 1, 1)}, "segments has 3 entries, but the flow has 2 steps"),
        ({"segments": 3}, "segments=3 must divide the 16 tokens"),
        ({"guesses": (Guess.ZERO,)}, "guesses has 1 entries, but the flow has 2 steps"),
    ],
)
def test_what_does_not_fit_the_flow_is_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        drawn(model, GSJacobi(**given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GSJacobi(segments=-1), "segments must be a whole number >= 0"),
        (lambda: GSJacobi(guesses="one"), "guesses must be 'noise' or 'zero', got 'one'"),
        (lambda: GSJacobi(passes=0), "passes must be a whole number >= 1"),
        (lambda: GSJacobi(bound=0), "bound must be a finite number > 0, got 0"),
        (lambda: FlowGuidance(scale=-1), "scale must be a finite number >= 0, got -1"),
        (lambda: FlowGuidance(scale=1, temperature=0), "temperature must be a finite number > 0, got 0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
