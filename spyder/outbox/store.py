"""The promise: a batch is in the spool for good when `Store` returns, however long that takes.

Place: between the batcher, whose one thread calls it, and the spool. While it waits for room the next batch fills, then
`Batcher.put` blocks, and so the intake: nothing is dropped, and all goes on by itself when there is room. `stop` and
`state` are for any thread.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from spyder.model.records import Batch
from spyder.outbox.halves import halves_of
from spyder.outbox.payload import encode
from spyder.outbox.spool import PayloadTooLarge
from spyder.runtime.backoff import Backoff
from spyder.runtime.durable import DiskSuspect, Unavailable

_BACKOFF: Final = Backoff(0.1, 5.0)
_MOST_SUSPICIONS: Final = 3
"""Attempts that the disk may fail for one batch. Each writes a new file with a new descriptor, under the same name, so
that a double of an attempt in doubt is replaced (`spyder.outbox.spool`, Names). One that fails thus often is broken."""


class StoreInterrupted(Exception):
    """The batch is not stored, since there was no room until the program had to stop."""


class Writer(Protocol):
    """What is written to: a `Spool`."""

    def write(self, batch_id: str, payload: bytes) -> object:
        """See `Spool.write`."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What the store did, and whether it waits."""

    waiting_since: float | None = None
    """Since when (seconds since the epoch) a batch waits for room; None when none does."""
    reason: str = ""
    """Why it waits: the step that failed, and where."""
    stored: int = 0
    """Files written; a batch that was halved counts as its parts."""
    bytes: int = 0
    waits: int = 0
    """Times that it began to wait."""
    disk_failures: int = 0
    halved: int = 0
    repaired: int = 0
    """Records of which a text or a number could not be JSON (`payload.encode`)."""
    dropped: int = 0
    """Records left out, since their identity could not be."""


class Store:
    """Gives batches to the spool, and waits where it must. Called by one thread."""

    def __init__(
        self,
        spool: Writer,
        *,
        on_event: Callable[[str], None] = lambda _text: None,
        on_stored: Callable[[], None] = lambda: None,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Store nothing yet.

        Args:
            spool: where batches are written.
            on_event: told, in one line for people, when a wait begins and ends and when the disk fails.
            on_stored: called after each promise; `Shipper.wake`.
            wait: waits so many seconds, or less when `stop` was called.
            clock: seconds since the epoch.
        """
        self._spool = spool
        self._on_event = on_event
        self._on_stored = on_stored
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._clock = clock
        self._lock = threading.Lock()
        self._state = StoreState()

    def __call__(self, batch: Batch) -> None:
        """Return when the batch is promised.

        Blocks while the spool is full or not writable.

        Raises:
            StoreInterrupted: `stop` was called, and there is no room.
            DiskSuspect: the disk fails again and again.
            PayloadTooLarge: a single record is larger than any batch may be.
        """
        payload, repaired, dropped = encode(batch)
        try:
            self._write(batch.batch_id, payload)
        except PayloadTooLarge:
            del payload
            halves = halves_of(batch)
            if not halves:
                raise
            with self._lock:
                self._state = replace(self._state, halved=self._state.halved + 1)
            for half in halves:
                self(half)
            return
        with self._lock:
            state = self._state
            self._state = replace(
                state,
                stored=state.stored + 1,
                bytes=state.bytes + len(payload),
                repaired=state.repaired + repaired,
                dropped=state.dropped + dropped,
            )
        self._on_stored()

    def stop(self) -> None:
        """Wait no more: what cannot be stored at once is not stored. Returns at once, may be called twice."""
        self._stopping.set()

    def state(self) -> StoreState:
        """Return what was done so far, and whether a batch waits."""
        with self._lock:
            return self._state

    def _write(self, batch_id: str, payload: bytes) -> None:
        refusals = suspicions = 0
        while True:
            try:
                self._spool.write(batch_id, payload)
            except Unavailable as error:
                refusals += 1
                self._hold_on(error)
            except DiskSuspect as error:
                suspicions += 1
                self._note_failure(error, last=suspicions == _MOST_SUSPICIONS)
                if suspicions == _MOST_SUSPICIONS:
                    raise
            else:
                self._go_on()
                return
            self._pause(_BACKOFF.ceiling_s(refusals + suspicions))

    def _pause(self, seconds: float) -> None:
        if self._stopping.is_set() or self._wait(seconds):
            raise StoreInterrupted(self.state().reason or "stopped while the disk failed")

    def _hold_on(self, error: Unavailable) -> None:
        with self._lock:
            first = self._state.waiting_since is None
            self._state = replace(
                self._state,
                waiting_since=self._clock() if first else self._state.waiting_since,
                reason=str(error),
                waits=self._state.waits + first,
            )
        if first:
            self._say(f"intake waits, nothing is lost: a batch cannot be stored now: {error}")

    def _note_failure(self, error: DiskSuspect, *, last: bool) -> None:
        with self._lock:
            self._state = replace(self._state, disk_failures=self._state.disk_failures + 1)
        self._say(f"the disk failed, {'intake stops' if last else 'the batch is written anew'}: {error}")

    def _go_on(self) -> None:
        with self._lock:
            since = self._state.waiting_since
            self._state = replace(self._state, waiting_since=None, reason="")
        if since is not None:
            self._say(f"intake goes on after {max(0.0, self._clock() - since):.1f} s: there is room again")

    def _say(self, text: str) -> None:
        with suppress(Exception):  # a log that cannot be written must not cost a batch
            self._on_event(text)
