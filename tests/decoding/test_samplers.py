"""Samplers against transformers' logits processors, and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.samplers import Greedy, Sample, most_probable

LOGITS = np.random.default_rng(0).normal(size=(5, 37)).astype(np.float32) * 3


TIED = np.random.default_rng(1).integers(-3, 4, size=(5, 37)).astype(np.float32)


def reference(sample: Sample, logits: np.ndarray = LOGITS) -> np.ndarray:
    processors = [TemperatureLogitsWarper(sample.temperature)]
    if sample.top_k is not None:
        processors.append(TopKLogitsWarper(sample.top_k))
    if sample.top_p is not None and sample.top_p < 1:
        processors.append(TopPLogitsWarper(sample.top_p))
    if sample.min_p is not None:
        processors.append(MinPLogitsWarper(sample.min_p))
    if sample.typical_p is not None:
        processors.append(TypicalLogitsWarper(sample.typical_p))
    if sample.epsilon_cutoff is not None:
        processors.append(EpsilonLogitsWarper(sample.epsilon_cutoff))
    if sample.eta_cutoff is not None:
        processors.append(EtaLogitsWarper(sample.eta_cutoff))
    scores = torch.tensor(logits)
    for processor in processors:
        scores = processor(None, scores)
    return torch.softmax(scores, -1).numpy()


@pytest.mark.parametrize(
    "sample",
    [
        Sample(temperature=0.7),
        Sample(temperature=1.3, top_k=5),
        Sample(top_k=1000),
        Sample(top_p=0.8),
        Sample(top_p=1e-6),
        Sample(top_p=1.0),
        Sample(min_p=0.1),
        Sample(min_p=1.0),
        Sample(min_p=0.0),
        Sample(temperature=0.5, top_k=20, top_p=0.9, min_p=0.05),
        Sample(typical_p=0.4),
        Sample(typical_p=1e-6),
        Sample(epsilon_cutoff=0.03),
        Sample(epsilon_cutoff=0.999),
        Sample(eta_cutoff=0.05),
        Sample(temperature=1.5, top_k=20, top_p=0.9, typical_p=0.8, epsilon_cutoff=0.02, eta_cutoff=0.05),
    ],
    ids=str,
)
def test_the_filtered_distribution_is_that_of_transformers(sample):
    ids, logits = sample.candidates(jnp.asarray(LOGITS))
    ours = np.zeros_like(LOGITS)
    np.put_along_axis(ours, np.asarray(ids), np.asarray(jax.nn.softmax(logits, -1)), axis=1)
    expected = reference(sample)
    assert ((ours > 0) == (expected > 0)).all()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(sample.probabilities(jnp.asarray(LOGITS)), expected, atol=1e-6)
    windows = sample.probabilities(jnp.asarray(LOGITS)[None])
    np.testing.assert_allclose(windows[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "sample",
    [Sample(min_p=0.2), Sample(typical_p=0.5), Sample(epsilon_cutoff=0.05), Sample(eta_cutoff=0.3)],
    ids=str,
)
def test_equals_are_kept_or_dropped_together_as_in_transformers(sample):
    np.testing.assert_allclose(sample.probabilities(TIED), reference(sample, TIED), atol=1e-6)


def awkward_logits(seed: int) -> np.ndarray:
    """Rows of random, tied, steep, flat, filtered, signed-zero and equal logits."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(7, 203)) * np.array([[3.0], [1.0], [30.0], [1e-3], [2.0], [1.0], [0.0]])
    rows[1] = np.round(rows[1])
    rows[4, rng.random(203) < 0.9] = -np.inf
    rows[5] = np.where(rng.random(203) < 0.5, 0.0, -0.0)
    return rows.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mass", [1e-9, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_the_fewest_most_probable_tokens_are_those_found_by_sorting(mass, seed):
    logits = awkward_logits(seed)
    exact = logits.astype(np.float64)
    weights = np.exp(exact - exact.max(-1, keepdims=True))
    probabilities = weights / weights.sum(-1, keepdims=True)
    order = np.argsort(-exact, axis=-1, kind="stable")
    in_order = np.take_along_axis(probabilities, order, axis=-1)
    before = np.empty_like(probabilities)
    np.put_along_axis(before, order, np.cumsum(in_order, -1) - in_order, axis=-1)
    ours = np.asarray(jax.jit(most_probable)(logits, mass))
    certain = (np.abs(before - mass) > 1e-6) & (probabilities > 0)  # nearer, rounding decides
    assert certain.any(-1).all()
    np.testing.assert_array_equal(ours[certain], ((before < mass) | (mass == 1))[certain])


@pytest.mark.parametrize(
    "sample", [Sample(top_p=0.9), Sample(typical_p=0.5), Sample(top_k=99, top_p=0.9)], ids=str
)
def test_the_vocabulary_is_not_sorted(sample):
    text = jax.jit(sample.candidates).lower(LOGITS).as_text()
    assert "sort" not in text and "top_k" not in text


def test_samples_follow_the_filtered_distribution():
    sample = Sample(temperature=0.8, top_k=3)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = np.asarray(sample(jnp.broadcast_to(LOGITS[0], (4000, 37)), keys))
    frequencies = np.bincount(drawn, minlength=37) / 4000
    np.testing.assert_allclose(frequencies, reference(sample)[0], atol=0.03)


def test_greedy_is_certain_of_what_it_takes():
    probabilities = Greedy().probabilities(jnp.array([[[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]]]))
    assert probabilities.tolist() == [[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]


def test_greedy_takes_the_first_of_equals():
    assert Greedy()(jnp.array([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]]), None).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sample(temperature=0.0), "temperature must be a finite number > 0, got 0.0"),
        (lambda: Sample(temperature=-1), "temperature .* got -1"),
        (lambda: Sample(temperature=float("nan")), "temperature .* got nan"),
        (lambda: Sample(temperature=float("inf")), "temperature .* got inf"),
        (lambda: Sample(top_p=0.0), "top_p .* > 0 and <= 1, got 0.0"),
        (lambda: Sample(top_p=1.5), "top_p .* got 1.5"),
        (lambda: Sample(min_p=-0.1), "min_p .* >= 0 and <= 1, got -0.1"),
        (lambda: Sample(temperature=np.float32("nan")), "temperature .* finite number > 0, got .*nan"),
        (lambda: Sample(top_p=jnp.asarray(2.0)), "top_p .* got"),
        (lambda: Sample(temperature="hot"), "temperature must be a number, got 'hot'"),
        (lambda: Sample(top_k=0), "top_k .* got 0"),
        (lambda: Sample(top_k=True), "top_k .* got True"),
        (lambda: Sample(top_k=2.5), "top_k .* got 2.5"),
        (lambda: Sample(typical_p=0), "typical_p .* > 0 and <= 1, got 0"),
        (lambda: Sample(epsilon_cutoff=-0.1), "epsilon_cutoff .* got -0.1"),
        (lambda: Sample(eta_cutoff=2), "eta_cutoff .* got 2"),
        (lambda: Autoregressive(top_logprobs=-1), "top_logprobs .* got -1"),
        (lambda: Autoregressive(prefill_window=0), "prefill_window .* got 0"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_and_jax_are_numbers():
    sample = Sample(temperature=np.float32(0.5), top_k=np.int64(3), top_p=jnp.asarray(0.5))
    plain = Sample(temperature=0.5, top_k=3, top_p=0.5)
    np.testing.assert_array_equal(sample.probabilities(LOGITS), plain.probabilities(LOGITS))
    assert hash(sample.top_k) == hash(3) and type(sample.top_k) is int
    assert jax.tree.structure(sample) == jax.tree.structure(plain)
