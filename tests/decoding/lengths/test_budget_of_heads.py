"""A budget over the drafts of heads, which are certain where nothing is sampled."""

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import Speculative
from jaxmodels.decoding.lengths import Budget


@pytest.mark.sweep
@pytest.mark.parametrize("head", ["tiny-qwen3-eagle3", "tiny-qwen3-mtp"])
def test_greedy_text_stays_with_a_budget(head):
    model, text = jm.load("tiny-qwen3"), "import json\n"
    plain = model.generate(text, 10)
    ours = model.generate(text, 10, Speculative(draft=head, length=Budget(tokens=2)))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
