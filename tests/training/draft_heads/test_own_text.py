"""Windows that a model wrote itself begin with the text and go on as it does."""

import numpy as np
import pytest
from strategy_helpers import architecture

from jaxmodels.model import Model
from jaxmodels.training.draft_heads.own_text import own_text


def test_windows_are_places_of_the_text_and_what_the_model_says_next():
    config, params = architecture("ssd")
    model, text = Model(config=config, params=params), np.random.default_rng(1).integers(29, size=40)
    windows = own_text(model, text, windows=5, window=9, prompt=4, batch_size=3)
    assert windows.shape == (5, 9)
    places = {tuple(text[i : i + 4]) for i in range(37)}
    for row in windows:
        assert tuple(row[:4]) in places
    plain = model.generate(windows[:, :4].astype(np.int32), 5, stop_tokens=[])
    np.testing.assert_array_equal(windows[:, 4:], plain.tokens)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"windows": 0}, "windows must be a whole number >= 1"),
        ({"windows": 1, "window": 4, "prompt": 4}, "prompt must be a whole number >= 1 and <= 3, got 4"),
        ({"windows": 1, "prompt": 50}, "the text has 40 tokens, fewer than one prompt of 50"),
    ],
)
def test_sizes_that_leave_no_window_are_refused(sizes, message):
    config, params = architecture("ssd")
    model = Model(config=config, params=params)
    with pytest.raises(ValueError, match=message):
        own_text(model, np.zeros(40, np.int32), **sizes)
