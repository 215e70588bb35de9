"""Chains that a parallel EAGLE-3 head drafts in one pass leave generations as they are."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest
from draft_heads import eagle3_drafter, peagle_drafter
from model_helpers import VOCAB, attention, random_params
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from step_enumeration import VOCAB as FEW
from strategy_helpers import MODELS, architecture, assert_same_generation, decode, expected, stop_inside

from jaxmodels.decoding import BlockVerification, PEagleDrafter, Speculative, TokenVerification
from jaxmodels.decoding.lengths import Whole
from jaxmodels.pytrees import register_dataclass


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_is_that_of_sequential_decoding(name):
    config, params = architecture(name)
    strategy, plain = Speculative(draft=peagle_drafter(known=13), top_logprobs=2), expected(name)
    assert_same_generation(decode(config, params, strategy), plain)
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


def small():
    """A head of the three tokens of `step_enumeration`, which drafts two."""
    head = peagle_drafter(target_vocab_size=FEW, vocab_size=FEW, mask_token=1).head
    return PEagleDrafter(head=head, params=random_params(head.spec(), seed=4), size=2)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "rule", "processors"),
    [
        ("attention", TokenVerification(), ()),
        ("hybrid", BlockVerification(), PROCESSORS),
    ],
    ids=["bare", "blocks with processors"],
)
def test_a_sampled_step_has_the_models_joint_distribution(name, rule, processors):
    strategy = Speculative(draft=small(), acceptance=rule, processors=processors)
    assert_exact_step(*tiny(name, 0), strategy, levels=2, kept=[0, 1, 2])


@dataclass(frozen=True)
class Two(Whole):
    """At most two tokens, and none behind the first where it is likely enough."""

    enough: float

    def limit(self, state, size):
        return jnp.minimum(super().limit(state, size), 2)

    def stop(self, state, index, probability):
        return probability >= self.enough


register_dataclass(Two, [], ["enough"])


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("enough", "most"), [(0.0, 1), (2.0, 2)])
def test_a_draft_is_as_long_as_its_policy_says(enough, most):
    out = decode(*architecture("attention"), Speculative(draft=peagle_drafter(), length=Two(enough)))
    np.testing.assert_array_equal(out.tokens, expected("attention").tokens)
    np.testing.assert_array_equal(out.counters["drafted"], most * out.counters["calls"])


def test_a_head_with_a_window_shorter_than_its_chain_is_exact():
    drafter = peagle_drafter()
    (block,) = drafter.head.blocks
    block = replace(block, mixer=attention(input_dim=block.mixer.input_dim, sliding_window=3))
    head = replace(drafter.head, blocks=(block,))
    draft = PEagleDrafter(head=head, params=drafter.params, size=5)
    ours = decode(*architecture("attention"), Speculative(draft=draft, top_logprobs=2))
    assert_same_generation(ours, expected("attention"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": 3}, "head must be an Eagle3 with a mask_token, got 3"),
        ({"head": eagle3_drafter().head}, "mask_token=None was not trained to draft in parallel"),
        ({"size": 0}, "size must be a whole number >= 1.* got 0"),
        ({"params": {}}, "parameters are not those of the model"),
        ({"token_ids": jnp.arange(5)}, rf"token_ids must be i32\[{VOCAB}\]"),
    ],
    ids=["kind", "recurrent", "size", "params", "ids"],
)
def test_what_does_not_fit_the_head_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(peagle_drafter(), **changes)


def test_a_mask_that_is_no_token_is_refused():
    with pytest.raises(ValueError, match="Eagle3: mask_token must be a whole number >= 0 and <= 28, got 29"):
        replace(peagle_drafter().head, mask_token=VOCAB)


def test_a_head_for_another_model_is_refused():
    head = replace(peagle_drafter().head, target_vocab_size=31, vocab_size=31)
    draft = PEagleDrafter(head=head, params=random_params(head.spec()))
    with pytest.raises(
        ValueError, match=f"trained for a vocabulary of 31 tokens, and the target's has {VOCAB}"
    ):
        decode(*architecture("attention"), Speculative(draft=draft))
