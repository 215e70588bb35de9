"""When a ring of tokens is folded into its state, and that no form of a history differs from another."""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params
from recurrent_mixers import REPLAYED, commit, draw, forward, plainly

from jaxmodels.layers.spec import init_state
from jaxmodels.layers.state.replay import Replay, ReplayState
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window


@functools.partial(quick_jit, static_argnums=0)
def peek(mixer, params, x, state, start, known=None, valid=None):
    """A window in which tokens from number `known` on are draft tokens."""
    start = jnp.broadcast_to(jnp.asarray(start), x.shape[:1])
    window = Window(
        start=start,
        positions=start[:, None] + jnp.arange(x.shape[1]),
        valid=jnp.full(start.shape, x.shape[1]) if valid is None else valid,
        known=known,
    )
    return peek_window(mixer, params, x, state, window)


def replayed(name="ssd_replayed", **policy):
    """(mixer, parameters, an empty history of two rows)"""
    mixer = REPLAYED[name]
    mixer = replace(mixer, cache=Replay(**policy)) if policy else mixer
    return mixer, random_params(mixer.spec()), init_state(mixer, 2, 99, jnp.float32)


def walk(sizes, kept, *, drafting, **policy):
    """The slots in use in front of each window's tokens and behind each commit, of windows of `sizes` tokens
    of which `kept` are committed."""
    mixer, params, state = replayed(**policy)
    used, length = [], 0
    for size, n in zip(sizes, kept, strict=True):
        known = jnp.full((2,), length + 1) if drafting else None
        _, pending = peek(mixer, params, draw(2, size), state, length, known)
        state = commit(mixer, pending, jnp.full((2,), n))
        used.append((int(pending.used[0]), int(state.used[0])))
        length += n
    return used


def test_single_tokens_fill_the_ring():
    """Of four slots: full behind tokens 3 and 7, and folded then."""
    used = walk([1] * 10, [1] * 10, drafting=False, ring=4, window=1)
    assert [t for t, (_, behind) in enumerate(used) if behind == 4] == [3, 7]
    assert [before for before, _ in used] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # Room for the next window beside this one, as where the fold is decided a step ahead.
        (8, [(0, 4), (4, 8), (8, 12), (0, 4), (4, 8)]),
        (9, [(0, 4), (4, 8), (0, 4), (4, 8), (0, 4)]),
        # Room for this window is enough.
        (4, [(0, 4), (4, 8), (8, 12), (12, 16), (0, 4)]),
    ],
)
def test_windows_with_draft_tokens_leave_room(window, expected):
    assert walk([4] * 5, [4] * 5, drafting=True, ring=16, window=window) == expected


def test_rejected_tokens_free_their_slots():
    used = walk([4, 4, 4, 4], [1, 0, 3, 2], drafting=True, ring=8, window=4)
    assert used == [(0, 1), (1, 1), (1, 4), (4, 6)]


@pytest.mark.parametrize("name", REPLAYED)
def test_rows_that_fill_unevenly_are_folded_together(name):
    """Two rows keep different parts of each window; each is what it would be in one window of its tokens."""
    mixer, params, state = replayed(name)
    x = draw(2, 16)
    whole = forward(mixer, params, x)
    length = np.zeros(2, int)
    for kept in ([3, 1], [0, 2], [1, 4], [2, 0], [4, 4], [1, 1]):
        rows = [x[row, start : start + 4] for row, start in enumerate(length)]
        window = np.stack([np.pad(row, ((0, 4 - len(row)), (0, 0))) for row in rows])
        y, pending = peek(mixer, params, window, state, length, jnp.asarray(length + 1))
        for row in range(2):
            there = min(4, 16 - length[row])
            expected = whole[row, length[row] : length[row] + there]
            np.testing.assert_allclose(y[row, :there], expected, rtol=1e-4, atol=1e-5)
        state = commit(mixer, pending, jnp.asarray(kept))
        length += kept
    assert list(length) == [11, 12]


def test_draft_tokens_shown_one_by_one_are_not_folded_while_they_can_be_rejected():
    mixer, params, state = replayed(ring=6, window=4)
    _, pending = peek(mixer, params, draw(2, 2), state, 0)
    state = commit(mixer, pending)
    checkpoint = np.asarray(state.checkpoint)
    known = jnp.full((2,), 3)
    for i in range(4):
        _, pending = peek(
            mixer, params, draw(2, 1, seed=i), state, 2 + i, known, jnp.asarray([1, int(i < 2)])
        )
        state = commit(mixer, pending)
        np.testing.assert_array_equal(state.checkpoint, checkpoint)
    assert state.used.tolist() == [6, 4]


def test_a_long_window_leaves_the_ring_empty():
    mixer, params, state = replayed(ring=6, window=4)
    _, pending = peek(mixer, params, draw(2, 3), state, 0)
    state = commit(mixer, pending)
    before = plainly(state)
    _, pending = peek(mixer, params, draw(2, 5), state, 3)
    dropped = commit(mixer, pending, jnp.zeros(2, jnp.int32))
    assert isinstance(dropped, ReplayState)
    assert dropped.used.tolist() == [0, 0]
    np.testing.assert_allclose(dropped.checkpoint, before.state, rtol=1e-6)


def test_sizes_that_do_not_fit():
    for ring, window in ((4, 5), (4, 0)):
        with pytest.raises(ValueError, match=f"window={window} must be 1 to ring={ring}"):
            Replay(ring=ring, window=window)
    for ring in ("a", 16.5):
        with pytest.raises(ValueError, match=f"Replay: ring must be a whole number, got {ring!r}"):
            Replay(ring=ring)
