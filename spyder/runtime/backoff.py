"""How long to wait after failures, and a circuit that lets nobody through while all fail.

Mechanisms without domain words, used by the spool's writer and by the shipper. Clock and randomness are passed in.
Nothing here waits, and no thread is owned: a `Backoff` is a value, a `Circuit` may be used by any thread.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_MOST_DOUBLINGS: Final = 60  # beyond it every wait is the cap, and 2.0**n would end in an OverflowError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from failure to failure, up to a cap."""

    base_s: float
    cap_s: float
    uniform: Callable[[float, float], float] = random.uniform

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row: `base_s` after the first, doubled after each."""
        return min(self.cap_s, math.ldexp(self.base_s, min(max(0, failures - 1), _MOST_DOUBLINGS)))

    def delay_s(self, failures: int) -> float:
        """Return a wait with full jitter: anything from 0 to the ceiling.

        Of the jitters this one spreads many clients best over time (AWS Architecture Blog, "Exponential Backoff And
        Jitter", 2015).
        """
        return self.uniform(0.0, self.ceiling_s(failures))


class CircuitState(StrEnum):
    """What a circuit lets through."""

    CLOSED = "closed"
    """All."""
    OPEN = "open"
    """Nothing, until its time has come."""
    HALF_OPEN = "half_open"
    """One, whose fate decides."""


@dataclass(frozen=True, slots=True)
class CircuitView:
    """A circuit at one moment."""

    state: CircuitState
    wait_s: float
    """How long nothing will be let through; 0 when something would be now, or one is on its way."""
    failures: int
    """In a row."""


class Circuit:
    """Opens after so many failures in a row; then lets one through after a wait, and closes when that one succeeds.

    Whoever wants to go through asks `admit`, and reports once with the ticket that it got: `succeeded`, `failed`,
    `hold` or `unused`. A ticket from before the circuit opened or closed says nothing about how things are now: it is
    ignored, and the report returns False.
    """

    def __init__(self, *, failures_to_open: int, backoff: Backoff, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures_to_open = failures_to_open
        self._backoff = backoff
        self._clock = clock
        self._lock = threading.Lock()
        self._generation = 0
        self._open = False
        self._probing = False
        self._failures = 0
        self._openings = 0
        self._not_before = -math.inf

    def admit(self) -> int | None:
        """Return a ticket to go through now, or None."""
        with self._lock:
            if self._clock() < self._not_before or (self._open and self._probing):
                return None
            self._probing = self._open
            return self._generation

    def succeeded(self, ticket: int) -> bool:
        """Report a success: an open circuit closes."""
        with self._lock:
            if ticket != self._generation:
                return False
            if self._open:
                self._generation += 1
            self._open = self._probing = False
            self._failures = self._openings = 0
            return True

    def failed(self, ticket: int) -> bool:
        """Report a failure: the circuit opens after too many in a row, and again where it was half-open."""
        with self._lock:
            if ticket != self._generation:
                return False
            self._failures += 1
            if self._open or self._failures >= self._failures_to_open:
                self._openings += 1
                self._open_until(self._clock() + self._backoff.delay_s(self._openings))
            return True

    def hold(self, ticket: int, for_s: float) -> bool:
        """Open at once, for that long: waiting alone will not mend it."""
        with self._lock:
            if ticket != self._generation:
                return False
            self._open_until(self._clock() + for_s)
            return True

    def unused(self, ticket: int) -> None:
        """Give a ticket back with which nothing was tried; no harm where it was reported with."""
        with self._lock:
            if ticket == self._generation:
                self._probing = False

    def pause(self, for_s: float) -> None:
        """Let nothing through for that long, whatever the state; a longer wait that is on holds."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + for_s)

    def retry_now(self) -> None:
        """End every wait: something has changed. An open circuit lets one through."""
        with self._lock:
            self._not_before = -math.inf

    def view(self) -> CircuitView:
        """Return how it stands."""
        with self._lock:
            wait_s = max(0.0, self._not_before - self._clock())
            if not self._open:
                state = CircuitState.CLOSED
            else:
                state = CircuitState.HALF_OPEN if self._probing or not wait_s else CircuitState.OPEN
            return CircuitView(state, wait_s, self._failures)

    def _open_until(self, moment: float) -> None:
        self._generation += 1
        self._open, self._probing = True, False
        self._not_before = max(self._not_before, moment)
