"""Cuts off a blocked socket at its deadline, from outside the blocking call.

Time limits of sockets are per call: a peer that sends one byte a second never meets them. Here a worker blocks
without any limit of its own, and one thread, `watchdog`, shuts its socket down when the deadline is over; the
blocked call then returns at once. That bounds connect, handshake, header and body alike, and saves the extra
system call that each limited read costs.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

TICK_S = 0.1
"""How often deadlines are looked at, hence how late a cut may come."""


class Watch:
    """One socket under watch, as a context manager. Belongs to one worker."""

    __slots__ = ("_watchdog", "deadline", "expired", "socket")

    def __init__(self, watchdog: "Watchdog", watched: socket.socket, deadline: float) -> None:
        self._watchdog = watchdog
        self.socket = watched
        """The socket to shut down; a TLS socket takes the place of the one it was made of."""
        self.deadline = deadline
        """A moment of the monotonic clock; may be moved at any time by the worker."""
        self.expired = False
        """Whether the socket was cut off."""

    def __enter__(self) -> Self:
        self._watchdog.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Watch no more; may be called twice."""
        self._watchdog.remove(self)


class Watchdog:
    """Keeps the watches of all workers. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; returns at once."""
        self._stop.set()

    def join(self, budget_s: float) -> bool:
        """Wait for the thread to end; tell whether it has."""
        self._thread.join(budget_s)
        return not self._thread.is_alive()

    def watch(self, watched: socket.socket, deadline: float) -> Watch:
        """Return a watch, which begins when it is entered or added."""
        return Watch(self, watched, deadline)

    def add(self, watch: Watch) -> None:
        """Begin to watch."""
        with self._lock:
            self._watches.add(watch)

    def remove(self, watch: Watch) -> None:
        """Watch no more."""
        with self._lock:
            self._watches.discard(watch)

    def cut_all(self) -> None:
        """Cut every socket off now: the last resort of a stop that must not wait."""
        self._cut(float("inf"))

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            self._cut(self._clock())

    def _cut(self, now: float) -> None:
        with self._lock:
            due = [watch for watch in self._watches if watch.deadline <= now]
        for watch in due:
            watch.expired = True
            # not close(): that would free the number of a descriptor that the worker still blocks on;
            # the method of the plain socket, since a TLS socket's own would try to say goodbye
            with contextlib.suppress(OSError):
                socket.socket.shutdown(watch.socket, socket.SHUT_RDWR)
