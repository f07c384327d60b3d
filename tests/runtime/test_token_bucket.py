"""Token buckets by key: time is passed in, so nothing here waits."""

import threading

import pytest

from spyder.runtime.token_bucket import TokenBuckets


def test_a_burst_is_free_and_the_next_one_waits() -> None:
    """Three tokens at once, and the fourth after one interval."""
    buckets = TokenBuckets(rate_per_s=2, burst=3)
    assert [buckets.reserve("a", 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.reserve("a", 10.0) == pytest.approx(0.5)


def test_reservations_queue_up() -> None:
    """Each waits for those before it."""
    buckets = TokenBuckets(rate_per_s=1, burst=1)
    assert [buckets.reserve("a", 5.0) for _ in range(4)] == pytest.approx([0.0, 1.0, 2.0, 3.0])


def test_tokens_come_back_with_time() -> None:
    """After an interval a token is there again, and never more than the burst."""
    buckets = TokenBuckets(rate_per_s=1, burst=2)
    buckets.reserve("a", 0.0)
    buckets.reserve("a", 0.0)
    assert buckets.reserve("a", 1.0) == pytest.approx(0.0)
    assert [buckets.reserve("a", 1000.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 1.0])


def test_keys_have_buckets_of_their_own() -> None:
    """One host's pace is not another's."""
    buckets = TokenBuckets(rate_per_s=1, burst=1)
    buckets.reserve("a", 0.0)
    assert buckets.reserve("b", 0.0) == 0.0


def test_a_wait_that_is_too_long_is_refused_and_takes_nothing() -> None:
    """Who cannot wait does not hold up those who can."""
    buckets = TokenBuckets(rate_per_s=1, burst=1)
    buckets.reserve("a", 0.0)
    assert buckets.reserve("a", 0.0, max_wait_s=0.5) is None
    assert buckets.reserve("a", 0.0, max_wait_s=1.0) == pytest.approx(1.0)


def test_a_bucket_that_is_full_again_is_forgotten() -> None:
    """What is kept are the hosts of the last moments, not of the whole run."""
    buckets = TokenBuckets(rate_per_s=1, burst=1)
    for number in range(10_000):
        buckets.reserve(f"host{number}", number / 100)
    assert len(buckets) <= 102


def test_keys_are_bounded_under_pressure() -> None:
    """A hundred thousand hosts in one moment do not exceed the bound."""
    buckets = TokenBuckets(rate_per_s=0.001, burst=1, max_keys=500)
    for number in range(5_000):
        buckets.reserve(f"host{number}", 0.0)
    assert len(buckets) == 500


def test_forgetting_what_is_full_changes_nothing() -> None:
    """A key that was forgotten has exactly what it would have had."""
    small, large = (TokenBuckets(rate_per_s=1, burst=2, max_keys=keys) for keys in (3, 1000))
    moments = [(f"host{number % 7}", number * 0.9) for number in range(200)]
    waits = [(small.reserve(key, now), large.reserve(key, now)) for key, now in moments]
    assert [a for a, _ in waits] == pytest.approx([b for _, b in waits])


def test_many_threads_get_one_token_each() -> None:
    """A hundred reservations of one moment are a hundred different turns."""
    buckets = TokenBuckets(rate_per_s=1, burst=1)
    waits: list[float | None] = []
    threads = [threading.Thread(target=lambda: waits.append(buckets.reserve("a", 0.0))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wait for wait in waits if wait is not None) == pytest.approx([float(n) for n in range(100)])


def test_of_many_threads_only_those_whose_turn_fits_are_served() -> None:
    """Judging and taking are one step: no thread waits longer than it may."""
    buckets = TokenBuckets(rate_per_s=1, burst=1)
    waits: list[float | None] = []
    threads = [threading.Thread(target=lambda: waits.append(buckets.reserve("a", 0.0, 4.5))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wait for wait in waits if wait is not None) == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0])
