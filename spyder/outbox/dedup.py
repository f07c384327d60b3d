"""What has been reported before: keys are claimed when they are seen, and committed when they are on disk.

Marking a key as seen when it is seen would turn every lost batch into silent loss for as long as the mark
lasts. So there are two steps: a claim, which keeps others from reporting the same thing meanwhile, and a commit
after the batch that holds it was promised; a batch that is lost releases its claims. Thread-safe.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from spyder.runtime.seen_table import SeenTable


class Keyed(Protocol):
    """A node or an edge: something that is reported once."""

    @property
    def dedup_key(self) -> str:
        """The key under which it is kept once."""
        ...


class Dedup:
    """Deduplication in memory, bounded in entries and in time."""

    def __init__(self, *, max_entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._committed = SeenTable(max_entries, ttl_s)
        self._claimed: set[str] = set()
        self._lock = threading.Lock()
        self._clock = clock

    def claim(self, *kinds: Iterable[Keyed]) -> tuple[list[list[Any]], list[str]]:
        """Return those of the things that nobody has reported or is about to report, and their keys, now claimed.

        Things of several kinds are claimed in one call, and come back kind by kind, in the order they had.
        """
        by_key = [{thing.dedup_key: thing for thing in things} for things in kinds]
        with self._lock:
            claimed = [key for things in by_key for key in things if key not in self._claimed]
            self._claimed.update(claimed)
        # after the claim, since a commit remembers a key before it gives the claim up
        known = self._committed.known(claimed, self._clock())
        if known:
            self.release(known)
        fresh = set(claimed).difference(known)
        return [[thing for key, thing in things.items() if key in fresh] for things in by_key], list(fresh)

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
        with self._lock:
            claimed = len(self._claimed)
        return len(self._committed) + claimed
