"""The draft heads that come with the package load by name, and the model agrees with some of their drafts."""

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import Speculative

PROMPT = "import json\n\n\ndef load(path):\n    with open("


FIRST, *OTHERS = jm.list_bundled_drafters()


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(name, marks=pytest.mark.sweep) for name in OTHERS)])
def test_a_bundled_head_drafts_what_its_model_says(name):
    model = jm.load(name.rpartition("-")[0])
    plain = model.generate(PROMPT, 24, stop_tokens=[])
    ours = model.generate(PROMPT, 24, Speculative(draft=name), stop_tokens=[])
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert ours.stats.counters["accepted"] > 0
