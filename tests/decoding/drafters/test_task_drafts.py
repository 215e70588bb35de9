"""Several drafts: the text stays the model's, the better draft is chosen, branches are verified together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB
from strategy_helpers import (
    architecture,
    assert_same_generation,
    decode,
    expected,
    nearby,
    random_like,
    stop_inside,
)

from jaxmodels.decoding import Draft, MergedDrafts, ModelDrafter, RoutedDrafts, Sample, Speculative
from jaxmodels.decoding.acceptance import BlockVerification

KINDS = {
    "routed": lambda drafts: RoutedDrafts(drafts=drafts, size=3),
    "merged": lambda drafts: MergedDrafts(drafts=drafts, length=3),
}


def drafts_of(config, params):
    """One that is nearly always right, and one that never is, but for luck."""
    return Draft(config, nearby(params, 0.02)), Draft(config, random_like(params))


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "kind"), zip(("ssd", "hybrid"), KINDS, strict=True))
def test_the_text_is_that_of_the_model(name, kind):
    config, params = architecture(name)
    strategy = Speculative(draft=KINDS[kind](drafts_of(config, params)), top_logprobs=2)
    assert_same_generation(decode(config, params, strategy), expected(name))
    stop = stop_inside(expected(name).tokens)
    assert_same_generation(decode(config, params, strategy, stop=(stop,)), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_drafts_that_were_passed_over_go_on_from_the_accepted_text():
    """Beside a draft that is the model itself, a branch of another costs nothing, in either place."""
    config, params = architecture("ssd")
    alone = Speculative(draft=ModelDrafter(draft=Draft(config, params), size=3))
    whole = decode(config, params, alone).counters["accepted"]
    itself, other = Draft(config, params), Draft(config, random_like(params))
    for drafts in ((itself, other), (other, itself)):
        ours = decode(config, params, Speculative(draft=MergedDrafts(drafts=drafts, length=3)))
        np.testing.assert_array_equal(ours.counters["accepted"], whole)
    twice = decode(config, params, Speculative(draft=RoutedDrafts(drafts=(itself, itself), size=3)))
    np.testing.assert_array_equal(twice.counters["accepted"], whole)


@pytest.mark.sweep
def test_the_confident_draft_is_chosen():
    """Logits that are scaled up are surer, and here the surer draft is the right one."""
    config, params = architecture("attention")
    unsure = jax.tree.map(jnp.zeros_like, params)  # all tokens are as likely
    drafts = (Draft(config, unsure), Draft(config, params))
    ours = decode(config, params, Speculative(draft=RoutedDrafts(drafts=drafts, size=3)))
    alone = decode(config, params, Speculative(draft=ModelDrafter(draft=Draft(config, params), size=3)))
    np.testing.assert_array_equal(ours.counters["accepted"], alone.counters["accepted"])


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_tokens_have_the_distributions_that_they_come_with(kind):
    """Many rows of one prompt: each drafted first token's frequency is its distribution."""
    config, params = architecture("ssd")
    other = Draft(config, nearby(params, 0.5))
    strategy = Speculative(draft=KINDS[kind]((Draft(config, nearby(params, 0.2)), other)), sampler=Sample())
    rows = 512
    ours = decode(config, params, strategy, prompts=[[3, 1, 4]] * rows, new=3)
    tokens = np.asarray(ours.tokens)
    first = np.bincount(tokens[:, 0], minlength=VOCAB) / rows
    # The second token, which was drafted, given the most frequent first one: against the model's own.
    usual = int(first.argmax())
    given = tokens[tokens[:, 0] == usual]
    logits = config.forward(params, jnp.asarray([[3, 1, 4, usual]]))[0, -1]
    p = np.asarray(jax.nn.softmax(logits))
    found = np.bincount(given[:, 1], minlength=VOCAB)
    cells = p * len(given) >= 5
    chi2 = (((found - p * len(given)) ** 2) / (p * len(given)))[cells].sum()
    # Far beyond any quantile that a right sampler reaches: mean + 5 standard deviations of chi-squared.
    freedom = cells.sum()
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_a_merged_tree_needs_a_rule_for_trees():
    config, params = architecture("ssd")
    drafts = drafts_of(config, params)
    strategy = Speculative(
        draft=MergedDrafts(drafts=drafts), sampler=Sample(), acceptance=BlockVerification()
    )
    with pytest.raises(ValueError, match="verifies chains"):
        decode(config, params, strategy)


@pytest.mark.parametrize("cls", [RoutedDrafts, MergedDrafts])
def test_one_draft_is_not_several(cls):
    with pytest.raises(ValueError, match="drafts must be two models or more"):
        cls(drafts=(Draft(*architecture("ssd")),))
