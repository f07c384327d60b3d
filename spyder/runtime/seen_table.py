"""A bounded memory of keys that were seen, each for a limited time, in a fixed number of bytes.

A cache of Python objects costs some 400 bytes a key, and a daemon sees a million keys within minutes. Here a key is
12 bytes in one table: 64 bits of its hash and the second at which it was added. The interpreter's string hash is
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
_BUCKET = struct.Struct(f"={_SLOTS_PER_BUCKET}Q{_SLOTS_PER_BUCKET}I")
"""Hashes, then times: side by side, since what a lookup costs is the memory that it touches."""
_HASH = struct.Struct("=Q")
_TIME = struct.Struct("=I")
_HASH_MASK = (1 << 64) - 1


class SeenTable:
    """Remembers at most `max_entries` keys (rounded up to a power of two), each for `ttl_s` seconds."""

    def __init__(self, max_entries: int, ttl_s: float) -> None:
        slots = max(_SLOTS_PER_BUCKET, 1 << (max(max_entries, 1) - 1).bit_length())
        self._buckets = slots // _SLOTS_PER_BUCKET
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self.clear()

    def add(self, keys: Iterable[str], now: float) -> None:
        """Remember keys from this moment (seconds of any clock that only moves forward) on."""
        with self._lock:
            for key in keys:
                self._add(hash(key) & _HASH_MASK, int(now) + 1)

    def contains(self, key: str, now: float) -> bool:
        """Tell whether a key was added within the last `ttl_s` seconds."""
        return bool(self.known((key,), now))

    def known(self, keys: Iterable[str], now: float) -> list[str]:
        """Return those of the keys that were added within the last `ttl_s` seconds."""
        known = []
        unpack, mask = _BUCKET.unpack_from, self._buckets - 1
        with self._lock:
            for key in keys:
                hashed = hash(key) & _HASH_MASK
                bucket = unpack(self._table, (hashed >> 7 & mask) * _BUCKET.size)
                if hashed in bucket[:_SLOTS_PER_BUCKET]:
                    added = bucket[_SLOTS_PER_BUCKET + bucket.index(hashed)]
                    if added and now - (added - 1) < self._ttl_s:  # 0: a free slot, which is no key's
                        known.append(key)
        return known

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            # zeros cost memory only where they are changed: the kernel gives a page when it is written
            self._table = bytearray(self._buckets * _BUCKET.size)
            self._entries = 0

    def __len__(self) -> int:
        """Return the number of slots in use, expired keys included."""
        with self._lock:
            return self._entries

    def _add(self, hashed: int, moment: int) -> None:
        at = (hashed >> 7 & self._buckets - 1) * _BUCKET.size
        bucket = _BUCKET.unpack_from(self._table, at)
        hashes, times = bucket[:_SLOTS_PER_BUCKET], bucket[_SLOTS_PER_BUCKET:]
        slot = hashes.index(hashed) if hashed in hashes else times.index(min(times))
        self._entries += not times[slot]
        _HASH.pack_into(self._table, at + slot * _HASH.size, hashed)
        _TIME.pack_into(self._table, at + _SLOTS_PER_BUCKET * _HASH.size + slot * _TIME.size, moment)
