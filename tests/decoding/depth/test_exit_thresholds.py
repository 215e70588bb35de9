"""Thresholds that are not one number, and where they are looked at."""

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, peek_scored, random_params
from strategy_helpers import architecture, decode

from jaxmodels.decoding import EarlyExit
from jaxmodels.decoding.depth import Decaying, MaxProbability, PerBlock, PerPosition, PerRow, UntilConfident

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 6)
ALWAYS, NEVER = 0.0, np.inf


def depths(threshold, **options):
    """i32[B, S] of a window behind two tokens of history."""
    cache = CONFIG.init_cache(2, 9)
    _, pending = peek_scored(CONFIG, PARAMS, TOKENS[:, :2], cache)
    cache = CONFIG.commit(pending)
    depth = UntilConfident(confidence=MaxProbability(), threshold=threshold, **options)
    return peek_scored(CONFIG, PARAMS, TOKENS[:, 2:], cache, depth=depth)[1].depth.tolist()


def test_blocks_have_thresholds_of_their_own():
    assert depths(PerBlock(np.asarray([NEVER, ALWAYS, NEVER]))) == [[2] * 4] * 2
    assert depths(PerBlock(np.asarray([ALWAYS, NEVER, NEVER]))) == [[1] * 4] * 2


def test_rows_have_thresholds_of_their_own():
    assert depths(PerRow(np.asarray([ALWAYS, NEVER]))) == [[1] * 4, [3] * 4]


def test_positions_have_thresholds_of_their_own():
    values = np.asarray([NEVER, ALWAYS, NEVER, ALWAYS])
    assert depths(PerPosition(values)) == [[3, 1, 1, 1]] * 2
    assert depths(PerPosition(values, start=np.asarray([2, 3]))) == [[3, 1, 3, 1], [3, 3, 1, 3]]


def test_only_blocks_that_are_asked_about_are_left():
    assert depths(ALWAYS, asked=(1,)) == [[2] * 4] * 2
    assert depths(ALWAYS, min_layers=2) == [[2] * 4] * 2


def test_calms_threshold_decays_from_the_answers_first_token():
    walk = type(
        "Walk", (), {"window": type("Window", (), {"positions": jnp.asarray([[3, 4, 14], [9, 10, 20]])})}
    )
    decaying = Decaying(threshold=0.8, length=10, rate=3.0, start=np.asarray([4, 10]))
    expected = 0.8 * (0.9 + 0.1 * np.exp(-3.0 * np.asarray([0, 0, 1.0])))
    np.testing.assert_allclose(decaying.behind(0, walk), [expected] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerBlock(np.asarray([0.1, -0.2])), "PerBlock: thresholds must be at least 0, got .*-0.2"),
        (lambda: PerRow(np.ones((2, 2))), r"PerRow: thresholds must be numbers \[B\], got"),
        (lambda: PerPosition(np.asarray([np.nan])), "PerPosition: thresholds must be at least 0, got .*nan"),
        (lambda: Decaying(threshold=0.5, length=0), "Decaying: length must be a finite number > 0, got 0"),
        (lambda: EarlyExit(asked=()), "asked must be numbers of blocks"),
        (lambda: EarlyExit(asked=(2, 1)), r"asked must rise, got \[2, 1\]"),
        (lambda: EarlyExit(asked=(0, 3), min_layers=3), "behind block 0 no token may leave, as min_layers=3"),
        (lambda: EarlyExit(threshold="x"), "threshold must be a number, got 'x'"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": PerBlock(np.ones(4))}, "4 thresholds are for as many blocks, but the model has 3"),
        ({"threshold": PerRow(np.ones(3))}, "3 thresholds are for as many rows, but there are 4"),
        ({"threshold": PerPosition(np.ones(2), start=np.ones(3, int))}, r"start \[3\] is for as many rows"),
        (
            {"asked": (2,)},
            "no exit behind block 2 of a model of 3 blocks; the last is behind block 1",
        ),
    ],
)
def test_what_is_for_another_model_or_batch_is_refused_before_compilation(options, message):
    with pytest.raises(ValueError, match=message):
        decode(*architecture("hybrid"), EarlyExit(**options))
