"""What the shipper's tests share: a destination that a test scripts, a clock that it sets, spools full of batches."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spyder.outbox.destinations.delivery import Delivery, Verdict
from spyder.outbox.shipper import Shipper
from spyder.outbox.spool import Name, Spool
from tests.outbox.ingest_peers import batch_of

DELIVERED = Delivery(Verdict.DELIVERED, "HTTP 201: it has the batch", 201)
DOWN = Delivery(Verdict.TRY_LATER, "connect: Connection refused")
BUSY = Delivery(Verdict.TRY_LATER, "HTTP 503: it cannot take the batch now", 503)
DENIED = Delivery(Verdict.HOLD, "HTTP 401: the credentials are not accepted", 401)
LARGE = Delivery(Verdict.TOO_LARGE, "HTTP 413: the batch is too large for it", 413)
BAD = Delivery(Verdict.REFUSED, "HTTP 400: it refuses the batch", 400, excerpt='{"detail":"no"}')


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return what the test has set."""
        return self.now


class FakeDestination:
    """Answers as a script says: a function of id, bytes, and how often that batch came before."""

    def __init__(self, script: Callable[[str, bytes, int], Delivery] = lambda *_: DELIVERED) -> None:
        self.script = script
        self.sent: list[str] = []
        self.payloads: dict[str, bytes] = {}
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def send(self, batch_id: str, payload: bytes) -> Delivery:
        """Note it, and answer as the script says."""
        with self._lock:
            before = self.sent.count(batch_id) if len(self.sent) < 5000 else 0
            self.sent.append(batch_id)
            self.payloads[batch_id] = payload
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self.script(batch_id, payload, before)
        finally:
            with self._lock:
                self._at_once -= 1

    def close(self) -> None:
        """Do nothing."""


def fill(spool: Spool, count: int, edges: int = 1) -> list[Name]:
    """Write numbered batches, oldest first."""
    return [spool.write(*batch_of(number, edges)) for number in range(count)]


@contextmanager
def shipping(
    spool: Spool, destination: FakeDestination, clock: Callable[[], float], **options: Any
) -> Iterator[Shipper[Name]]:
    """Give a shipper that has started, without jitter; it is stopped at the end."""
    chosen: dict[str, Any] = {"concurrency": 1, "uniform": lambda _least, most: most, **options}
    shipper = Shipper(spool, destination, clock=clock, wall_clock=lambda: 1_767_268_800.0 + clock(), **chosen)
    shipper.start()
    try:
        yield shipper
    finally:
        shipper.stop()
        assert shipper.join(10) == 0


def ship_all(directory: Path, log: Path) -> None:
    """Ship a spool as a process of its own; every sending is a line in the log."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def script(batch_id: str, _payload: bytes, _before: int) -> Delivery:
        os.write(fd, f"{batch_id} {os.getpid()}\n".encode())
        time.sleep(0.001)
        return DELIVERED

    with Spool(directory, owner=False) as spool:
        shipper = Shipper(spool, FakeDestination(script))
        shipper.start()
        print(shipper.run_pass().ended)  # noqa: T201 - read by the test
        shipper.stop()
        shipper.join(10)


def at(names: Sequence[Name]) -> list[str]:
    """Return the ids of batch files."""
    return [name.batch_id for name in names]


if __name__ == "__main__":
    ship_all(Path(sys.argv[1]), Path(sys.argv[2]))
