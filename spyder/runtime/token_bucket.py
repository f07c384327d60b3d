"""Token buckets by key, bounded in number, with time passed in. Thread-safe.

A bucket is one number: the moment at which it was (or will be) empty, from which its level follows. A key that is
not known has a full bucket, so one that is full again is forgotten: what is kept is what was used lately.
"""

import math
import threading
from collections import OrderedDict


class TokenBuckets:
    """One bucket a key: `burst` tokens at most, refilled with `rate_per_s`."""

    def __init__(self, rate_per_s: float, burst: int, *, max_keys: int = 100_000) -> None:
        self._interval_s = 1.0 / rate_per_s
        self._span_s = burst * self._interval_s
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def reserve(self, key: str, now: float, max_wait_s: float = math.inf) -> float | None:
        """Take one token, if need be one of the future; return the seconds to wait until it is there.

        None, and nothing is taken, where that is longer than `max_wait_s`.
        """
        with self._lock:
            full = now - self._span_s
            empty_at = max(self._empty_at.get(key, full), full) + self._interval_s
            if empty_at - now > max_wait_s:
                return None
            self._empty_at[key] = empty_at
            self._empty_at.move_to_end(key)
            self._forget(now)
        return max(0.0, empty_at - now)

    def __len__(self) -> int:
        """Return the number of keys that are remembered."""
        with self._lock:
            return len(self._empty_at)

    def _forget(self, now: float) -> None:
        """Make room: what is full again, and under pressure the key that was used longest ago."""
        if len(self._empty_at) > self._max_keys:
            self._empty_at.popitem(last=False)
        while self._empty_at:
            key = next(iter(self._empty_at))
            if self._empty_at[key] + self._span_s > now:
                return
            del self._empty_at[key]
