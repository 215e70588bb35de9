"""Every form of prompts gives the same batch; bad ones are refused by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding.prompts import encode_prompts


class Letters:
    def encode(self, text):
        return [ord(c) - ord("a") for c in text]


@pytest.mark.parametrize(
    "prompts",
    [["abc", "d"], [[0, 1, 2], [3]], [np.array([0, 1, 2]), np.array([3])], [(0, 1, 2), jnp.array([3])]],
)
def test_ragged_forms_agree(prompts):
    batch = encode_prompts(prompts, Letters(), 26)
    assert batch.tokens.tolist() == [[0, 1, 2], [3, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    "prompts", ["abc", [0, 1, 2], np.array([0, 1, 2]), jnp.array([[0, 1, 2]]), [jnp.int32(0), 1, np.int64(2)]]
)
def test_single_forms_agree(prompts):
    batch = encode_prompts(prompts, Letters(), 26)
    assert batch.tokens.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "empty batch"),
        ("", "row 0 is empty"),
        (["ab", ""], "row 1 is empty"),
        ([[1], []], "row 1 is empty"),
        ([[1, 26]], "row 0 has token id 26 at position 1; the vocabulary has ids 0 to 25"),
        ([[1], [2, -1]], "row 1 has token id -1 at position 1"),
        ([[1.5]], r"row 0 must be a flat list of token ids, got \[1.5\]"),
        ([[1], [2, [3]]], r"row 1 must be a flat list of token ids, got \[2, \[3\]\]"),
        ([[10**30]], "row 0 must be a flat list of token ids"),
        ([[True]], "row 0 must be a flat list of token ids"),
        ([[2**40]], "row 0 has token id 1099511627776 at position 0"),
        (None, "prompts must be a text, a list of texts, token ids, .*, got None"),
        (b"ab", "prompts must be a text, .*, got b'ab'"),
        ({"text": "ab"}, "prompts must be a text"),
        (1.5, "prompts must be a text, .*, got 1.5"),
        (iter(["ab"]), "prompts must be a text"),
        (int, "prompts must be a text"),
        (-1, "row 0 has token id -1 at position 0"),
        ([None], "row 0 must be a flat list of token ids, got None"),
        (np.zeros((1, 2, 3), int), r"int\[S\] or int\[B, S\], got shape \[1, 2, 3\]"),
        (["ab", [1]], "mixture"),
    ],
)
def test_bad_prompts_are_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts(prompts, Letters(), 26)


@pytest.mark.parametrize("prompts", [3, np.int64(3), jnp.int32(3), np.array(3), [3], [[3]]])
def test_one_token_is_a_prompt(prompts):
    assert encode_prompts(prompts, None, 26).tokens.tolist() == [[3]]


def test_text_needs_a_tokenizer():
    with pytest.raises(ValueError, match="no tokenizer"):
        encode_prompts("abc", None, 26)
