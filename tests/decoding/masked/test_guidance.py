"""Classifier-free guidance as LLaDA has it."""

import jax
import numpy as np
import pytest

from jaxmodels.decoding.masked.guidance import ClassifierFree


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_logits_are_pushed_away_from_those_without_the_prompt(weight):
    c, u = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    ours = jax.jit(lambda guidance: guidance.combine(c, u))(ClassifierFree(weight))
    np.testing.assert_allclose(ours, u + (weight + 1) * (c - u), rtol=1e-5, atol=1e-6)


def test_the_other_canvas_lacks_every_token_of_the_prompt():
    tokens, is_prompt = np.array([[1, 2, 9, 3]]), np.array([[True, True, False, False]])
    assert ClassifierFree(1.0).unconditional(tokens, is_prompt, 9).tolist() == [[9, 9, 9, 3]]


def test_what_cannot_be_guided_is_refused():
    with pytest.raises(ValueError, match="weight must be a finite number >= 0, got -1"):
        ClassifierFree(-1)
    with pytest.raises(ValueError, match="the model has no mask token"):
        ClassifierFree(1.0).unconditional(np.zeros((1, 2)), np.zeros((1, 2), bool), None)
