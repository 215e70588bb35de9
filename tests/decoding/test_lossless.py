"""Every way to draft gives the text of sequential decoding, on bundled models that predict next tokens.

Prompts of different lengths, a penalty, and a stop token that falls into accepted windows. That they do on a
random model of every kind of mixer is tested beside each drafter.
"""

import functools

import pytest
from strategy_helpers import assert_same_generation, decode, stop_inside

import jaxmodels as jm
from jaxmodels.decoding import (
    Autoregressive,
    Draft,
    FirstLayers,
    Jacobi,
    Lookahead,
    MultiBlock,
    PathsDrafter,
    PromptLookup,
    Speculative,
    SuffixDecoding,
    TreeDrafter,
    processors,
)

pytestmark = pytest.mark.sweep

PROMPTS = [
    "def add(a, b):\n    return",
    "import os\nimport",
    "class Stack:\n    def __init__(self, items):\n        self.items = items\n\n    def push(self",
    "for i in",
]
# By model: another one that drafts for it.
MODELS = {
    "tiny-qwen3": "tiny-mamba2",
    "tiny-mamba2": "tiny-qwen3",
    "tiny-hybrid-moe": "tiny-mamba2",
    "tiny-llama-lists": "tiny-llama-lists",
}
RULES = (processors.RepetitionPenalty(1.1),)
NEW = 20
DRAFTERS = {
    "another model": lambda draft: draft,
    "a tree": lambda draft: TreeDrafter(draft=draft, siblings=(3, 2, 1)),
    "paths": lambda draft: PathsDrafter(draft=draft, paths=2, length=3, trunk=1),
    "prompt lookup": lambda _: PromptLookup(size=4),
    "suffix": lambda _: SuffixDecoding(size=7, least=1),
    "first layers": lambda _: FirstLayers(layers=1, size=3),
    "lookahead": lambda _: Lookahead(window=3, levels=3, guesses=3, pool=64),
    "several blocks": lambda _: MultiBlock(block=6, blocks=2, pool=2),
}


@functools.cache
def sequential(name):
    """(model, rows of tokens, a stop token, what sequential decoding gives)"""
    model = jm.load(name)
    rows = [model.tokenizer.encode(text) for text in PROMPTS]
    plain = Autoregressive(processors=RULES, top_logprobs=2)
    free = decode(model.config, model.params, plain, prompts=rows, new=NEW)
    stop = (stop_inside(free.tokens),)
    return model, rows, stop, decode(model.config, model.params, plain, prompts=rows, new=NEW, stop=stop)


# Each way with half of the models, each model with half of the ways.
PAIRS = [
    (name, drafter)
    for i, name in enumerate(MODELS)
    for j, drafter in enumerate(DRAFTERS)
    if (i + j // 2) % 2 == 0
]


@pytest.mark.parametrize(("name", "drafter"), PAIRS)
def test_drafts_change_nothing(name, drafter):
    model, rows, stop, expected = sequential(name)
    other = jm.load(MODELS[name])
    draft = DRAFTERS[drafter](Draft(other.config, other.params))
    strategy = Speculative(draft=draft, processors=RULES, top_logprobs=2)
    ours = decode(model.config, model.params, strategy, prompts=rows, new=NEW, stop=stop)
    assert_same_generation(ours, expected)


@pytest.mark.parametrize("name", MODELS)
def test_jacobi_iteration_changes_nothing(name):
    model, rows, stop, expected = sequential(name)
    strategy = Jacobi(window=5, processors=RULES, top_logprobs=2)
    ours = decode(model.config, model.params, strategy, prompts=rows, new=NEW, stop=stop)
    assert_same_generation(ours, expected)
