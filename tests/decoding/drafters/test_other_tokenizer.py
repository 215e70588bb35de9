"""A draft with another vocabulary: the text stays the model's, and what it drafts is told by id."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB, forward, random_params
from scipy.special import softmax
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    architecture,
    assert_same_generation,
    decode,
    expected,
    nearby,
    ready,
    stop_inside,
)
from test_model_drafter import around

import jaxmodels as jm
from jaxmodels.decoding import Draft, ModelDrafter, OtherTokenizer, Sample, Speculative
from jaxmodels.decoding.vocabulary_map import VocabularyMap, map_vocabularies

ORDER = np.random.default_rng(0).permutation(VOCAB)  # the model's token v is the draft's token ORDER[v]


def renamed(params):
    """The model with its tokens in another order."""
    rows = np.argsort(ORDER)

    def reordered(path, leaf):
        names = [getattr(key, "key", None) for key in path]
        return leaf[rows] if names[:1] in (["embed"], ["head"]) else leaf

    return jax.tree_util.tree_map_with_path(reordered, params)


def table(without=()):
    """The map to `renamed`; tokens `without` are not shared, and are two pieces to the draft."""
    shared = np.where(np.isin(np.arange(VOCAB), without), -1, ORDER)
    pieces = np.stack([ORDER, np.zeros_like(ORDER)], axis=1)
    for token in without:
        pieces[token] = [1, 2]
    return VocabularyMap(
        shared=jnp.asarray(shared, jnp.int32),
        pieces=jnp.asarray(pieces, jnp.int32),
        lengths=jnp.asarray(np.where(shared < 0, 2, 1), jnp.int32),
        draft_size=VOCAB,
    )


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "hybrid", "ssd"])
def test_the_text_is_that_of_the_model(name):
    config, params = architecture(name)
    often = np.bincount(expected(name).tokens.ravel(), minlength=VOCAB).argsort()[-2:]
    draft = Draft(config, renamed(nearby(params, 0.02)))
    strategy = Speculative(draft=OtherTokenizer(draft=draft, vocabulary=table(often), size=3), top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, expected(name))
    stop = stop_inside(expected(name).tokens)
    assert_same_generation(decode(config, params, strategy, stop=(stop,)), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_the_same_model_under_other_ids_drafts_as_itself():
    config, params = architecture("ssd")
    other = OtherTokenizer(draft=Draft(config, renamed(params)), vocabulary=table(), size=3)
    ours = decode(config, params, Speculative(draft=other))
    itself = decode(config, params, Speculative(draft=ModelDrafter(draft=Draft(config, params), size=3)))
    np.testing.assert_array_equal(ours.tokens, itself.tokens)
    np.testing.assert_array_equal(ours.counters["accepted"], itself.counters["accepted"])


def test_drafted_tokens_come_with_the_distribution_that_they_were_drawn_from():
    """That of the draft over the tokens that are shared, made whole, in the order of the model's ids."""
    config, params = architecture("attention")
    without = [2, 5]
    other = OtherTokenizer(draft=Draft(config, renamed(params)), vocabulary=table(without), size=5)
    request = ready(config, params, Speculative(draft=other), prompts=[[3, 1, 4]] * 4).request
    here = around(config, params, request, Sample())
    proposal, _ = jax.jit(lambda: other.propose(other.begin(here, {}), here))()
    tokens, token = np.asarray(request.tokens), np.asarray(here.token)
    text = np.concatenate([tokens[:, :3], token[:, None], proposal.tokens], axis=1)
    assert not np.isin(proposal.tokens, without).any()
    logits = np.array(forward(config, params, text))[:, 3:8]
    logits[:, :, without] = -np.inf
    np.testing.assert_allclose(proposal.distributions, softmax(logits, axis=-1), atol=1e-5)


@pytest.mark.parametrize("processors", [(), PROCESSORS], ids=["plain", "processors"])
@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution(processors):
    """A token that the draft lacks is never drafted, and another one of the draft is none of the model's."""
    config = replace(tiny("ssd", 1)[0], vocab_size=4)
    draft = Draft(config, random_params(config.spec(), 1))
    pieces = VocabularyMap(
        shared=jnp.asarray([3, -1, 0]),
        pieces=jnp.asarray([[3, 0], [1, 2], [0, 0]]),
        lengths=jnp.asarray([1, 2, 1]),
        draft_size=4,
    )
    strategy = Speculative(
        draft=OtherTokenizer(draft=draft, vocabulary=pieces, size=2), processors=processors
    )
    assert_exact_step(*tiny("hybrid", 0), strategy, levels=2, kept=[0, 1, 2])


def test_tokens_are_matched_by_their_bytes():
    """`tiny-qwen3` drafts for a model of lists of words, and the other way round."""
    code, lists = (jm.load(name).tokenizer for name in ("tiny-qwen3", "tiny-llama-lists"))
    for target, draft, sizes in ((code, lists, (4096, 64)), (lists, code, (64, 4096))):
        made = map_vocabularies(target, draft, *sizes, longest=3)
        ours, theirs = target.token_bytes(), draft.token_bytes()
        shared = np.asarray(made.shared)
        specials = {**target.special_texts()}
        found = [v for v in np.flatnonzero(shared >= 0) if v not in specials]
        assert all(ours[v] == theirs[shared[v]] for v in found)
        missing = [v for v in range(len(ours)) if shared[v] < 0 and ours[v]]
        assert not {ours[v] for v in missing} & {data for data in theirs if data} or len(set(ours)) < len(
            ours
        )
        for v in np.flatnonzero(np.asarray(made.lengths) > 1):
            joined = b"".join(theirs[p] for p in np.asarray(made.pieces)[v, : made.lengths[v]])
            assert joined == ours[v]


@pytest.mark.parametrize(
    ("size", "message"), [(VOCAB + 1, f"draft with {VOCAB + 1} tokens.*draft has {VOCAB}")]
)
def test_maps_of_other_vocabularies_are_refused(size, message):
    config, params = architecture("ssd")
    other = OtherTokenizer(draft=Draft(config, params), vocabulary=table().replace(draft_size=size), size=3)
    with pytest.raises(ValueError, match=message):
        decode(config, params, Speculative(draft=other))


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match=r"vocabulary must be a VocabularyMap.*got 3"):
        OtherTokenizer(draft=Draft(*architecture("ssd")), vocabulary=3)
