"""The search for stop strings against a search in the text so far, and text that ends before them."""

import random

import numpy as np
import pytest

from jaxmodels.decoding.stop_strings import CutText, cut, stop_table


def first_find(strings, pieces):
    """After how many pieces their text holds a string; None if never."""
    text = b""
    for i, piece in enumerate(pieces):
        text += piece
        if any(string in text for string in strings):
            return i + 1
    return None


@pytest.mark.parametrize("seed", range(20))
def test_the_table_finds_what_a_search_of_the_text_finds(seed):
    rng = random.Random(seed)
    word = lambda low, high: "".join(rng.choices("abé", k=rng.randint(low, high)))  # noqa: E731
    strings = [word(1, 6) for _ in range(rng.randint(1, 4))]
    whole = [word(0, 4).encode() for _ in range(12)]
    data = [*whole, "é".encode()[:1], "é".encode()[1:]]  # and the two bytes of a character
    table = stop_table(strings, data, len(data) + 2, {})
    assert table.dtype == np.int16 and table.shape[0] % 32 == 0
    for _ in range(30):
        tokens = [rng.randrange(len(data) + 2) for _ in range(25)]
        state, found = 0, None
        for i, token in enumerate(tokens):
            state = table[state, token]
            if found is None and state == table.shape[0] - 1:
                found = i + 1
        pieces = [data[token] if token < len(data) else b"" for token in tokens]
        assert found == first_find([string.encode() for string in strings], pieces)


def test_a_token_without_text_ends_a_row_by_its_own_name_only():
    table = stop_table(["<end>", "ab"], [b"a", b"b", b"", b""], 4, {2: "<end>", 3: "<other>"})
    found = table.shape[0] - 1
    assert table[0, 2] == found and table[0, 3] == 0
    assert table[table[table[0, 0], 3], 1] == found  # "a", then nothing, then "b"


class Letters:
    """A decoder of ids that are characters, one character late."""

    def __init__(self):
        self.held = ""

    def push(self, ids):
        text = self.held + "".join(map(chr, ids))
        self.held = text[-1:]
        return text[:-1]

    def finish(self):
        return self.held


@pytest.mark.parametrize("seed", range(10))
def test_streamed_text_is_the_cut_text_and_never_more(seed):
    rng = random.Random(seed)
    for _ in range(40):
        text = "".join(rng.choices("ab", k=12))
        strings = ["".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(rng.randint(0, 3))]
        decoder, told, at = CutText(Letters(), strings), "", 0
        while at < len(text):
            size = rng.randint(0, 4)
            told += decoder.push([ord(character) for character in text[at : at + size]])
            at += size
            assert cut(text, strings).startswith(told)
        assert told + decoder.finish() == cut(text, strings)


def test_text_ends_before_the_string_that_is_complete_first():
    assert cut("abcd", ["bcd", "c"]) == "ab"
    assert cut("abcd", ["bc", "c"]) == "a"
    assert cut("abcd", []) == "abcd"
