"""Rules for several blocks at once, step for step against the published loops without a model."""

import jax
import numpy as np
import pytest
from seen_cases import LENGTH, ROWS, VOCAB, choose, rows_of, seen_case

from jaxmodels.decoding.masked.unmask import Margin, Pipelined, PipelinedEntropy

INNER = 3
BLOCKS = LENGTH // INNER


class ByHand:
    """The blocks of a row as the published programs keep them: the prompt, then those that have begun."""

    def __init__(self, begin, force):
        self.begin, self.force = begin, force
        self.masks, self.is_complete = [0], [True]

    def progress(self, block):
        return 1.0 if block == 0 else 1 - self.masks[block] / INNER

    def open(self):
        """Begins at most one block, then says which are complete."""
        if len(self.masks) <= BLOCKS and self.progress(len(self.masks) - 1) >= self.begin:
            self.masks, self.is_complete = [*self.masks, INNER], [*self.is_complete, False]
        for block in range(len(self.masks) - 1):
            self.is_complete[block + 1] |= self.progress(block) >= self.force

    def places(self, block, masked):
        return [i for i in range((block - 1) * INNER, block * INNER) if masked[i]]

    def decoding_forcing(self, row, threshold, order):
        """D2F."""
        chosen = []
        for block in range(1, len(self.masks)):
            places = self.places(block, row.masked)
            above = [i for i in places if row.c[i] > threshold]
            if places and not above and self.is_complete[block]:
                above = [max(places, key=order.__getitem__)]
            self.masks[block] -= len(above)
            chosen += above
        return chosen

    def entropies(self, row, threshold):
        """d3LLM."""
        entropy = -(row.p * np.log(np.where(row.p > 0, row.p, 1))).sum(-1)
        begun = range(1, len(self.masks))
        unknown = [i for block in begun for i in self.places(block, row.masked)]
        chosen = {i for i in unknown if entropy[i] <= threshold}
        chosen |= {min(unknown, key=entropy.__getitem__)} if unknown else set()
        for block in begun:
            places = self.places(block, row.masked)
            if self.is_complete[block] and places:
                chosen |= set() if chosen & set(places) else {min(places, key=entropy.__getitem__)}
                break
        for block in begun:
            self.masks[block] -= len(chosen & set(self.places(block, row.masked)))
        return sorted(chosen)


def margin(p):
    first, second = np.sort(p, axis=-1)[:, [-1, -2]].T
    return first - second


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(("begin", "force"), [(0.1, 0.95), (0.5, 0.5), (1.0, 1.0), (0.3, 1.0)])
@pytest.mark.parametrize("kind", ["D2F", "D2F by margin", "d3LLM"])
def test_blocks_begin_and_go_on_as_in_the_published_loops(kind, begin, force):
    rows = 40
    rule = {
        "D2F": Pipelined(inner=INNER, threshold=0.7, begin=begin, force=force),
        "D2F by margin": Pipelined(inner=INNER, threshold=0.7, begin=begin, force=force, by=Margin()),
        "d3LLM": PipelinedEntropy(inner=INNER, threshold=0.7, begin=begin, force=force),
    }[kind]
    by_hand = [ByHand(begin, force) for _ in range(rows)]
    masked, in_flight = np.ones((rows, LENGTH), bool), 0
    rng = np.random.default_rng(0)
    for step in range(LENGTH + 1):
        logits = rng.standard_normal((rows, LENGTH, VOCAB)) * np.exp(rng.uniform(-1, 1.5, (rows, LENGTH, 1)))
        seen = seen_case(step, masked=masked, editable=~masked, logits=logits)
        chosen = np.asarray(choose(rule, seen))
        for b, row in enumerate(rows_of(seen)):
            if not row.masked.any():
                continue
            by_hand[b].open()
            in_flight = max(in_flight, sum(count > 0 for count in by_hand[b].masks))
            if kind == "d3LLM":
                expected = by_hand[b].entropies(row, 0.7)
            else:
                order = row.c if kind == "D2F" else margin(row.p)
                expected = by_hand[b].decoding_forcing(row, 0.7, order)
            assert np.flatnonzero(chosen[b]).tolist() == expected, (step, b)
            assert chosen[b].any()
        masked = masked & ~chosen
    assert not masked.any()
    assert (in_flight > 1) == (begin < 1)


def test_a_block_that_has_not_begun_is_left_alone():
    seen = seen_case(0, masked=np.ones((ROWS, LENGTH), bool))
    assert not choose(Pipelined(inner=6, threshold=0.0), seen)[:, 6:].any()


@pytest.mark.parametrize("rule", [Pipelined, PipelinedEntropy])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner": 0}, "inner must be a whole number >= 1 .*, got 0"),
        ({"threshold": -1}, "threshold must be a finite number >= 0, got -1"),
        ({"begin": 0}, "begin must be a finite number > 0 and <= 1, got 0"),
        ({"force": 1.1}, "force must be a finite number >= 0 and <= 1, got 1.1"),
    ],
)
def test_values_outside_their_range_are_refused(rule, arguments, message):
    with pytest.raises(ValueError, match=message):
        rule(**arguments)


def test_windows_are_whole_blocks():
    with pytest.raises(ValueError, match="inner=5 must divide the window of 12 places"):
        choose(Pipelined(inner=5), seen_case(0))
    assert jax.tree.structure(Pipelined(begin=0.3)) == jax.tree.structure(Pipelined(force=0.3))
