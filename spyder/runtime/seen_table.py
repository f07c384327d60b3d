"""A bounded memory of keys that were seen, each for a limited time, in a fixed number of bytes.

A cache of Python objects costs some 400 bytes a key, and a daemon sees a million keys within minutes. Here a key is
12 bytes in two tables: 64 bits of its hash and the second at which it was added. The interpreter's string hash is
keyed at random for each process (SipHash), so nobody can make keys collide; by chance, a new key is taken for one
of a million remembered ones with a probability of 5e-14.

The table is set-associative: a key may stand in any slot of one bucket, and when the bucket is full the key that was
added longest ago makes room. Forgetting early means that something is reported twice, which is harmless.
Thread-safe.
"""

import struct
import threading
from collections.abc import Iterable

_SLOTS_PER_BUCKET = 8
_HASH_MASK = (1 << 64) - 1


def _numbers(code: str, count: int) -> "memoryview[int]":
    """Return so many zeros, which cost memory only where they are changed: the kernel gives pages when written."""
    return memoryview(bytearray(count * struct.calcsize(code))).cast(code)  # type: ignore[call-overload,no-any-return]


class SeenTable:
    """Remembers at most `max_entries` keys (rounded up to a power of two), each for `ttl_s` seconds."""

    def __init__(self, max_entries: int, ttl_s: float) -> None:
        slots = max(_SLOTS_PER_BUCKET, 1 << (max(max_entries, 1) - 1).bit_length())
        self._bucket_mask = slots - _SLOTS_PER_BUCKET
        self._ttl_s = ttl_s
        self._slots = slots
        self._hashes = _numbers("Q", slots)
        self._added = _numbers("I", slots)
        self._lock = threading.Lock()
        self._entries = 0

    def add(self, keys: Iterable[str], now: float) -> None:
        """Remember keys from this moment (seconds of any clock that only moves forward) on."""
        with self._lock:
            for key in keys:
                self._add(key, int(now) + 1)

    def contains(self, key: str, now: float) -> bool:
        """Tell whether a key was added within the last `ttl_s` seconds."""
        hashed, bucket = self._place(key)
        with self._lock:
            hashes = self._hashes[bucket : bucket + _SLOTS_PER_BUCKET].tolist()
            if hashed not in hashes:
                return False
            return now - (self._added[bucket + hashes.index(hashed)] - 1) < self._ttl_s

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._hashes = _numbers("Q", self._slots)
            self._added = _numbers("I", self._slots)
            self._entries = 0

    def __len__(self) -> int:
        """Return the number of slots in use, expired keys included."""
        with self._lock:
            return self._entries

    def _add(self, key: str, moment: int) -> None:
        hashed, bucket = self._place(key)
        hashes = self._hashes[bucket : bucket + _SLOTS_PER_BUCKET].tolist()
        if hashed in hashes:
            slot = bucket + hashes.index(hashed)
        else:
            ages = self._added[bucket : bucket + _SLOTS_PER_BUCKET].tolist()
            oldest = min(ages)
            slot = bucket + ages.index(oldest)
            self._entries += not oldest
            self._hashes[slot] = hashed
        self._added[slot] = moment

    def _place(self, key: str) -> tuple[int, int]:
        hashed = hash(key) & _HASH_MASK
        return hashed, (hashed >> 7) & self._bucket_mask
