"""Buckets hold what they must, waste little, and are few."""

import pytest

from jaxmodels.decoding.buckets import answer_bucket, bucket, capacity_bucket, prompt_bucket


def test_buckets_hold_their_sizes_and_are_few():
    sizes = range(1, 5000)
    buckets = [bucket(size) for size in sizes]
    assert all(b >= size for b, size in zip(buckets, sizes, strict=True))
    assert buckets == sorted(buckets)
    assert len(set(buckets)) < 25
    assert all(b <= 1.25 * size for b, size in zip(buckets, sizes, strict=True) if size > 256)
    assert all(bucket(b) == b for b in set(buckets))


def test_powers_of_two_are_buckets():
    assert [bucket(n) for n in (1, 32, 33, 256, 257, 512, 513)] == [32, 32, 64, 256, 320, 512, 640]
    assert [answer_bucket(n) for n in (1, 64, 65, 257)] == [64, 64, 128, 320]


def test_prompts_beyond_the_window_fill_whole_windows():
    assert prompt_bucket(100, 2048) == 128
    assert prompt_bucket(2048, 2048) == 2048
    assert prompt_bucket(2049, 2048) == 4096
    assert prompt_bucket(900, 1000) == 1000


def test_capacity_holds_prompt_and_answer():
    assert capacity_bucket(512, 64) == 640


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        bucket(0)
