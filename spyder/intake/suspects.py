"""Hosts that bring the process down: how they are found, and kept from doing it for ever.

Place: beside the ledger; the workers say what they begin and end. Thread-safe.

A process that is killed takes some hundred hosts with it, and nothing tells which of them did it, if any did: an
administrator's `kill -9` looks the same as the kernel's when memory is short. So:

1. While a host is probed, its place stands in a slot of the file `begun` beside the data (`Marks`). The slots are not
   synced: what was written survives the death of the process, and a power cut, which is nobody's doing, is known by
   the id of the boot.
2. Who takes the file over afterwards adds up, durably and before anything else, which hosts were being probed in how
   many crashes (`Suspects`).
3. A host that was being probed in two crashes is a suspect. It waits until the rest of the file has been given out
   and the daemon has been up for a while (`calm_s`), and is then probed while nothing else is (`Traffic`). So it cannot
   take others with it, and a series of kills from outside, which has to be over by then, convicts nobody.
4. A suspect that is alone at two crashes is set aside and named in the receipt.

Not seen is what is probed for others than the inbox at the same time, and a file that brings the process down while
it is read, before it yields a host.
"""

import json
import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spyder.runtime import durable

CALM_S: Final = 30.0
"""Longer than a host's budget (`crawling.host_budget`), and than kills of a test or an impatient person are apart."""
CRASHES_TO_SUSPECT: Final = 2
CRASHES_ALONE_TO_CONVICT: Final = 2

Key = tuple[int, int]
"""A host in a file: its place, and which of the place's entries it is, from 0."""

_HEADER: Final = struct.Struct("<36s16s")  # boot, session
_SLOT: Final = struct.Struct("<QII")  # place, entry, state
_FREE, _BUSY, _ALONE = 0, 1, 2
_MAX_READ_BYTES: Final = 1 << 20  # 65,000 slots: more than a process has threads
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # random(4)


def boot_id() -> bytes:
    """Return what tells this boot of the machine from all others; empty where the system does not say."""
    try:
        return _BOOT_ID.read_bytes().strip()[:36]
    except OSError:
        return b""


class Traffic:
    """Counts the hosts that are out, over all files of a process, and lets one be out alone. Thread-safe."""

    def __init__(self, *, calm_s: float = CALM_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._clock = clock
        self._calm_from = clock() + calm_s
        self._out = 0
        self._alone = False
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Let nothing more out; those who wait are told. May be called twice."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def enter(self) -> bool:
        """Let one host out, after waiting for one that is alone; False after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._alone)
            self._out += not self._stopped
            return not self._stopped

    def enter_alone(self) -> bool:
        """Let one host out when it is calm and no other is out, and no other until it is back; False after `stop`."""
        with self._changed:
            while not self._stopped and (calm_in_s := self._calm_from - self._clock()) > 0:
                self._changed.wait(calm_in_s)
            self._changed.wait_for(lambda: self._stopped or not self._alone)
            self._alone = not self._stopped
            self._changed.wait_for(lambda: self._stopped or not self._out)
            self._alone = self._alone and not self._stopped
            self._out += self._alone
            return self._alone

    def leave(self, *, alone: bool = False) -> None:
        """Say that a host is back, and whether it was let out alone."""
        with self._changed:
            self._out -= 1
            if alone:
                self._alone = False
            if alone or not self._out:
                self._changed.notify_all()


class Marks:
    """The hosts that are being probed, as whoever comes after a sudden death can read them. Thread-safe.

    It never raises: where nothing can be written, a crash suspects nobody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._free: list[int] = []
        self._slots = 0
        self._closed = False

    def begin(self, key: Key, *, alone: bool) -> int:
        """Mark a host; return the slot to be given to `end`."""
        with self._lock:
            if self._closed:
                return -1
            if self._fd is None:
                self._fd = self._made()
            if self._free:
                slot = self._free.pop()
            else:
                slot = self._slots
                self._slots += 1
            self._write(slot, _SLOT.pack(*key, _ALONE if alone else _BUSY))
        return slot

    def end(self, slot: int) -> None:
        """Take a mark off."""
        with self._lock:
            if slot >= 0 and not self._closed:
                self._write(slot, bytes(_SLOT.size))
                self._free.append(slot)

    def _made(self) -> int:
        fd = -1
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError):
            fd = os.open(self._path, flags, 0o600)
            os.pwrite(fd, _HEADER.pack(boot_id(), os.urandom(8).hex().encode()), 0)
        return fd

    def _write(self, slot: int, content: bytes) -> None:
        # a few bytes in the page cache: the lock is not held for as long as a disk takes
        with suppress(OSError):
            os.pwrite(self._fd if self._fd is not None else -1, content, _HEADER.size + slot * _SLOT.size)

    def close(self) -> None:
        """Forget everything: whatever is still being probed, the process ends in order. May be called twice."""
        with self._lock:
            fd, self._fd, self._closed = self._fd, None, True
        if fd is not None and fd >= 0:
            with suppress(OSError):
                self._path.unlink()
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Crash:
    """What was being probed when a process died."""

    session: str
    hosts: tuple[tuple[Key, bool], ...]
    """Each host, and whether it was alone."""


def read_crash(directory: durable.Directory, name: str) -> Crash | None:
    """Return what a dead process left; None where there is nothing, or the machine has been started anew since.

    Raises `durable.DurableError`.
    """
    try:
        with directory.open_file(name) as file:
            content = file.read(_MAX_READ_BYTES)
    except (FileNotFoundError, durable.NotRegular):
        return None
    if len(content) < _HEADER.size:
        return None
    boot, session = _HEADER.unpack_from(content)
    if boot.rstrip(b"\0") != boot_id():
        return None
    whole = len(content) - (len(content) - _HEADER.size) % _SLOT.size
    slots = _SLOT.iter_unpack(content[_HEADER.size : whole])
    hosts = tuple(((end, nth), state == _ALONE) for end, nth, state in slots if state != _FREE)
    return Crash(session.decode("ascii", "replace"), hosts)


class Suspects:
    """Who was being probed in how many crashes. One thread's, and unchanging once the file is being read."""

    FILE: Final = "suspects.json"
    _MAX_BYTES: Final = 16 << 20

    def __init__(self, directory: durable.Directory) -> None:
        """Read what is known; raise `durable.DurableError`."""
        self._directory = directory
        self._session = ""
        self._crashes: dict[Key, tuple[int, int]] = {}
        with suppress(FileNotFoundError, durable.NotRegular, ValueError, TypeError, KeyError, RecursionError):
            with directory.open_file(self.FILE) as file:
                known = json.loads(file.read(self._MAX_BYTES))
            self._crashes = {(int(e), int(n)): (int(crashes), int(alone)) for e, n, crashes, alone in known["hosts"]}
            self._session = str(known["session"])

    def add(self, crash: Crash, *, is_done: Callable[[int], bool]) -> None:
        """Count a crash, once however often it is given, durably; raise `durable.DurableError`.

        `is_done` tells whether a place is done; of such nothing need be known any more, except who was set aside.
        """
        if crash.session == self._session or not crash.hosts:
            return
        for key, alone in crash.hosts:
            crashes, crashes_alone = self._crashes.get(key, (0, 0))
            self._crashes[key] = crashes + 1, crashes_alone + alone
        kept = {key: each for key, each in self._crashes.items() if self.is_convicted(key) or not is_done(key[0])}
        self._crashes, self._session = kept, crash.session
        fields = {"session": crash.session, "hosts": [[*key, *each] for key, each in kept.items()]}
        self._directory.write_whole(self.FILE, json.dumps(fields).encode())

    def is_suspect(self, key: Key) -> bool:
        """Tell whether a host must be alone."""
        return self._crashes.get(key, (0, 0))[0] >= CRASHES_TO_SUSPECT

    def is_convicted(self, key: Key) -> bool:
        """Tell whether a host is to be set aside."""
        return self._crashes.get(key, (0, 0))[1] >= CRASHES_ALONE_TO_CONVICT

    def __bool__(self) -> bool:
        """Tell whether anybody is known."""
        return bool(self._crashes)
