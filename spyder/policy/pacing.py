"""How often a host may be asked: one token bucket a host.

robots.txt and root page of one visit, on one connection, count as one request; a redirect to another host and a
second handshake count on their own.
"""

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
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._buckets = TokenBuckets(rate_per_host, burst)
        self._clock = clock
        self._sleep = sleep

    def wait(self, host: str, deadline: float) -> bool:
        """Block until it is our turn at the host; False, at once, where the turn comes after the deadline."""
        now = self._clock()
        if now + self._buckets.delay(host, now) > deadline:
            return False
        delay_s = self._buckets.reserve(host, now)
        if delay_s > 0:
            self._sleep(delay_s)
        return True
