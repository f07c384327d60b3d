"""How often a host may be asked: one token bucket a host.

robots.txt and root page of one visit, on one connection, count as one request; a redirect to another host and a
second handshake count on their own.
"""

import threading
import time
from collections.abc import Callable

from spyder.runtime.token_bucket import TokenBuckets


class Pacer:
    """Makes workers wait for their turn at a host. Thread-safe."""

    def __init__(
        self,
        *,
        rate_per_host: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buckets = TokenBuckets(rate_per_host, burst)
        self._clock = clock
        self._stopped = threading.Event()

    def wait(self, host: str, deadline: float) -> bool:
        """Block until it is our turn at the host; False, at once, where the turn comes after the deadline.

        False as well, at once and for ever, when `stop` was called.
        """
        now = self._clock()
        if now >= deadline or self._stopped.is_set():
            return False
        delay_s = self._buckets.reserve(host, now, deadline - now)
        return delay_s is not None and not (delay_s and self._stopped.wait(delay_s))

    def stop(self) -> None:
        """Give nobody a turn any more, and wake those that wait; returns at once, may be called twice."""
        self._stopped.set()
