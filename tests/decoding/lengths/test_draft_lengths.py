"""Draft lengths: their published schedules, and generations that they leave as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    architecture,
    assert_same_generation,
    bigram_draft,
    decode,
    expected,
    nearby,
    stop_inside,
)

from jaxmodels.decoding import (
    Draft,
    Lookahead,
    ModelDrafter,
    MultiBlock,
    PathsDrafter,
    PromptLookup,
    Speculative,
    SuffixDecoding,
    TreeDrafter,
)
from jaxmodels.decoding.drafters import LastVerdict, MergedDrafts, MirrorDrafter, Proposal
from jaxmodels.decoding.lengths import Budget, Confident, GrowShrink, MeanAccepted
from jaxmodels.decoding.trees import fixed_tree
from jaxmodels.pytrees import register_dataclass

LENGTHS = {
    "confident": Confident(threshold=0.4),
    "grow_shrink": GrowShrink(start=1, most=4),
    "mean_accepted": MeanAccepted(steps=(1, 2, 4), start=2, warm_up=2, every=1),
}


def test_the_mean_of_accepted_tokens_takes_the_published_steps():
    length, changes = MeanAccepted(), {}
    limit, update = quick_jit(lambda state: length.limit(state, 7)[0]), quick_jit(length.update)
    state = quick_jit(lambda: length.begin(1))()
    for round_ in range(1, 41):
        before = int(limit(state))
        state = update(state, np.asarray([before]), np.asarray([3 if round_ <= 22 else 0]))
        after = int(limit(state))
        if after != before:
            changes[round_] = after
    assert changes == {15: 5, 25: 3, 35: 1}


def test_a_draft_that_was_right_makes_the_next_longer():
    length = GrowShrink(start=3, most=6)
    state, limits = length.begin(2), []
    for count, accepted in (([3, 3], [3, 2]), ([5, 2], [5, 0]), ([6, 1], [6, 0]), ([0, 0], [0, 0])):
        state = length.update(state, jnp.asarray(count), jnp.asarray(accepted))
        limits.append(length.limit(state, 9).tolist())
    assert limits == [[5, 2], [6, 1], [6, 1], [6, 1]]


@pytest.mark.sweep
def test_a_draft_ends_behind_the_first_token_that_is_not_sure():
    config, params = architecture("attention")
    draft = Draft(config, nearby(params, 0.15))
    counts = []
    for threshold in (0.0, 0.06, 0.09, 0.13, 0.2, 1.0):  # data: one program
        strategy = Speculative(draft=ModelDrafter(draft=draft, size=4), length=Confident(threshold=threshold))
        out = decode(config, params, strategy)
        counts.append(out.counters["drafted"].sum() / out.counters["calls"].sum())
    assert counts[0] == 4
    assert counts[-1] == 1
    assert any(1 < count < 4 for count in counts)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "length"),
    [("attention", "mean_accepted"), ("delta", "confident"), *(("hybrid", length) for length in LENGTHS)],
)
def test_greedy_equals_autoregressive_decoding(name, length):
    config, params = architecture(name)
    plain = expected(name)
    drafter = ModelDrafter(draft=bigram_draft(plain.tokens, config.vocab_size), size=4)
    strategy = Speculative(draft=drafter, length=LENGTHS[length], top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert ours.counters["accepted"].sum() > 0
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "drafter"),
    [("attention", PromptLookup(size=7)), ("hybrid", SuffixDecoding(size=7, least=1))],
    ids=["lookup", "suffix"],
)
def test_drafts_from_the_text_keep_an_adaptive_length(name, drafter):
    config, params = architecture(name)
    strategy = Speculative(draft=drafter, length=LENGTHS["grow_shrink"], top_logprobs=2)
    assert_same_generation(decode(config, params, strategy), expected(name))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("threshold", "processors"), [(0.36, ()), (0.3, PROCESSORS)], ids=["plain", "processors"]
)
def test_a_sampled_step_that_stops_has_the_models_joint_distribution(threshold, processors):
    """Some of the enumerated drafts end behind their first token, some do not."""
    drafter = ModelDrafter(draft=Draft(*tiny("attention", 1)), size=2)
    strategy = Speculative(draft=drafter, length=Confident(threshold=threshold), processors=processors)
    assert_exact_step(*tiny("attention", 0), strategy, levels=2, kept=[0, 1])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Confident, {"threshold": 1.5}, "threshold must be a finite number >= 0 and <= 1, got 1.5"),
        (GrowShrink, {"start": 9, "most": 8}, "start=9 must not exceed most=8"),
        (MeanAccepted, {"start": 2}, r"start=2 must be one of steps=\(1, 3, 5, 7\)"),
        (MeanAccepted, {"steps": (3, 1)}, r"steps must ascend, got \(3, 1\)"),
        (MeanAccepted, {"start": 2.5}, "start must be a whole number, got 2.5"),
        (MeanAccepted, {"every": 0}, "every must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (GrowShrink(), GrowShrink(start=5, most=6, grow=1, shrink=0)),
        (MeanAccepted(), MeanAccepted(start=5, decay=0.5, drop=0.2, rise=0.1, warm_up=0, every=1)),
    ],
    ids=["grow_shrink", "mean_accepted"],
)
def test_other_numbers_compile_nothing(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)

    def rounds(length):
        """The limits of three rounds in which all was right."""
        state, limits = length.begin(2), []
        for _ in range(3):
            limits.append(length.limit(state, 9))
            state = length.update(state, limits[-1], limits[-1])
        return jnp.stack(limits)

    program = jax.jit(rounds)
    for length in (one, other):
        assert program(length).tolist() == rounds(length).tolist()
    assert program(one).tolist() != program(other).tolist()
    assert program._cache_size() == 1


TREES = {
    "tree": lambda draft: TreeDrafter(draft=draft, siblings=(2, 1)),
    "paths": lambda draft: PathsDrafter(draft=draft, paths=2, length=2),
    "merged": lambda draft: MergedDrafts(drafts=(draft, draft)),
}
OF_VERDICTS = {
    "last_verdict": lambda draft: LastVerdict(),
    "lookahead": lambda draft: Lookahead(),
    "multi_block": lambda draft: MultiBlock(pool=1),
}
NEVER_ASKING = {
    "lookup": lambda draft: PromptLookup(),
    "suffix": lambda draft: SuffixDecoding(),
    "mirror": lambda draft: MirrorDrafter(draft=draft, layers=1),
}


@pytest.mark.parametrize("length", [GrowShrink(), MeanAccepted()], ids=["grow_shrink", "mean_accepted"])
@pytest.mark.parametrize("name", [*TREES, *OF_VERDICTS])
def test_lengths_of_chains_refuse_what_cannot_be_cut(name, length):
    drafter = (TREES | OF_VERDICTS)[name](Draft(*architecture("ssd")))
    kinds = rf"length={type(length).__name__}\(...\) shortens chains .* draft={type(drafter).__name__}\("
    with pytest.raises(ValueError, match=kinds):
        Speculative(draft=drafter, length=length)


@pytest.mark.parametrize("name", ["paths", "merged", *OF_VERDICTS, *NEVER_ASKING])
def test_confidence_refuses_drafters_that_never_ask(name):
    drafter = (TREES | OF_VERDICTS | NEVER_ASKING)[name](Draft(*architecture("ssd")))
    kinds = rf"length=Confident\(...\) ends drafts .* draft={type(drafter).__name__}\(...\) does not ask"
    with pytest.raises(ValueError, match=kinds):
        Speculative(draft=drafter, length=Confident())


def test_a_budget_needs_what_the_length_within_it_needs():
    with pytest.raises(ValueError, match=r"length=Budget\(...\) ends drafts .* draft=PromptLookup"):
        Speculative(draft=PromptLookup(), length=Budget(tokens=3, within=Confident()))


class Twigs(PromptLookup):
    """Drafts two tokens side by side and does not say that they are no chain."""

    def begin(self, around, taps):
        return ()

    def propose(self, state, around):
        batch = around.token.shape[0]
        tokens, tree = jnp.zeros((batch, 2), jnp.int32), fixed_tree((0, 0), batch)
        return Proposal(tokens=tokens, count=jnp.full(batch, 2), tree=tree), ()


register_dataclass(Twigs, ["least"], ["size", "most", "match"])


def test_an_unannounced_tree_is_refused_when_it_is_drafted():
    config, params = architecture("ssd")
    with pytest.raises(ValueError, match=r"length=GrowShrink\(...\) shortens chains .* draft=Twigs"):
        decode(config, params, Speculative(draft=Twigs(size=2), length=GrowShrink()))
