"""A draft that sees a part of the prompt: which part, and generations that stay as they are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from strategy_helpers import PROMPTS, architecture, assert_same_generation, decode, expected, nearby, ready

from jaxmodels.decoding import Draft, Greedy, ModelDrafter, PrunedPromptDrafter, Sample, Speculative
from jaxmodels.decoding.drafters import Round
from jaxmodels.decoding.drafters.pruned_prompt import kept_places
from jaxmodels.decoding.strategy import empty_output, row_keys


def by_hand(length, droppable, scores, share, keep):
    """The rule in lists."""
    fixed = [i for i in range(length) if not droppable[i]][-keep:]
    loose = [i for i in range(length) if droppable[i]]
    budget = min(keep - len(fixed), len(loose))
    attended = sorted(loose, key=lambda i: (-scores[i], i))[: int(share * budget)]
    rest = [i for i in loose if i not in attended]
    wanted = budget - len(attended)
    even = [rest[k * (len(rest) - 1) // max(wanted - 1, 1)] for k in range(wanted)]
    assert len(set(even)) == wanted
    return sorted([*fixed, *attended, *even])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 4, 7, 19])
def test_kept_are_the_fixed_the_attended_and_those_at_even_distances(keep, share):
    rng = np.random.default_rng(keep)
    for length in (1, 3, 8, 20):
        for chance in (0.0, 0.4, 1.0):
            droppable, scores = rng.random(20) < chance, rng.random(20)
            places = kept_places(
                jnp.arange(20) < length, jnp.asarray(droppable), jnp.asarray(scores), jnp.asarray(share), keep
            )
            kept = by_hand(length, droppable, scores, share, keep)
            assert np.asarray(places)[: len(kept)].tolist() == kept
            assert len(kept) == min(keep, length)


def around(config, params, ready):
    request = ready.request
    output = empty_output(request.tokens.shape[0], 8, request.pad_token)
    return Round(
        config=config,
        params=params,
        request=request,
        output=output,
        token=jnp.ones(1, jnp.int32),
        sampler=Greedy(),
        processors=(),
        keys=row_keys(request, output.lengths),
        prefill_window=16,
        limit=jnp.full(1, 3),
        stop=lambda i, probability: probability < 0,
    )


def pruned(draft, **fields):
    return PrunedPromptDrafter(**{"draft": draft, "keep": 3, "size": 3, **fields})


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("target", "draft"),
    [
        ("attention", "attention"),
        ("hybrid", "ssd"),
        ("attention", "delta"),
    ],
)
def test_greedy_equals_autoregressive_decoding(target, draft):
    """Rows of 11, 5, 3 and 1 tokens; of the first only some tokens may be dropped."""
    config, params = architecture(draft)
    droppable = np.ones((4, 8), bool)
    droppable[2, 4:6] = False
    block = 0 if target == "attention" else 1
    drafter = pruned(Draft(config, nearby(params, 0.1)), block=block, droppable=droppable)
    out = decode(*architecture(target), Speculative(draft=drafter, top_logprobs=2))
    assert_same_generation(out, expected(target))


@pytest.mark.sweep
def test_a_whole_prompt_is_drafted_for_as_by_the_model_itself():
    config, params = architecture("attention")
    draft = Draft(config, nearby(params, 0.1))
    sampled = {"sampler": Sample(temperature=0.8)}
    ours = decode(config, params, Speculative(draft=pruned(draft, keep=11), **sampled))
    theirs = decode(config, params, Speculative(draft=ModelDrafter(draft=draft, size=3), **sampled))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    assert ours.counters["accepted"].tolist() == theirs.counters["accepted"].tolist()


def test_the_draft_keeps_what_it_would_of_the_kept_tokens_alone():
    config, params = architecture("ssd")
    droppable = np.asarray([[True] * 6 + [False] * 5])
    drafter = pruned(Draft(config, params), keep=5, droppable=droppable)
    caches = []
    for prompt in (PROMPTS[2], PROMPTS[2][6:]):
        here = around(config, params, ready(config, params, Speculative(draft=drafter), [prompt]))
        caches.append(quick_jit(functools.partial(drafter.begin, here, {}))())
    assert caches[0].length.tolist() == [5]
    jax.tree.map(np.testing.assert_array_equal, *caches)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0}, "keep must be a whole number >= 1 .*, got 0"),
        ({"size": 0}, "size must be a whole number >= 1 .*, got 0"),
        ({"attended": 1.5, "block": 0}, "attended must be a finite number >= 0 and <= 1, got 1.5"),
        ({"attended": 0.25}, "attended=0.25: .* block is None"),
        ({"block": -1}, "block must be a whole number >= 0 .*, got -1"),
        ({"droppable": np.ones(3, bool)}, r"droppable must be bool\[B, P\].* got bool\[3\]"),
        ({"droppable": "image"}, r"droppable must be bool\[B, P\].* got 'image'"),
    ],
)
def test_values_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pruned(Draft(*architecture("ssd")), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, "block=0 has no attention weights to choose by; blocks that have some: none"),
        ({"block": 9}, "block=9 has no attention weights to choose by; blocks that have some: none"),
        ({"droppable": np.ones((2, 4), bool)}, "droppable has 2 rows, and the batch has 4"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(changes, message):
    drafter = pruned(Draft(*architecture("ssd")), **changes)
    with pytest.raises(ValueError, match=message):
        decode(*architecture("ssd"), Speculative(draft=drafter))


def test_a_draft_of_another_vocabulary_is_refused():
    config, params = architecture("ssd")
    drafter = pruned(Draft(dataclasses.replace(config, vocab_size=31), params))
    with pytest.raises(ValueError, match="its vocabulary has 31 tokens and the model's 29"):
        decode(config, params, Speculative(draft=drafter))
