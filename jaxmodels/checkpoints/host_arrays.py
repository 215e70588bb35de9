"""Arrays in host memory: those that JAX takes without a copy, and copies by several threads of the others."""

import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np

# XLA's CPU client adopts a host buffer without a copy only when it starts on such a boundary.
ALIGNMENT = 64

# Smaller arrays are copied: a map holds whole pages, and a process may only have so many maps.
_LEAST_ADOPTED = 2**16
# What one thread copies at a time.
_PIECE_BYTES = 2**21
# Numbers of a row of the target that are copied together where those of the source are apart.
_STRIP = 16
_MOST_THREADS = 4
# Of a map, one thread reads so much at a time, one number of each page.
_TOUCHED_BYTES, _PAGE = 2**25, 4096


def copying_threads() -> ThreadPoolExecutor:
    """The threads that `adoptable` and `copy_into` take. Memory bounds them, so that few are enough."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), "copy")


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A new array that XLA's CPU client adopts without a copy."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def adoptable(array: np.ndarray, dtype: np.dtype[Any], threads: Executor) -> np.ndarray:
    """`array` itself where it is of this dtype, contiguous, aligned and not small; else a copy that is.

    Its pages are in memory on return: a mapped file is read here, and not when the numbers are first used.
    """
    aligned = array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous
    if array.dtype == dtype and aligned and array.nbytes >= _LEAST_ADOPTED:
        _touch(array, threads)
        return array
    copy = aligned_empty(array.shape, dtype)
    copy_into(copy, array, threads)
    return copy


def copy_into(target: np.ndarray, source: np.ndarray, threads: Executor) -> None:
    """Copies `source`, in whatever layout and dtype, into a contiguous array of its shape."""
    if target.nbytes <= _PIECE_BYTES:
        _copy_piece(target, source)
        return
    for _ in threads.map(lambda piece: _copy_piece(target[piece], source[piece]), _pieces(target)):
        pass  # raises what a thread raised


def _pieces(array: np.ndarray) -> Iterator[tuple[int | slice, ...]]:
    """Indices that together cover an array, each of about a piece."""
    inside = [math.prod(array.shape[axis + 1 :]) * array.itemsize for axis in range(array.ndim)]
    axis = next(axis for axis, size in enumerate(inside) if size <= _PIECE_BYTES)
    step = _PIECE_BYTES // inside[axis]
    for index in itertools.product(*map(range, array.shape[:axis])):
        for start in range(0, array.shape[axis], step):
            yield (*index, slice(start, start + step))


def _copy_piece(target: np.ndarray, source: np.ndarray) -> None:
    with np.errstate(all="ignore"):  # what does not fit is the caller's to notice
        if source.ndim < 2 or source.strides[-1] == source.itemsize:
            np.copyto(target, source, casting="unsafe")
            return
        # A transposition: numpy follows the source, and strips keep the lines of the target in the cache.
        for start in range(0, source.shape[-1], _STRIP):
            strip = (..., slice(start, start + _STRIP))
            np.copyto(target[strip], source[strip], casting="unsafe")


def _touch(array: np.ndarray, threads: Executor) -> None:
    data = array.reshape(-1).view(np.uint8)
    starts = range(0, data.size, _TOUCHED_BYTES)
    for _ in threads.map(lambda start: data[start : start + _TOUCHED_BYTES : _PAGE].max(), starts):
        pass
