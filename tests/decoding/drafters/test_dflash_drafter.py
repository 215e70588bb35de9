"""Blocks drafted in one pass leave generations as they are, on every kind of model."""

import functools
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest
from dflash_heads import HEADS, head, params_of
from model_helpers import VOCAB, random_params
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from step_enumeration import VOCAB as FEW
from strategy_helpers import MODELS, architecture, assert_same_generation, decode, expected, stop_inside

from jaxmodels.decoding import Autoregressive, BlockVerification, Speculative
from jaxmodels.decoding.acceptance import TokenVerification
from jaxmodels.decoding.drafters import DFlashDrafter
from jaxmodels.decoding.lengths import Whole
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.models.draft_heads.slot_choice import CandidateSelector, MarkovBias, SlotConfidence
from jaxmodels.pytrees import register_dataclass


@functools.cache
def drafter(name, size=None):
    return DFlashDrafter(head=HEADS[name], params=params_of(name), size=size)


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    strategy, plain = Speculative(draft=drafter("plain"), top_logprobs=2), expected(name)
    assert_same_generation(decode(config, params, strategy), plain)
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
@pytest.mark.parametrize("kind", HEADS)
def test_every_kind_of_head_is_exact(kind):
    strategy = Speculative(draft=drafter(kind), top_logprobs=2)
    assert_same_generation(decode(*architecture("attention"), strategy), expected("attention"))


@pytest.mark.sweep
def test_processors_see_the_drafted_tokens():
    config, params = architecture("ssd")
    penalty = (RepetitionPenalty(1.5),)
    plain = decode(config, params, Autoregressive(processors=penalty, top_logprobs=2))
    strategy = Speculative(draft=drafter("convolved"), processors=penalty, top_logprobs=2)
    assert_same_generation(decode(config, params, strategy), plain)


def small(kind):
    """A head of the three tokens of `step_enumeration`, which drafts two."""
    width = {"target_vocab_size": FEW, "vocab_size": FEW, "d_model": 16, "rank": 2}
    changes = {
        "plain": {},
        "selector": {"choice": CandidateSelector(vocab_size=FEW, d_model=16, rank=2, candidates=2)},
        "markov": {
            "from_anchor": True,
            "block_size": 2,
            "choice": MarkovBias(**width),
            "confidence": SlotConfidence(d_model=16, rank=2),
        },
    }[kind]
    one = head(vocab=FEW, **{"block_size": 3, **changes})
    return DFlashDrafter(head=one, params=random_params(one.spec(), seed=4))


@pytest.mark.parametrize(
    ("kind", "rule", "processors"),
    [
        pytest.param("plain", BlockVerification(), (), id="plain-blocks"),
        pytest.param("selector", TokenVerification(), (), id="selector-tokens"),
        pytest.param("selector", BlockVerification(), PROCESSORS, id="selector-blocks"),
        pytest.param("markov", TokenVerification(), PROCESSORS, id="markov-tokens"),
    ],
)
@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution(kind, rule, processors):
    strategy = Speculative(draft=small(kind), acceptance=rule, processors=processors)
    assert_exact_step(*tiny("hybrid", 0), strategy, levels=2, kept=[0, 1, 2])


@pytest.mark.sweep
def test_a_sampled_step_of_candidates_alone_has_the_models_joint_distribution():
    strategy = Speculative(draft=small("selector"))
    assert_exact_step(*tiny("attention", 0), strategy, levels=2, kept=[0, 1, 2])


@dataclass(frozen=True)
class Unsure(Whole):
    """Ends a draft behind a token of which the drafter is less than half sure."""

    def stop(self, state, index, probability):
        return probability < 0.5


register_dataclass(Unsure, [], [])


@pytest.mark.parametrize(("bias", "most"), [(-9.0, 1), (9.0, 5)])
def test_confidence_says_how_many_tokens_are_verified(bias, most):
    """The head's own opinion, and not the probability of its tokens."""
    confident = drafter("confident")
    opinion = {"w": confident.params["confidence"]["w"] * 0, "b": jnp.full(1, bias)}
    draft = replace(confident, params={**confident.params, "confidence": opinion})
    out = decode(*architecture("attention"), Speculative(draft=draft, length=Unsure()))
    np.testing.assert_array_equal(out.tokens, expected("attention").tokens)
    np.testing.assert_array_equal(out.counters["drafted"], most * out.counters["calls"])


@pytest.mark.sweep
def test_a_head_of_fewer_tokens_drafts_them_by_their_ids():
    one, ids = head(vocab_size=7), jnp.asarray([0, 3, 4, 9, 11, 20, 28])
    params = random_params(one.spec())
    draft = DFlashDrafter(head=one, params=params, token_ids=ids, size=3)
    out = decode(*architecture("attention"), Speculative(draft=draft, top_logprobs=2))
    assert_same_generation(out, expected("attention"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": 3}, "head must be a DFlash, got 3"),
        ({"size": 0}, "size must be a whole number >= 1 and <= 4, got 0"),
        ({"size": 5}, "size must be a whole number >= 1 and <= 4, got 5"),
        ({"params": {}}, "parameters are not those of the model"),
        ({"token_ids": jnp.arange(5)}, rf"token_ids must be i32\[{VOCAB}\]"),
    ],
)
def test_what_does_not_fit_the_head_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(drafter("plain"), **changes)


def test_a_head_for_another_model_is_refused():
    one = head(target_vocab_size=31, vocab_size=31)
    draft = DFlashDrafter(head=one, params=random_params(one.spec()))
    with pytest.raises(
        ValueError, match=f"trained for a vocabulary of 31 tokens, and the target's has {VOCAB}"
    ):
        decode(*architecture("attention"), Speculative(draft=draft))
