"""Modules for multi-token prediction draft for every kind of model, in turn and on their own output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draft_heads import mtp
from model_helpers import quick_jit
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
    stop_inside,
)

from jaxmodels.decoding import MTP, Autoregressive, Sample, Speculative
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.models.draft_heads.feature_head import Target


@pytest.mark.parametrize(
    ("name", "modules", "size"),
    [
        ("ssd", 1, 3),
        pytest.param("ring", 2, 2, marks=pytest.mark.sweep),
        pytest.param("delta", 2, 4, marks=pytest.mark.sweep),
        pytest.param("hybrid", 3, 5, marks=pytest.mark.sweep),
    ],
)
def test_greedy_text_is_that_of_sequential_decoding(name, modules, size):
    config, params = architecture(name)
    strategy = Speculative(draft=mtp(config, modules, size), top_logprobs=2)
    assert_same_generation(decode(config, params, strategy), expected(name))
    stop = stop_inside(expected(name).tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("modules", "size"),
    [(2, 4), (3, 2)],
)
def test_a_draft_is_what_the_modules_say_of_the_whole_text(modules, size):
    """Accepted counts are those of drafting anew at every step, without a history."""
    config, params = tiny("hybrid", 0)
    drafter = mtp(config, modules, size, seed=2)
    prompts = [[token % config.vocab_size for token in prompt] for prompt in PROMPTS]
    ours = decode(config, params, Speculative(draft=drafter), prompts)
    plain = decode(config, params, Autoregressive(), prompts)
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    anew = drafting_anew(config, params, drafter, width=max(map(len, prompts)) + NEW + size)
    for b, prompt in enumerate(prompts):
        length, calls, accepted = 1, 0, 0
        while length < NEW:
            drafted = anew([*prompt, *plain.tokens[b, :length].tolist()])[: NEW - length]
            right = np.asarray(drafted) == plain.tokens[b, length : length + len(drafted)]
            n = int(np.cumprod(right).sum())
            accepted, calls, length = accepted + n, calls + 1, length + n + 1
        assert (ours.counters["calls"][b], ours.counters["accepted"][b]) == (calls, accepted)
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()


def drafting_anew(config, params, drafter, width):
    """A function from a text to the tokens that are drafted behind it, by whole forward passes."""
    modules = drafter.head.modules[: drafter.size]

    @quick_jit
    def hidden_states(tokens):
        return config.forward_scored(params, tokens).hidden

    def module(k):
        own = drafter.params["modules"][str(k)]
        return quick_jit(
            lambda tokens, hidden: modules[k].forward(own, Target(config, params), tokens, hidden)
        )

    forwards = [module(k) for k in range(len(modules))]

    def draft(text):
        known, text = len(text), list(text)
        padded = np.zeros((1, width), np.int32)
        padded[0, :known] = text
        hidden = hidden_states(padded)
        for k in range(drafter.size):
            padded[0, : len(text)] = text
            following = np.roll(padded, -1 - min(k, len(modules) - 1), axis=1)
            if k < len(modules):
                last = known - 2
                predicted = forwards[k](following, hidden)
                read = hidden
            else:  # the last module goes on: place by place it is given what it made itself
                last += 1
                read = read.at[:, last].set(predicted.features[:, last - 1])
                predicted = forwards[-1](following, read)
            text.append(int(jnp.argmax(predicted.logits[0, last])))
            hidden = predicted.features
        return text[known:]

    return draft


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "modules", "processors"),
    [
        ("attention", 1, ()),
        ("hybrid", 2, PROCESSORS),
    ],
    ids=["one", "two_and_processors"],
)
def test_a_sampled_step_has_the_models_joint_distribution(name, modules, processors):
    config, params = tiny(name, 0)
    strategy = Speculative(draft=mtp(config, modules, size=2), processors=processors)
    assert_exact_step(config, params, strategy, levels=2, kept=[0, 1, 2])


@pytest.mark.sweep
def test_samples_do_not_depend_on_their_neighbours():
    config, params = architecture("attention")
    strategy = Speculative(
        draft=mtp(config, 2, 3), sampler=Sample(temperature=0.8), processors=(RepetitionPenalty(1.2),)
    )
    together = decode(config, params, strategy, seed=1)
    shuffled = decode(config, params, strategy, [PROMPTS[0], *reversed(PROMPTS[1:])], seed=1)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])


@pytest.mark.sweep
def test_long_prompts_are_read_in_windows():
    config, params = architecture("attention")
    prompts = [(PROMPTS[2] * 3)[:n] for n in (32, 7, 17, 1)]
    for modules in (1, 2):
        outputs = [
            decode(config, params, Speculative(draft=mtp(config, modules), prefill_window=window), prompts)
            for window in (8, 64)
        ]
        for a, b in zip(*map(jax.tree.leaves, outputs), strict=True):
            np.testing.assert_array_equal(a, b)


def test_modules_for_another_model_are_refused():
    config, params = architecture("attention")
    other, _ = architecture("hybrid")
    with pytest.raises(ValueError, match="made for a model of 3 layers, and the target has 2"):
        decode(config, params, Speculative(draft=mtp(other)))
    with pytest.raises(ValueError, match="size must be a whole number >= 1"):
        MTP(size=0)
    with pytest.raises(ValueError, match="give head and params"):
        decode(config, params, Speculative(draft=MTP()))
