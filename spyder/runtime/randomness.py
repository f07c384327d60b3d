"""Unpredictable bits by the block: one system call for thousands of draws. Thread-safe."""

import os
import threading
from collections.abc import Callable

_BLOCK_BYTES = 8192


class Randomness:
    """Draws from the operating system's generator, buffered.

    A draw of its own from the kernel would give up the interpreter lock each time.
    """

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._block = b""
        self._at = 0

    def bits(self, count: int) -> int:
        """Return a number of so many random bits, at most 65536."""
        size = (count + 7) >> 3
        with self._lock:
            if self._at + size > len(self._block):
                self._block, self._at = self._source(_BLOCK_BYTES), 0
            drawn = self._block[self._at : self._at + size]
            self._at += size
        return int.from_bytes(drawn) >> (8 * size - count)
