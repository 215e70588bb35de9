"""What speculation samples, many times over, against the model's distribution: Pearson's chi-squared."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import quick_jit
from scipy import special, stats
from step_enumeration import PROMPT, VOCAB, tiny
from strategy_helpers import decode
from transformers.generation import logits_process

from jaxmodels.decoding import (
    BlockVerification,
    Draft,
    ModelDrafter,
    MultiPathVerification,
    PathsDrafter,
    Sample,
    SampledChild,
    Speculative,
    TokenVerification,
    TraversalVerification,
    TreeDrafter,
)
from jaxmodels.decoding.processors import BadWords, FrequencyPenalty, RepetitionPenalty

ROWS, LENGTH = 4000, 3
DRAFT = Draft(*tiny("ssd", 1))
CHAIN = ModelDrafter(draft=DRAFT, size=2)
TREE = TreeDrafter(draft=DRAFT, siblings=(2, 2))
PATHS = PathsDrafter(draft=DRAFT, paths=2, length=2)
DELAYED = PathsDrafter(draft=DRAFT, trunk=1, paths=2, length=1)
PROCESSORS = (RepetitionPenalty(1.5), FrequencyPenalty(0.4), BadWords([[1, 0], [2, 2]]))


def processed(logits, history):
    """What `PROCESSORS` make of the logits behind a text, by the classes of `transformers`."""
    ids = torch.tensor([history])
    scores = logits_process.RepetitionPenaltyLogitsProcessor(1.5)(ids, torch.tensor(logits)[None])
    scores = scores - 0.4 * torch.bincount(ids[0, len(PROMPT) :], minlength=VOCAB)
    return logits_process.NoBadWordsLogitsProcessor([[1, 0], [2, 2]])(ids, scores)[0].numpy()


def chances(config, params):
    """The probability of each answer, from a full forward of it."""
    answers = list(itertools.product(range(VOCAB), repeat=LENGTH))
    texts = [[*PROMPT, *answer] for answer in answers]
    logits = np.array(quick_jit(config.forward)(params, jnp.asarray(texts)))
    found = {}
    for answer, text, of_text in zip(answers, texts, logits, strict=True):
        places = range(len(PROMPT), len(text))
        behind = [special.softmax(processed(of_text[i - 1], text[:i])) for i in places]
        found[answer] = np.prod([p[token] for p, token in zip(behind, answer, strict=True)])
    return found


def statistic(name, strategy):
    """Chi-squared and its degrees of freedom over all answers of `LENGTH` tokens to one prompt.

    Processors that rule tokens out leave answers of probability 0, which must not occur.
    """
    config, params = tiny(name, 0)
    said = decode(config, params, strategy, [PROMPT] * ROWS, new=LENGTH, seed=7)
    p = chances(config, params)
    counts = dict.fromkeys(p, 0)
    for row in said.tokens[:, :LENGTH].tolist():
        counts[tuple(row)] += 1
    possible = [s for s in p if p[s] > 0]
    assert sum(counts[s] for s in possible) == ROWS
    expected = ROWS * np.asarray([p[s] for s in possible])
    assert expected.min() > 5  # below, the statistic is not distributed as chi-squared
    observed = np.asarray([counts[s] for s in possible])
    assert said.counters["accepted"].sum() > 0
    return ((observed - expected) ** 2 / expected).sum(), len(possible) - 1


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("drafter", "rule"),
    [
        (CHAIN, TokenVerification()),
        (PATHS, MultiPathVerification()),
        (CHAIN, BlockVerification()),
        (CHAIN, SampledChild()),
        (TREE, TraversalVerification()),
        (DELAYED, MultiPathVerification()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_samples_are_distributed_as_the_models(drafter, rule):
    strategy = Speculative(draft=drafter, acceptance=rule, sampler=Sample(), processors=PROCESSORS)
    found, degrees = statistic("attention", strategy)
    assert found < stats.chi2.ppf(0.999, degrees)


def test_the_statistic_tells_a_distribution_from_a_near_one():
    """Sampled at a temperature of 1.25, the same answers are not the model's."""
    strategy = Speculative(draft=CHAIN, sampler=Sample(temperature=1.25), processors=PROCESSORS)
    found, degrees = statistic("attention", strategy)
    assert found > stats.chi2.ppf(0.999999, degrees)
