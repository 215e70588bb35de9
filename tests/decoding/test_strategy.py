"""Emitting several tokens at once is emitting them one by one; counters count rows that run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.decoding.strategy import Request, emit, empty_output, record_also, row_keys, tally

STOPS, PAD, WIDTH, VOCAB = [7, -1, 11, -1], 99, 10, 13
ALL = jnp.ones((1, 1), bool)


def request(max_new=9):
    return Request(
        tokens=jnp.zeros((3, 4), jnp.int32),
        lengths=jnp.asarray([4, 1, 2]),
        max_new=jnp.asarray(max_new),
        stop_tokens=jnp.asarray(STOPS),
        pad_token=jnp.asarray(PAD),
        keys=jax.random.split(jax.random.key(0), 3),
    )


def slow(windows, counts, chosen, max_new):
    """Rows of tokens, by appending."""
    rows, done, stuck = [[], [], []], [False] * 3, [False] * 3
    for tokens, count, certain in zip(windows, counts, chosen, strict=True):
        for b in range(3):
            for token, is_chosen in zip(tokens[b][: count[b]], certain[b], strict=False):
                if not done[b] and not is_chosen:
                    done[b] = stuck[b] = True
                elif not done[b]:
                    rows[b].append(token)
                    done[b] = token in STOPS[::2] or len(rows[b]) == max_new
    return rows, done, stuck


@pytest.mark.parametrize("seed", range(8))
def test_windows_are_appended_up_to_a_stop_or_the_end(seed):
    rng = np.random.default_rng(seed)
    windows = rng.integers(VOCAB, size=(4, 3, 5))
    counts = rng.integers(6, size=(4, 3))
    max_new = int(rng.integers(1, WIDTH + 1))
    chosen = rng.random((4, 3, 5)) > (0.1 if seed % 2 else 0.0)
    rows, done, stuck = slow(windows.tolist(), counts.tolist(), chosen, max_new)
    output = empty_output(3, WIDTH, jnp.asarray(PAD))
    for tokens, count, certain in zip(windows.astype(np.int32), counts, chosen, strict=True):
        output = emit(output, request(max_new), tokens, jnp.asarray(count), chosen=jnp.asarray(certain))
    expected = [row + [PAD] * (WIDTH - len(row)) for row in rows]
    assert output.tokens.tolist() == expected
    assert output.lengths.tolist() == [len(row) for row in rows]
    assert output.done.tolist() == done
    assert output.stuck.tolist() == stuck


def test_log_probabilities_stand_beside_their_tokens():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 4, VOCAB)).astype(np.float32)
    tokens = np.asarray([[1, 2, 3, 4], [1, 7, 3, 4], [5, 6, 8, 9]], np.int32)

    @quick_jit
    def emitted(tokens, logits):
        output = record_also(empty_output(3, WIDTH, jnp.asarray(PAD)), (), 2)
        output = emit(output, request(), tokens[:, :1], 1, logits[:, :1], chosen=ALL)
        count = jnp.asarray([2, 3, 0])
        return emit(output, request(), tokens[:, 1:], count, logits[:, 1:], chosen=ALL)

    output = jax.device_get(emitted(tokens, logits))
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for b, length in enumerate((3, 2, 1)):
        assert output.lengths[b] == length
        best = np.argsort(-scores[b, :length], axis=-1)[:, :2]
        np.testing.assert_array_equal(output.log_probs.top_ids[b, :length], best)
        top = np.take_along_axis(scores[b, :length], best, axis=1)
        np.testing.assert_allclose(output.log_probs.top[b, :length], top, atol=1e-6)
        chosen = scores[b, np.arange(length), tokens[b, :length]]
        np.testing.assert_allclose(output.log_probs.chosen[b, :length], chosen, atol=1e-6)
        assert not output.log_probs.chosen[b, length:].any()


def test_recording_log_probabilities_needs_logits():
    output = record_also(empty_output(3, WIDTH, jnp.asarray(PAD)), (), 0)
    with pytest.raises(ValueError, match="`logits` must be given"):
        emit(output, request(), jnp.zeros((3, 1), jnp.int32), 1, chosen=ALL)


def test_counters_count_rows_that_run():
    output = record_also(empty_output(3, WIDTH, jnp.asarray(PAD)), ("calls", "accepted"), None)
    output = tally(output, calls=1, accepted=jnp.asarray([2, 0, 5]))
    output = emit(output, request(), jnp.asarray([[1], [7], [1]]), 1, chosen=ALL)
    output = tally(output, calls=1, accepted=jnp.asarray([1, 1, 1]))
    assert {name: values.tolist() for name, values in output.counters.items()} == {
        "calls": [2, 1, 2],
        "accepted": [3, 0, 6],
    }


def test_keys_differ_by_row_and_length():
    keys = {
        tuple(jax.random.key_data(key).tolist())
        for lengths in ([0, 0, 0], [1, 5, 1])
        for key in row_keys(request(), jnp.asarray(lengths))
    }
    assert len(keys) == 6
