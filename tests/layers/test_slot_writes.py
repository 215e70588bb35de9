import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from backend_forms import forms_of
from model_helpers import quick_jit

from jaxmodels.layers import slot_writes
from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.slot_writes import Ring, write_slots

BATCH, HEADS, SLOTS, WIDTH = 3, 2, 11, 4
RNG = np.random.default_rng(0)
BUFFER = RNG.standard_normal((BATCH, HEADS, SLOTS, WIDTH)).astype(np.float32)
# One whose features TPUs keep side by side; of the other they keep a feature's slots so.
WIDE = RNG.standard_normal((BATCH, HEADS, SLOTS, 128)).astype(np.float32)
TAGS = RNG.integers(100, size=(BATCH, SLOTS)).astype(np.int32)


@functools.cache
def compiled(*forms):
    """`write_slots`, with programs of its own for what decides between its forms while it is traced."""
    return quick_jit(lambda *arrays, ring: write_slots(*arrays, ring), static_argnames="ring")


def by_hand(buffer, new, tokens, count, slot_of):
    """Token by token; `slot_of` gives the slot of a token's number."""
    buffer = buffer.copy()
    for row in range(BATCH):
        for i in range(count[row]):
            slot = slot_of(tokens[row, i])
            if 0 <= slot < SLOTS:
                buffer[row, ..., slot, :] = new[row, ..., i, :]
    return buffer


def check(size, tokens, count, ring=None, explicit=False, buffer=BUFFER, as_lines=False):
    new = RNG.standard_normal((BATCH, HEADS, size, buffer.shape[-1])).astype(np.float32)
    tags = RNG.integers(100, size=(BATCH, size)).astype(np.int32)
    given = tokens if explicit else tokens[:, 0]
    write = functools.partial(compiled(slot_writes.MOST_SCATTERED, ByBackend.__call__), ring=ring)

    def slot_of(number):
        if ring is None or number < ring.pinned:
            return number
        return ring.pinned + (number - ring.pinned) % ring.size

    counted = np.full(BATCH, size) if count is None else count
    # Where the other tokens would have gone, a line may leave anything.
    matters = np.ones((BATCH, SLOTS), bool)
    if ring is None and not explicit and (as_lines or size > slot_writes.MOST_SCATTERED):
        for row, (numbers, n) in enumerate(zip(tokens, counted, strict=True)):
            matters[row, [i for i in numbers[n:] if i < SLOTS]] = False
    ours, expected = write(buffer, new, given, count), by_hand(buffer, new, tokens, counted, slot_of)
    np.testing.assert_array_equal(*(np.swapaxes(a, 1, 2)[matters] for a in (ours, expected)))
    ours = write(TAGS, tags, given, count)
    expected = by_hand(TAGS[..., None], tags[..., None], tokens, counted, slot_of)[..., 0]
    np.testing.assert_array_equal(ours[matters], expected[matters])


@pytest.mark.parametrize("most_scattered", [64, 3], ids=["slot_by_slot", "as_slices"])
@pytest.mark.parametrize("size", [1, 5, SLOTS])
def test_tokens_beyond_the_last_slot_are_dropped(monkeypatch, most_scattered, size):
    monkeypatch.setattr(slot_writes, "MOST_SCATTERED", most_scattered)
    for start in ([0, 0, 0], [0, 3, SLOTS - size], [SLOTS - 2, SLOTS, 1], [SLOTS - 1, SLOTS + 9, 0]):
        tokens = np.asarray(start)[:, None] + np.arange(size)
        for count in (None, np.asarray([size, 0, size - 1])):
            check(size, tokens, count)


@pytest.mark.parametrize("size", [1, 5, SLOTS])
def test_a_single_row_is_written_as_a_slice_and_drops_the_same_tokens(size):
    for start in (0, 3, SLOTS - size, SLOTS - 2, SLOTS - 1, SLOTS, SLOTS + 9):
        tokens = start + np.arange(size)[None]
        new = RNG.standard_normal((1, HEADS, size, WIDTH)).astype(np.float32)
        write = quick_jit(write_slots)
        kept = tokens[0] < SLOTS
        expected = BUFFER[:1].copy()
        expected[0][:, tokens[0][kept]] = new[0][:, kept]
        np.testing.assert_array_equal(write(BUFFER[:1], new, tokens[:, 0]), expected)
        tags = np.where(np.isin(np.arange(SLOTS), tokens), 7, TAGS[:1])
        np.testing.assert_array_equal(write(TAGS[:1], np.full((1, size), 7), tokens[:, 0]), tags)
        text = jax.jit(write_slots).lower(BUFFER[:1], new, tokens[:, 0]).as_text()
        assert "scatter" not in text and "while" not in text


def test_each_token_may_have_a_slot_of_its_own():
    tokens = np.asarray([[4, 0, 9], [SLOTS, 10, -1], [2, 1, 40]])
    check(3, tokens, None, explicit=True)
    check(3, tokens, np.asarray([2, 3, 1]), explicit=True)


def test_around_a_ring():
    for start in ([0, 1, 2], [9, 10, 11], [28, 29, 30]):
        tokens = np.asarray(start)[:, None] + np.arange(5)
        check(5, tokens, np.asarray([5, 3, 0]), ring=Ring(size=9, pinned=2))


@pytest.mark.sweep
@pytest.mark.parametrize("most_scattered", [64, 3], ids=["slot_by_slot", "as_slices"])
@pytest.mark.parametrize("buffer", [BUFFER, WIDE], ids=["by_feature", "by_token"])
def test_tpus_write_the_same(monkeypatch, most_scattered, buffer):
    monkeypatch.setattr(slot_writes, "MOST_SCATTERED", most_scattered)
    with forms_of("tpu"):
        for size in (1, 5, SLOTS):
            for start in ([0, 3, SLOTS - size], [SLOTS - 2, SLOTS + 9, 0]):
                tokens = np.asarray(start)[:, None] + np.arange(size)
                for count in (None, np.asarray([size, 0, size - 1])):
                    check(size, tokens, count, buffer=buffer, as_lines=True)
                    check(size, tokens, count, buffer=buffer, explicit=True)
                check(size, tokens, count, buffer=buffer, ring=Ring(size=SLOTS))


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("size", [1, 4, 300])
def test_writing_copies_no_buffer(size, rows):
    def step(buffer, new, start):
        return write_slots(buffer, new, start, start + 1)

    temporary = []
    for slots in (1024, 8192):
        buffer = jax.ShapeDtypeStruct((rows, 2, slots, 16), jnp.float32)
        new = jax.ShapeDtypeStruct((rows, 2, size, 16), jnp.float32)
        compiled = (
            jax.jit(step, donate_argnums=0)
            .lower(buffer, new, jax.ShapeDtypeStruct((rows,), jnp.int32))
            .compile()
        )
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes >= rows * 2 * slots * 16 * 4
        temporary.append(memory.temp_size_in_bytes)
    assert temporary[0] == temporary[1]
