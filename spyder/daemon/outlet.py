"""The second half of the outbox, put together: batches are promised by the spool and shipped by a scheduled job.

Everything that the path yields goes this way, whatever the destination is: an ingest service, files, or the standard
output of `spyderctl probe`.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from apscheduler.schedulers.background import BackgroundScheduler

from spyder.outbox.destinations import Destination
from spyder.outbox.shipper import Fate, Shipper
from spyder.outbox.spool import Name, Spool
from spyder.outbox.store import Store

SHIP_EVERY_S: Final = 1.0
"""Between two passes over the spool; a promised batch starts one at once."""
_CLOSE_BUDGET_S: Final = 5.0
_POLL_S: Final = 0.05


class Outlet:
    """Spool, store and shipper over one directory, which this process owns, and one destination."""

    def __init__(
        self,
        directory: Path,
        destination: Destination,
        *,
        max_bytes: int,
        concurrency: int,
        on_event: Callable[[str], None],
    ) -> None:
        """Open the spool and start nothing yet. `on_event` is told, in one line for people, what holds things up.

        Raises:
            LockHeld: another process owns the spool.
            DurableError: the directory cannot be used.
        """
        self.directory = directory
        self._spool = Spool(directory, max_bytes=max_bytes)
        self._destination = destination
        self._shipper: Shipper[Name] = Shipper(
            self._spool, destination, concurrency=concurrency, on_event=on_event, on_fate=self._note
        )
        self.store = Store(self._spool, on_event=on_event, on_stored=self._shipper.wake)
        """Promises batches; given to the batcher."""
        self.failure = ""
        """Why the last attempt that failed did; "" while none has."""
        self._settled = threading.Event()
        self._scheduler = BackgroundScheduler(timezone="UTC")

    def start(self) -> None:
        """Begin to ship."""
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a pass longer than the interval is no news
        self._shipper.start()
        self._scheduler.add_job(
            self._shipper.run_pass,
            "interval",
            seconds=SHIP_EVERY_S,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,  # the default drops a pass that was a second late
        )
        self._scheduler.start()

    def waiting(self) -> int:
        """Return the number of batches that are promised and not delivered."""
        return self._spool.usage().files

    def drain(self, give_up: Callable[[], bool]) -> None:
        """Wait until everything is delivered, or until `give_up` says that it is enough."""
        while self.waiting() and not give_up():
            self._settled.clear()
            self._shipper.wake()
            self._settled.wait(_POLL_S)

    def close(self) -> int:
        """End every thread and let go of the spool; return the number of batches that wait there."""
        self.store.stop()
        self._shipper.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._shipper.join(_CLOSE_BUDGET_S):
            self._destination.close()  # cuts off what is being sent
            self._shipper.join(_CLOSE_BUDGET_S)
        self._destination.close()
        left = self.waiting()
        self._spool.close()
        return left

    def _note(self, _name: Name, fate: Fate, detail: str, _size: int) -> None:
        if fate is not Fate.DELIVERED:
            self.failure = detail
        self._settled.set()
