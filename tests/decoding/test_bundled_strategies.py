"""The bundled models draft for each other, and give what they give alone."""

import numpy as np
import pytest
from strategy_helpers import assert_same_generation, decode

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Draft, EarlyExit, Jacobi, Speculative

PROMPTS = [
    "def add(a, b):\n    return",
    "import os\nimport",
    "class Stack:\n    def __init__(self",
    "for i in",
]


PAIRS = [
    ("tiny-mamba2", "tiny-qwen3"),
    pytest.param(("tiny-qwen3", "tiny-qwen3-draft"), marks=pytest.mark.sweep),
    pytest.param(("tiny-hybrid-moe", "tiny-mamba2"), marks=pytest.mark.sweep),
]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: pair[0])
def pair(request):
    """(model, the other one)"""
    return [jm.load(name) for name in request.param]


@pytest.mark.sweep
def test_strategies_equal_autoregressive_decoding(pair):
    model, other = pair
    rows = [model.tokenizer.encode(text) for text in PROMPTS]
    decode_rows = {"prompts": rows, "new": 16, "stop": model.generation.eos_token_ids}
    plain = decode(model.config, model.params, Autoregressive(top_logprobs=2), **decode_rows)
    inner = Autoregressive(top_logprobs=2)
    accepted = {}
    for strategy in (
        Speculative(draft=Draft(other.config, other.params), gamma=3, top_logprobs=2),
        Jacobi(window=4, top_logprobs=2),
        EarlyExit(threshold=1.5, decode=inner),
    ):
        ours = decode(model.config, model.params, strategy, **decode_rows)
        assert_same_generation(ours, plain)
        accepted[type(strategy)] = ours.counters.get("accepted", np.zeros(1)).sum()
    # Trained on the same texts, they agree far more often than a model's tokens repeat themselves.
    assert accepted[Speculative] > 16
    assert accepted[Speculative] > accepted[Jacobi]
