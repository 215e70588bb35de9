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


@pytest.mark.parametrize("prompts", ["abc", [0, 1, 2], np.array([0, 1, 2]), jnp.array([[0, 1, 2]])])
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
        ([[1.5]], "row 0 must be a flat list of token ids, got float64"),
        (np.zeros((1, 2, 3), int), r"int\[S\] or int\[B, S\], got shape \[1, 2, 3\]"),
        (["ab", [1]], "mixture"),
    ],
)
def test_bad_prompts_are_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts(prompts, Letters(), 26)


def test_text_needs_a_tokenizer():
    with pytest.raises(ValueError, match="no tokenizer"):
        encode_prompts("abc", None, 26)
