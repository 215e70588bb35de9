"""The EAGLE-3 head that comes with the package drafts for its model by name, and for no other."""

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Speculative

NAME = "tiny-qwen3-eagle3"
PROMPT = "import os\n\n\ndef read_lines(path, encoding='utf-8'):\n    with open(path"


@pytest.mark.sweep
def test_it_drafts_by_name():
    assert NAME in jm.list_bundled_drafters()
    model = jm.load("tiny-qwen3")
    plain = model.generate(PROMPT, 48, Autoregressive())
    ours = model.generate(PROMPT, 48, Speculative(draft=NAME))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert ours.stats.per_call["accepted"] > 0.5


def test_another_model_is_refused_before_anything_is_compiled():
    model = jm.load("tiny-llama-lists")
    with pytest.raises(jm.CheckpointError, match="it reads streams of width 256, and those of the target"):
        model.generate([[3, 5, 7]], 4, Speculative(draft=NAME))
