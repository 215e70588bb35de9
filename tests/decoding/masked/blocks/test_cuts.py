"""Where blocks end and in which order they are filled in, against the published rules written out."""

import jax
import numpy as np
import pytest
from seen_cases import LENGTH, ROWS, rows_of, seen_case

from jaxmodels.decoding.masked.blocks import AdaBlocks, SubBlocks

end = jax.jit(lambda blocks, seen: blocks.end(seen))
candidates = jax.jit(lambda blocks, seen: blocks.candidates(seen))


@pytest.mark.parametrize("delimiters", [(3,), (3, 5, 7, 9)])
@pytest.mark.parametrize(("default", "window"), [(LENGTH, 6), (4, LENGTH), (5, 12)])
def test_blocks_end_with_the_most_probable_delimiter(default, window, delimiters):
    blocks = AdaBlocks(default=default, window=window, threshold=0.4, delimiters=delimiters)
    assert blocks.length == max(default, window) == LENGTH
    answers = np.random.default_rng(0).integers(1, LENGTH + 1, (ROWS, 1))
    seen = seen_case(8, masked=np.arange(LENGTH) < answers)
    ends = end(blocks, seen)
    for b, row in enumerate(rows_of(seen)):
        places = [
            i for i in range(min(window, len(row.unknown))) if row.proposed[i] in delimiters
        ]  # of the remaining answer
        best = max(places, key=lambda i: row.c[i], default=None)
        is_sure = best is not None and row.c[best] >= 0.4
        assert ends[b] == (best + 1 if is_sure else default)
    assert len(set(ends.tolist())) > 3


def test_sub_blocks_are_filled_in_from_the_left():
    blocks = SubBlocks(length=LENGTH, inner=4)
    seen = seen_case(9)
    ours = np.asarray(candidates(blocks, seen))
    for b, row in enumerate(rows_of(seen)):
        first = next((i for i in range(0, LENGTH, 4) if row.masked[i : i + 4].any()), 0)
        expected = row.masked & (np.arange(LENGTH) >= first) & (np.arange(LENGTH) < first + 4)
        np.testing.assert_array_equal(ours[b], expected)
    assert end(blocks, seen).tolist() == [LENGTH] * ROWS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaBlocks(window=0), "AdaBlocks: window must be a whole number >= 1 .*, got 0"),
        (lambda: AdaBlocks(threshold=-1), "AdaBlocks: threshold must be a finite number >= 0, got -1"),
        (lambda: AdaBlocks(delimiters=()), "delimiters must be a sequence of at least one token id"),
        (lambda: SubBlocks(length=12, inner=5), "inner=5 must divide length=12"),
        (lambda: SubBlocks(inner=0), "SubBlocks: inner must be a whole number >= 1 .*, got 0"),
        (lambda: AdaBlocks().check(32, 64), "AdaBlocks: the model sees blocks of 32 tokens"),
        (lambda: SubBlocks().check(1, 40), "max_new_tokens=40 is no multiple of the blocks of 32 tokens"),
        (lambda: SubBlocks(length=8).check(32, 64), "blocks of 8 tokens do not fit the model"),
    ],
)
def test_what_cannot_be_cut_so_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_answers_of_any_length_are_cut_by_their_delimiters():
    AdaBlocks().check(1, 41)
    assert jax.tree.leaves(AdaBlocks(threshold=0.5)) == [0.5]
