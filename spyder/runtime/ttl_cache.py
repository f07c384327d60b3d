"""A bounded cache with a lifetime per entry, in which one thread makes what many threads ask for.

Place on the path: policy keeps robots verdicts in it. Owned by no thread; every worker calls it. One lock guards
the entries and the flights; `make` runs, and waiters wait, outside it.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import cachetools

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class WaitTimeout(TimeoutError):
    """Another thread was still making the value when this caller's patience ended."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A snapshot: entries alive now, and what the calls of `get_or_make` met since the cache was made.

    A caller who waits counts once for every flight that it waits for, and as a hit or a miss only if it then
    finds an entry or makes the value itself.
    """

    size: int
    hits: int
    misses: int
    waits: int


class _Flight(Generic[V]):
    """One running `make`. Both fields are written under the cache's lock, and `result` before `landed` is set."""

    __slots__ = ("landed", "result")

    def __init__(self) -> None:
        # Made by the first waiter: most flights have none, and an Event costs 10 us.
        self.landed: threading.Event | None = None
        self.result: _Entry[V] | None = None


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    ttl_s: float
    weight: int


def _one(_value: object) -> int:
    return 1


class SingleFlightCache(Generic[K, V]):
    """A thread-safe cache of at most `capacity` in weight, least recently used out first.

    `clock` gives monotonic seconds; it is read under the lock, so it must not block. `weigh` gives the weight of
    a value (1 unless told otherwise: `capacity` is then a number of entries); a value heavier than the whole
    cache is handed to those who asked and not kept. Nothing else is held for a key once its flight is over.
    """

    def __init__(self, capacity: int, *, clock: Callable[[], float], weigh: Callable[[V], int] = _one) -> None:
        self._clock = clock
        self._weigh = weigh
        self._capacity = capacity
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[V]] = {}
        self._entries: cachetools.TLRUCache[K, _Entry[V]] = cachetools.TLRUCache(
            capacity,
            ttu=lambda _key, entry, now_s: now_s + entry.ttl_s,
            timer=clock,
            getsizeof=lambda entry: entry.weight,
        )
        self._hits = self._misses = self._waits = 0

    def get_or_make(self, key: K, make: Callable[[], tuple[V, float]], *, timeout_s: float) -> V:
        """Return the value of `key`, made at most once however many threads ask.

        `make` returns the value and its lifetime in seconds (0 or less: for those who wait now, not kept). It must
        not ask for the same key. The caller that runs it is not bounded by `timeout_s`; the others wait.

        If `make` raises, the exception is raised in the thread that ran it and in no other: it may speak of that
        caller's own deadline, and an exception object is not safe to raise in many threads. The waiters then run
        their own `make`, one at a time, each while its own `timeout_s` lasts.

        Raises:
            WaitTimeout: others were still making the value after `timeout_s` seconds.
        """
        deadline_s: float | None = None
        while True:
            landed: threading.Event | None = None
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    self._hits += 1
                    return entry.value
                flight = self._flights.get(key)
                if flight is None:
                    self._misses += 1
                    flight = self._flights[key] = _Flight()
                else:
                    self._waits += 1
                    landed = flight.landed = flight.landed or threading.Event()
            if landed is None:
                return self._fly(key, flight, make)
            now_s = self._clock()
            deadline_s = now_s + timeout_s if deadline_s is None else deadline_s
            if not landed.wait(max(0.0, deadline_s - now_s)):
                raise WaitTimeout(f"not made by another thread within {timeout_s:g} s")
            if flight.result is not None:
                return flight.result.value

    def _fly(self, key: K, flight: _Flight[V], make: Callable[[], tuple[V, float]]) -> V:
        """Run `make`, keep what it gave and wake the waiters, whatever happens."""
        entry: _Entry[V] | None = None
        try:
            value, ttl_s = make()
            entry = _Entry(value, ttl_s, self._weigh(value))
            return value
        finally:
            with self._lock:
                flight.result = entry
                if self._flights.get(key) is flight:  # not so after clear(): the answer may then be out of date
                    del self._flights[key]
                    if entry is not None and entry.weight <= self._capacity:
                        self._entries[key] = entry
                landed = flight.landed
            if landed is not None:
                landed.set()

    def peek(self, key: K) -> V | None:
        """Return the value if it is kept and alive, else None. Makes nothing, waits for nothing, counts nothing."""
        with self._lock:
            entry = self._entries.get(key)
        return None if entry is None else entry.value

    def clear(self) -> None:
        """Forget every entry. A flight under way still serves those who wait for it, and is not kept."""
        with self._lock:
            self._entries.clear()
            self._flights.clear()

    def stats(self) -> CacheStats:
        """Return a consistent snapshot."""
        with self._lock:
            return CacheStats(len(self._entries), self._hits, self._misses, self._waits)

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)
