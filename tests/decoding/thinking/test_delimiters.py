"""Where texts think, against a search written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding.thinking import Delimiters


def places(tokens, begin, end):
    """(inside, thought) behind each token."""
    inside, thought, found = False, 0, []
    for i in range(len(tokens)):
        if inside:
            thought += 1
            if tuple(tokens[max(0, i + 1 - len(end)) : i + 1]) == end:
                inside, thought = False, 0
        elif tuple(tokens[max(0, i + 1 - len(begin)) : i + 1]) == begin:
            inside, thought = True, 0
        found.append((inside, thought))
    return found


@pytest.mark.parametrize(
    ("begin", "end"), [((1,), (2,)), ((1, 2), (2, 1)), ((1,), (0, 0, 2)), ((1, 1), (2,))]
)
def test_segments_are_found_in_texts_of_different_lengths(begin, end):
    tokens = np.random.default_rng(0).integers(0, 3, (4, 40), np.int32)
    lengths = np.asarray([40, 17, 1, 33], np.int32)
    made = Delimiters(begin=begin, end=end)
    last, each = jax.jit(made.behind)(jnp.asarray(tokens), jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        wanted = places(tokens[row, :length].tolist(), begin, end)
        found = zip(each.inside[:length, row].tolist(), each.thought[:length, row].tolist(), strict=True)
        assert list(found) == wanted
        assert (bool(last.inside[row]), int(last.thought[row])) == wanted[-1]
    assert each.inside.any() and not each.inside.all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"begin": 5, "end": 5}, r"begin and end must differ, got \[5\] for both"),
        ({"begin": (), "end": 5}, "begin must be a sequence of at least one token id"),
        ({"begin": "<think>", "end": 5}, "begin must be a sequence of token ids, got '<think>'"),
        (
            {"begin": 4, "end": (5, 6), "closing": (5, 7, 6)},
            r"closing must hold the tokens of end, \[5, 6\], in a row, got \[5, 7, 6\]",
        ),
    ],
)
def test_what_is_no_delimiter_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Delimiters(**given)
