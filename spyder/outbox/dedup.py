"""What has been reported before: keys are claimed when they are seen, and committed when they are on disk.

Marking a key as seen when it is seen would turn every lost batch into silent loss for as long as the mark
lasts. So there are two steps: a claim, which keeps others from reporting the same thing meanwhile, and a commit
after the batch that holds it was promised; a batch that is lost releases its claims. Thread-safe.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from spyder.runtime.seen_table import SeenTable


class Keyed(Protocol):
    """A node or an edge: something that is reported once."""

    @property
    def dedup_key(self) -> str:
        """The key under which it is kept once."""
        ...


K = TypeVar("K", bound=Keyed)


class Dedup:
    """Deduplication in memory, bounded in entries and in time."""

    def __init__(self, *, max_entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._committed = SeenTable(max_entries, ttl_s)
        self._claimed: set[str] = set()
        self._lock = threading.Lock()
        self._clock = clock

    def claim(self, things: Iterable[K]) -> tuple[list[K], list[str]]:
        """Return those of the things that nobody has reported or is about to report, and their keys, now claimed."""
        candidates = [(thing, thing.dedup_key) for thing in things]
        with self._lock:
            candidates = [(thing, key) for thing, key in candidates if key not in self._claimed]
            self._claimed.update(key for _, key in candidates)
        # after the claim, since a commit remembers a key before it gives the claim up
        now = self._clock()
        known = [key for _, key in candidates if self._committed.contains(key, now)]
        if known:
            self.release(known)
            candidates = [(thing, key) for thing, key in candidates if key not in known]
        return [thing for thing, _ in candidates], [key for _, key in candidates]

    def commit(self, keys: Sequence[str]) -> None:
        """Remember claimed keys as reported."""
        self._committed.add(keys, self._clock())
        with self._lock:
            self._claimed.difference_update(keys)

    def release(self, keys: Sequence[str]) -> None:
        """Give claimed keys back: what held them was lost."""
        with self._lock:
            self._claimed.difference_update(keys)

    def __len__(self) -> int:
        """Return the number of keys that are remembered or claimed."""
        return len(self._committed) + len(self._claimed)
