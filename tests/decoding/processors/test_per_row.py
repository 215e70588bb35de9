"""A batch in which each row has a processor of its own is, row by row, what each is alone."""

import numpy as np
import pytest
from strategy_helpers import PROMPTS, architecture, decode

from jaxmodels.decoding import Autoregressive, Draft, Jacobi, MaskedDiffusion, Speculative
from jaxmodels.decoding.processors import LogitBias, NoRepeatNGram, PerRow, RepetitionPenalty, Suppress

PENALTIES = (1.0, 1.3, 2.5, 0.7)
NEW = 12


def penalties():
    return [RepetitionPenalty(penalty) for penalty, _ in zip(PENALTIES, PROMPTS, strict=False)]


@pytest.mark.sweep
@pytest.mark.parametrize("strategy", ["autoregressive", "jacobi", "speculative"])
def test_each_row_is_that_row_alone(strategy):
    config, params = architecture("attention")
    make = {
        "autoregressive": Autoregressive,
        "jacobi": lambda processors: Jacobi(window=4, processors=processors),
        "speculative": lambda processors: Speculative(
            draft=Draft(*architecture("ssd")), gamma=2, processors=processors
        ),
    }[strategy]
    rows = penalties()
    prompts = PROMPTS[: len(rows)]
    together = decode(config, params, make(processors=PerRow(rows)), prompts, NEW)
    plain = decode(config, params, Autoregressive(), prompts, NEW)
    assert (together.tokens != plain.tokens).any()
    for row, processor in enumerate(rows):
        alone = decode(config, params, Autoregressive(processors=processor), prompts[row : row + 1], NEW)
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])


def test_token_lists_of_each_row():
    config, params = architecture("attention")
    plain = decode(config, params, Autoregressive(), PROMPTS[:2], 1).tokens[:, 0]
    bans = PerRow(
        (Suppress((int(plain[0]),)), Suppress((int(plain[0] + 1) % config.vocab_size, int(plain[1]))))
    )
    banned = decode(config, params, Autoregressive(processors=(bans,)), PROMPTS[:2], 1).tokens[:, 0]
    assert (banned != plain).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "rows must be a sequence with a processor for each row"),
        (RepetitionPenalty(2.0), "rows must be a sequence with a processor for each row"),
        ((RepetitionPenalty(2.0), NoRepeatNGram(2)), "rows must be processors of one kind"),
        ((RepetitionPenalty, RepetitionPenalty), "rows must be processors of one kind"),
        ((1.0, 2.0), "rows must be processors of one kind"),
    ],
)
def test_what_are_no_rows_is_named(rows, message):
    with pytest.raises(ValueError, match=message):
        PerRow(rows)


def test_another_number_of_rows_is_named():
    config, params = architecture("attention")
    strategy = Autoregressive(processors=PerRow([RepetitionPenalty(2.0)] * 3))
    with pytest.raises(ValueError, match="PerRow has 3 processors for a batch of 2 rows"):
        decode(config, params, strategy, PROMPTS[:2], 2)


def test_lists_of_other_sizes_are_named():
    config, params = architecture("attention")
    strategy = Autoregressive(processors=PerRow((Suppress((1,)), Suppress(tuple(range(9))))))
    with pytest.raises(ValueError, match="Suppress in PerRow hold arrays of different sizes"):
        decode(config, params, strategy, PROMPTS[:2], 2)


def test_blocks_take_what_goes_by_place_alone():
    MaskedDiffusion(processors=(PerRow((LogitBias({3: 1.0}),)),))
    with pytest.raises(ValueError, match="goes by the text before a token"):
        MaskedDiffusion(processors=(PerRow((RepetitionPenalty(2.0),)),))
