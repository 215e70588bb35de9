"""A draft's tokens told in the target's by their text, against the same done by hand and by transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import two_tokenizers
from model_helpers import VOCAB
from transformers import PreTrainedTokenizerFast
from transformers.generation.candidate_generator import AssistedCandidateGeneratorDifferentTokenizers
from two_tokenizers import DRAFT_VOCAB, symbols, told

from jaxmodels.decoding import map_texts
from jaxmodels.decoding.text_map import reencode


def made(extra=0):
    return map_texts(
        two_tokenizers.target(), two_tokenizers.draft(), VOCAB + extra, DRAFT_VOCAB + extra, longest=4
    )


def test_drafted_tokens_are_told_in_the_longest_tokens():
    """Random ones, special tokens and ids without a token among them; rows of every length."""
    rng = np.random.default_rng(0)
    drafted = rng.integers(0, DRAFT_VOCAB + 2, (300, 6))
    count = rng.integers(0, 7, 300)
    tokens, ends, sizes = jax.jit(reencode, static_argnums=3)(
        made(extra=2), jnp.asarray(drafted), jnp.asarray(count), 5
    )
    texts, seen = [*symbols(two_tokenizers.draft()), (), ()], set()
    for b in range(300):
        text = tuple(symbol for token in drafted[b, : count[b]] for symbol in texts[token])
        expected, until = told(text, two_tokenizers.target(), 5)
        assert tokens[b, : sizes[b]].tolist() == expected
        assert ends[b, : sizes[b]].tolist() == until
        seen.add((bool(expected), len(expected) == 5, until[-1:] == [len(text)], two_tokenizers.END in text))
    assert len(seen) >= 8


def generator(assistant_ids):
    """That of transformers, as it is once the assistant has read `assistant_ids`."""
    made = object.__new__(AssistedCandidateGeneratorDifferentTokenizers)
    made.target_tokenizer, made.assistant_tokenizer = (
        PreTrainedTokenizerFast(tokenizer_object=one.backend)
        for one in (two_tokenizers.target(), two_tokenizers.draft())
    )
    made.prev_assistant_ids, made.assistant_lookbehind = assistant_ids, 10
    made.main_model_max_length = None
    return made


@pytest.mark.parametrize(
    ("text", "drafted"),
    [
        ("a hen", " ate the meat"),
        ("a ton", " the cat"),
        ("the mat", " that ate"),
        ("the cat ate", " the hen"),
    ],
)
def test_it_proposes_what_transformers_does(text, drafted):
    """Where the longest diagonal that it finds is that of old text, as it is while drafts repeat none."""
    target, draft = (one.backend for one in (two_tokenizers.target(), two_tokenizers.draft()))
    ours = jnp.asarray([draft.encode(drafted).ids])
    tokens, _, count = reencode(made(), ours, jnp.asarray([ours.shape[1]]), 16)
    before, said = torch.tensor([target.encode(text).ids]), torch.tensor([draft.encode(text).ids])
    after = torch.cat([said, torch.tensor(ours.tolist())], dim=1)
    proposed = generator(said)._process_assistant_outputs(before, after)[0, before.shape[1] :]
    assert count[0] > 1
    assert tokens[0, : count[0]].tolist() == proposed.tolist()


def test_a_text_that_ends_inside_a_token_of_the_target_is_not_told_to_its_end():
    ours, theirs = symbols(two_tokenizers.target()), symbols(two_tokenizers.draft())
    long = next(text for text in ours if len(text) > 2 and text[:-1] not in ours)
    pieces = [next(i for i, text in enumerate(theirs) if text == (symbol,)) for symbol in long]
    drafted = jnp.asarray([pieces, pieces])
    tokens, ends, count = reencode(made(), drafted, jnp.asarray([len(long) - 1, len(long)]), 4)
    assert count.tolist() == [0, 1]
    assert (ours[int(tokens[1, 0])], int(ends[1, 0])) == (long, len(long))
