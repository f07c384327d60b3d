"""The reference receiver with the faults of the world: for the kill harness, in a process of its own.

It keeps batches as `spyder.outbox.receiver` does. The schema is not looked at, which costs more than all the rest.
"""

import os
import random
import threading
import time
from pathlib import Path
from typing import Any, Final

from spyder.outbox.batch_log import as_line
from spyder.outbox.receiver import Receiver

STALL_S: Final = 0.6
"""Longer than the sender's patience in the harness."""

FAULTS: Final = {
    "drop before": 0.02,  # the connection is closed, nothing was kept
    "drop after": 0.02,  # kept, but nobody is told
    "cut": 0.02,  # kept, and the answer ends in its middle
    "web page": 0.01,  # kept, and a proxy answers
    "stall before": 0.005,
    "stall after": 0.005,
    "500": 0.02,
    "503": 0.01,
    "429": 0.003,
    "409": 0.01,
    "413": 0.02,
    "400": 0.005,
}
"""Which part of the requests has which fault; the rest has none."""

_RAW: Final = {
    "429": b"HTTP/1.1 429 X\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "cut": b'HTTP/1.1 201 X\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"batch_id":',
    "web page": b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
}
_PLAIN: Final = b"HTTP/1.1 %s X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class UnreliableReceiver(Receiver):
    """Keeps batches, and fails now and then. What it does is written down, a line each."""

    def __init__(self, address: tuple[str, int], directory: Path, events: int, seed: int, *, faulty: bool) -> None:
        super().__init__(address, directory, connections=16)
        self._events = events
        self._chance = random.Random(seed)
        self._faulty = faulty
        self._here = threading.local()

    def read(self, request: Any) -> bytes:
        """See `Receiver.read`; keeps the request, to answer past the sound ways."""
        self._here.request = request
        return super().read(request)

    def store(self, body: bytes, coding: str, key: str | None) -> tuple[str, bool]:
        """Keep a batch, or not, and answer, or not."""
        assert key is not None
        assert coding == ""
        fault = self._fault(len(body))
        if fault in ("drop before", "stall before") or fault.isdigit():
            self._note(fault)
            self._misbehave(fault)
        new = self._log.append(key, as_line(key, body))
        self._note("stored" if new else "known")
        if fault:
            self._note(fault)
            self._misbehave(fault)
        return key, new

    def _fault(self, size: int) -> str:
        if not self._faulty:
            return ""
        fault = self._chance.choices([*FAULTS, ""], [*FAULTS.values(), 1 - sum(FAULTS.values())])[0]
        return "" if fault == "413" and size < 4096 else fault  # the halves of halves come to an end

    def _misbehave(self, fault: str) -> None:
        if fault.startswith("stall"):
            time.sleep(STALL_S)
        elif not fault.startswith("drop"):
            self._here.request.wfile.write(_RAW.get(fault) or _PLAIN % fault.encode())
        raise ConnectionError(fault)  # ends the connection without another word

    def _note(self, word: str) -> None:
        os.write(self._events, f"{word}\n".encode())


def serve(address: tuple[str, int], directory: Path, events: int, seed: int, *, faulty: bool) -> UnreliableReceiver:
    """Return a receiver that serves, in this process."""
    receiver = UnreliableReceiver(address, directory, events, seed, faulty=faulty)
    receiver.start()
    return receiver
