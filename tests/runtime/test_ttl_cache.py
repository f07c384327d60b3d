"""The cache with lifetimes and single flight, under threads and a clock that only the test moves."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import pytest

from spyder.runtime.ttl_cache import CacheStats, SingleFlightCache, WaitTimeout

V = TypeVar("V")

PATIENCE_S = 10.0
"""Longer than anything here takes: a test that meets it has failed."""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """One clock, standing still."""
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> SingleFlightCache[str, object]:
    """A cache of 100 entries."""
    return SingleFlightCache(100, clock=clock)


def minute(value: V) -> tuple[V, float]:
    """Stand for a `make` that gives a value for one minute."""
    return value, 60.0


def refuse() -> tuple[object, float]:
    """Stand for a `make` that must not run."""
    raise AssertionError("made although it was kept")


@contextmanager
def running(work: Callable[[], object]) -> Iterator[list[object]]:
    """Run `work` in a thread, and yield the list that its result or exception is put in at the end."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - handed to the test, which looks at it
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    pause, turns = threading.Event(), 0
    while not condition():
        assert turns < PATIENCE_S * 1000, "it never came"
        turns += 1
        pause.wait(0.001)


def test_a_value_is_made_once(cache: SingleFlightCache[str, object]) -> None:
    """What was made is found again."""
    assert cache.get_or_make("k", lambda: ("v", 60.0), timeout_s=1) == "v"
    assert cache.get_or_make("k", refuse, timeout_s=1) == "v"
    assert cache.stats() == CacheStats(size=1, hits=1, misses=1, waits=0)


def test_none_is_a_value(cache: SingleFlightCache[str, object]) -> None:
    """None is kept like any other value."""
    assert cache.get_or_make("k", lambda: (None, 60.0), timeout_s=1) is None
    assert cache.get_or_make("k", refuse, timeout_s=1) is None


def test_each_entry_has_its_own_lifetime(cache: SingleFlightCache[str, object], clock: Clock) -> None:
    """An entry lives for the seconds that its own `make` gave, and not one more."""
    cache.get_or_make("short", lambda: (1, 5.0), timeout_s=1)
    cache.get_or_make("long", lambda: (1, 50.0), timeout_s=1)
    clock.now_s += 4.9
    assert cache.peek("short") == 1
    clock.now_s += 0.1
    assert cache.peek("short") is None
    assert cache.get_or_make("short", lambda: (2, 5.0), timeout_s=1) == 2
    assert cache.peek("long") == 1


def test_a_lifetime_of_nothing_is_not_kept(cache: SingleFlightCache[str, object]) -> None:
    """A value with no lifetime reaches who asked and is gone."""
    assert cache.get_or_make("k", lambda: ("v", 0.0), timeout_s=1) == "v"
    assert len(cache) == 0


def test_a_full_cache_lets_the_least_used_go(clock: Clock) -> None:
    """The bound holds, and what was asked for last stays."""
    cache: SingleFlightCache[int, int] = SingleFlightCache(2, clock=clock)
    for key in (1, 2, 1, 3):
        cache.get_or_make(key, partial(minute, key), timeout_s=1)
    assert [cache.peek(key) for key in (1, 2, 3)] == [1, None, 3]


def test_the_bound_is_in_weight(clock: Clock) -> None:
    """A heavy value takes the room of many, and one that is heavier than the cache is handed over but not kept."""
    cache: SingleFlightCache[str, str] = SingleFlightCache(10, clock=clock, weigh=len)
    for key, value in (("a", "xxxxx"), ("b", "xxxxx"), ("c", "x")):
        cache.get_or_make(key, partial(minute, value), timeout_s=1)
    assert [cache.peek(key) for key in "abc"] == [None, "xxxxx", "x"]
    assert cache.get_or_make("d", lambda: ("x" * 11, 60.0), timeout_s=1) == "x" * 11
    assert [cache.peek(key) for key in "bcd"] == ["xxxxx", "x", None]


def test_256_threads_make_one_value(cache: SingleFlightCache[str, object]) -> None:
    """However many ask at once, one makes and all have the same object."""
    made: list[object] = []
    gate = threading.Event()
    start = threading.Barrier(256)

    def make() -> tuple[object, float]:
        made.append(object())
        gate.wait(PATIENCE_S)
        return made[0], 60.0

    def ask() -> object:
        start.wait(PATIENCE_S)
        return cache.get_or_make("k", make, timeout_s=PATIENCE_S)

    with ThreadPoolExecutor(256) as pool:
        asked = [pool.submit(ask) for _ in range(256)]
        until(lambda: cache.stats().waits == 255)
        gate.set()
        assert {id(future.result()) for future in asked} == {id(made[0])}
    assert len(made) == 1
    assert cache._flights == {}


def test_keys_do_not_wait_for_each_other(cache: SingleFlightCache[str, object]) -> None:
    """A slow `make` holds up its own key only: it does not run under the lock."""
    gate = threading.Event()
    with running(lambda: cache.get_or_make("slow", lambda: (gate.wait(PATIENCE_S), 60.0), timeout_s=1)):
        until(lambda: cache.stats().misses == 1)
        assert cache.get_or_make("quick", lambda: ("v", 60.0), timeout_s=1) == "v"
        assert len(cache) == 1
        gate.set()


def test_a_waiter_gives_up_in_time(cache: SingleFlightCache[str, object]) -> None:
    """One who waits for another's `make` waits at most `timeout_s`, and the value is still kept for the next."""
    gate = threading.Event()
    with running(lambda: cache.get_or_make("k", lambda: (gate.wait(PATIENCE_S), 60.0), timeout_s=1)):
        until(lambda: cache.stats().misses == 1)
        with pytest.raises(WaitTimeout):
            cache.get_or_make("k", refuse, timeout_s=0.01)
        gate.set()
    assert cache.peek("k") is True


def test_a_value_with_no_lifetime_reaches_who_waited(cache: SingleFlightCache[str, object]) -> None:
    """Who waits has the value of the flight that it waited for, kept or not."""
    gate = threading.Event()

    def make() -> tuple[object, float]:
        gate.wait(PATIENCE_S)
        return "v", 0.0

    with running(lambda: cache.get_or_make("k", make, timeout_s=1)):
        until(lambda: cache.stats().misses == 1)
        with running(lambda: cache.get_or_make("k", refuse, timeout_s=PATIENCE_S)) as waited:
            until(lambda: cache.stats().waits == 1)
            gate.set()
    assert waited == ["v"]


def test_a_failure_is_raised_where_it_happened(cache: SingleFlightCache[str, object]) -> None:
    """The exception reaches the caller, and nothing of the key is left."""
    with pytest.raises(AssertionError):
        cache.get_or_make("k", refuse, timeout_s=1)
    assert len(cache) == 0
    assert cache._flights == {}


def test_after_a_failure_the_waiters_try_one_at_a_time(cache: SingleFlightCache[str, object]) -> None:
    """Twenty who wait for a `make` that raises each run their own, never two at once."""
    gate = threading.Event()
    at_once: list[int] = []
    running_now: list[None] = []

    def fail() -> tuple[object, float]:
        running_now.append(None)
        at_once.append(len(running_now))
        gate.wait(PATIENCE_S)
        running_now.pop()
        raise OSError("no")

    def ask() -> None:
        with pytest.raises(OSError, match="no"):
            cache.get_or_make("k", fail, timeout_s=PATIENCE_S)

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask) for _ in range(20)]
        until(lambda: cache.stats().waits == 19)
        gate.set()
        for future in asked:
            future.result()
    assert at_once == [1] * 20


def test_clear_forgets_what_is_being_made(cache: SingleFlightCache[str, object]) -> None:
    """A value whose making began before clear() serves who waited, and is not kept: it may be out of date."""
    gate = threading.Event()

    def make_old() -> tuple[object, float]:
        gate.wait(PATIENCE_S)
        return "old", 60.0

    with running(lambda: cache.get_or_make("k", make_old, timeout_s=1)) as outcome:
        until(lambda: cache.stats().misses == 1)
        cache.clear()
        assert cache.get_or_make("k", lambda: ("new", 60.0), timeout_s=1) == "new"
        gate.set()
    assert outcome == ["old"]
    assert cache.peek("k") == "new"


def test_clear_empties(cache: SingleFlightCache[str, object]) -> None:
    """After clear() nothing is kept."""
    cache.get_or_make("k", lambda: ("v", 60.0), timeout_s=1)
    cache.clear()
    assert len(cache) == 0


def test_an_undisturbed_flight_makes_no_event(
    cache: SingleFlightCache[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a waiter no Event is made: it costs more than all the rest of a miss."""
    monkeypatch.setattr("spyder.runtime.ttl_cache.threading.Event", refuse)
    assert cache.get_or_make("k", lambda: ("v", 60.0), timeout_s=1) == "v"
