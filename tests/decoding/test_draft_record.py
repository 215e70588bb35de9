"""A generation tells what was drafted in it, and what of it was accepted."""

import numpy as np
import pytest
from strategy_helpers import architecture, assert_same_generation, decode, expected, nearby

from jaxmodels.decoding import Draft, ModelDrafter, Speculative, TreeDrafter


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("most", [2, 5])
def test_drafts_stand_at_the_token_behind_which_they_were_drafted(most):
    config, params = architecture("ssd")
    drafter = ModelDrafter(draft=Draft(config, nearby(params, 0.2)), size=3)
    out = decode(config, params, Speculative(draft=drafter, record_drafts=most, top_logprobs=2))
    assert_same_generation(out, expected("ssd"))
    record, rounds = out.drafts, 0
    assert record.tokens.shape == (*out.tokens.shape, most)
    for row, length in enumerate(out.lengths):
        place = 0
        while place < length - 1:  # a round begins behind each token that the model said itself
            drafted, accepted = int(record.drafted[row, place]), int(record.accepted[row, place])
            assert drafted == min(3, most)
            draft, said = record.tokens[row, place], out.tokens[row, place + 1 :]
            told = min(accepted, length - 1 - place)
            assert draft[:told].tolist() == said[:told].tolist()
            if accepted < drafted and place + 1 + accepted < length:
                assert draft[accepted] != said[accepted]
            later = record.drafted[row, place + 1 :]
            place += 1 + (accepted if accepted < drafted or not later.any() else int(later.argmax()))
            rounds += 1
    assert (record.drafted > 0).sum() == rounds
    assert 0 < record.accepted.sum() < record.drafted.sum()
    if most > 3:
        np.testing.assert_array_equal(record.drafted.sum(1), out.counters["drafted"])
        assert not record.tokens[:, :, 3:].any()


@pytest.mark.sweep
def test_nothing_is_recorded_unless_it_is_asked_for():
    assert decode(*architecture("ssd"), Speculative(draft=Draft(*architecture("ssd")))).drafts is None


def test_trees_are_no_chains():
    draft = Draft(*architecture("ssd"))
    strategy = Speculative(draft=TreeDrafter(draft=draft, siblings=(2, 1)), record_drafts=2)
    with pytest.raises(
        ValueError, match=r"record_drafts=2 records chains, and draft=TreeDrafter\(...\) draf"
    ):
        decode(*architecture("ssd"), strategy)


def test_a_record_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match=r"record_drafts must be a whole number >= 1 .*, got 0"):
        Speculative(draft=Draft(*architecture("ssd")), record_drafts=0)
