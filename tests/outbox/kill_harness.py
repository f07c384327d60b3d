"""Kills the outbox at random moments while numbered reports flow through it, and looks for one that is lost.

    python -m tests.outbox.kill_harness [--kills N] [--numbers N] [--seed S] [--dir DIR] [--mutant NAME]

One process after the other runs the outbox as the daemon does: four threads put reports into the batcher, and what it
promises is spooled and shipped by the scheduled job (`spyder.daemon.outlet`). Each number is written down by that
process when its task is done, and not before. It gets SIGKILL after some milliseconds (one life in ten is ended in
order, by SIGTERM), and the next one goes on with what was not written down. A receiver in a process of its own fails in
all the ways of `tests.outbox.unreliable_receiver`, and is killed and restarted too. At the end the receiver becomes
reliable, a last outbox drains the spool, and the books are compared: every number that was written down is at the
receiver, or in dead/; no batch id is there twice; nothing is in bad/; the spool is empty. Exit status 0 if so.
"""
# ruff: noqa: T201

import argparse
import itertools
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, cast

import orjson

from spyder.daemon.outlet import Outlet
from spyder.model.records import Task
from spyder.outbox.batcher import Batcher, BatchLimits, OutboxFailed
from spyder.outbox.dedup import Dedup
from spyder.outbox.destinations import Timeouts, destination_of
from spyder.outbox.receiver import checked
from spyder.outbox.spool import Place, Spool, new_batch_id
from spyder.runtime.durable import is_temporary
from tests.outbox.numbered import Found, report_of
from tests.outbox.outbox_mutants import MUTANTS
from tests.outbox.unreliable_receiver import STALL_S, serve

_PUTTERS: Final = 4
_NUMBERS_A_BATCH: Final = 60
_FLUSH_S: Final = 0.02
_SPOOL_BYTES: Final = 16 << 20
"""Some 600 batches: now and then the spool is full, and the intake waits."""
_TIMEOUTS: Final = Timeouts(connect_s=STALL_S / 2, wait_s=STALL_S / 2)
_LIVES_S: Final = ((0.0, 0.05), (0.05, 0.4))
"""How long an outbox lives: a third of them no longer than its start takes."""
_STOPPED_IN_ORDER: Final = 0.1
_RECEIVER_KILLED: Final = 0.05
"""How many lives end with the receiver killed too, just before or after."""
_ORDERLY_STOP_S: Final = 20.0
_DRAIN_S: Final = 60.0
_SCHEMA_EVERY: Final = 200
_NUMBER_BYTES: Final = 8


# the outbox: a process of its own, which is killed


def _live(url: str, directory: Path, numbers: Iterator[int], done_fd: int, *, drain: bool) -> NoReturn:
    """Put the numbers, until SIGTERM; with `drain`, until the spool is empty."""
    status = 3
    try:
        outlet = Outlet(
            directory / "spool",
            destination_of(url, base=directory, timeouts=_TIMEOUTS),
            max_bytes=_SPOOL_BYTES,
            concurrency=8,
            on_event=lambda _text: None,
        )
        status = _run(outlet, numbers, done_fd, drain=drain)
    except BaseException as error:  # noqa: BLE001 - a forked process must not go on as its parent
        print(f"the outbox failed: {error!r}", file=sys.stderr, flush=True)
    os._exit(status)


def _run(outlet: Outlet, numbers: Iterator[int], done_fd: int, *, drain: bool) -> int:
    def write_down(tasks: Sequence[Task]) -> None:
        os.write(done_fd, array("Q", [cast("int", task.origin) for task in tasks]).tobytes())

    batcher = Batcher(
        probe_id="probe",
        run_id="run",
        limits=BatchLimits(max_nodes=_NUMBERS_A_BATCH, flush_interval_s=_FLUSH_S),
        dedup=Dedup(max_entries=1 << 16, ttl_s=3600),
        store=outlet.store,
        on_promised=write_down,
        new_batch_id=lambda: new_batch_id(time.time()),
    )
    outlet.start()
    batcher.start()
    over = threading.Event()
    turn = threading.Lock()

    def put_on() -> None:
        with suppress(OutboxFailed):
            while not over.is_set():
                with turn:
                    number = next(numbers, None)
                if number is None:
                    return
                batcher.put(report_of(number))

    putters = [threading.Thread(target=put_on, daemon=True) for _ in range(_PUTTERS)]
    for putter in putters:
        putter.start()
    if drain:
        end = time.monotonic() + _DRAIN_S
        outlet.drain(lambda: time.monotonic() >= end)
    else:
        _wait_for_the_end()
    over.set()
    batcher.stop()
    if batcher.join(1.0):
        outlet.store.stop()
    undone = batcher.join(1.0)
    for each in putters:
        each.join(1.0)
    left = outlet.close()
    return 2 if (undone and batcher.failure is None) or (drain and left) else 0


def _wait_for_the_end() -> None:
    parent = os.getppid()
    while signal.sigtimedwait([signal.SIGTERM], 0.5) is None:
        if os.getppid() != parent:
            os._exit(4)


def _receive(address: tuple[str, int], directory: Path, events_fd: int, seed: int, *, faulty: bool) -> NoReturn:
    try:
        serve(address, directory / "received", events_fd, seed, faulty=faulty)
        _wait_for_the_end()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - as above
        print(f"the receiver failed: {error!r}", file=sys.stderr, flush=True)
        os._exit(3)


def _fork() -> int:
    """Fork; the child has SIGTERM blocked from the beginning, and so have its threads: it waits for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


# the books


@dataclass
class Books:
    """Which numbers are done."""

    path: Path
    marks: bytearray = field(default_factory=bytearray)
    done: int = 0
    _first_open: int = 0
    _top: int = 0

    def open(self) -> int:
        """Return a descriptor to which a process writes the numbers that are done."""
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def read(self) -> None:
        """Take in what a process wrote until it died; half a number at the end is none."""
        written = self.path.read_bytes()
        numbers = array("Q", written[: len(written) // _NUMBER_BYTES * _NUMBER_BYTES])
        for number in numbers:
            if number >= len(self.marks):
                self.marks.extend(bytes(number + 100_000 - len(self.marks)))
            self.done += not self.marks[number]
            self.marks[number] = 1
            self._top = max(self._top, number + 1)

    def to_do(self) -> Iterator[int]:
        """Yield what is not done, for ever."""
        while self._first_open < self._top and self.marks[self._first_open]:
            self._first_open += 1
        left = [number for number in range(self._first_open, self._top) if not self.marks[number]]
        return itertools.chain(left, itertools.count(self._top))

    def numbers(self) -> Iterator[int]:
        """Yield every number that is done."""
        return (number for number in range(self._top) if self.marks[number])


@dataclass
class Totals:
    """What a run came to."""

    kills: int = 0
    stops: int = 0
    """Lives ended by SIGTERM."""
    half_written: int = 0
    """Ends that left a file in the middle of its writing."""
    receiver_kills: int = 0
    acknowledged: int = 0
    batches: int = 0
    """At the receiver; each id once."""
    twice: int = 0
    """Batch ids that the receiver has committed more than once."""
    duplicates_offered: int = 0
    """Sendings of a batch that the receiver had."""
    faults: int = 0
    """Requests that the receiver failed in some way."""
    spooled: int = 0
    """Batches left in the spool after the quiet phase."""
    dead: int = 0
    bad: int = 0
    lost: int = 0
    """Numbers that were acknowledged and are nowhere."""
    wrong: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        return not (self.twice or self.spooled or self.bad or self.lost or self.wrong)

    def __str__(self) -> str:
        return (
            f"kills {self.kills} ({self.half_written} in the middle of a write), orderly stops {self.stops}, "
            f"kills of the receiver {self.receiver_kills}, faults of the receiver {self.faults}, "
            f"numbers acknowledged {self.acknowledged}, batches {self.batches}, committed twice {self.twice}, "
            f"duplicates offered {self.duplicates_offered}, left in the spool {self.spooled}, dead {self.dead}, "
            f"bad {self.bad}, lost {self.lost}"
        )


# the run


class Harness:
    """One run. This process starts no thread, so that it may fork."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._chance = random.Random(seed)
        self._books = Books(directory / "done")
        self._events = os.open(directory / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._receiver = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address: tuple[str, int] = ("127.0.0.1", free.getsockname()[1])
        self._url = f"http://127.0.0.1:{self._address[1]}/"
        self.totals = Totals()

    def run(self, kills: int, numbers: int, say: Callable[[str], None]) -> Totals:
        """Kill until there were so many kills and so many numbers are done; then drain, and judge."""
        begun = time.monotonic()
        self._start_receiver(faulty=True)
        try:
            for life in itertools.count(1):
                if self.totals.kills >= kills and self._books.done >= numbers:
                    break
                self._live_once()
                if life % 100 == 0:
                    say(
                        f"{time.monotonic() - begun:6.1f} s: {self.totals.kills} kills, {self._books.done} numbers done"
                    )
            self._kill(self._receiver)
            self._start_receiver(faulty=False)
            self._drain()
        finally:
            self._kill(self._receiver)
        say(f"{time.monotonic() - begun:6.1f} s: drained")
        self._judge()
        return self.totals

    def _live_once(self) -> None:
        chance = self._chance
        child = self._start_outbox(self._books.to_do(), drain=False)
        time.sleep(chance.uniform(*_LIVES_S[chance.random() > 1 / 3]))
        kills_receiver = chance.random() < _RECEIVER_KILLED
        receiver_first = chance.random() < 0.5
        if kills_receiver and receiver_first:
            self._kill(self._receiver)
            time.sleep(chance.uniform(0, 0.1))
        if chance.random() < _STOPPED_IN_ORDER:
            self._stop_in_order(child)
        else:
            self._kill(child)
            self.totals.kills += 1
        if kills_receiver:
            if not receiver_first:
                self._kill(self._receiver)
            self.totals.receiver_kills += 1
            self._start_receiver(faulty=True)
        self._books.read()
        with suppress(FileNotFoundError):  # killed before there was a spool
            self.totals.half_written += any(is_temporary(path.name) for path in (self._directory / "spool").iterdir())

    def _stop_in_order(self, child: int) -> None:
        os.kill(child, signal.SIGTERM)
        end = time.monotonic() + _ORDERLY_STOP_S
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() >= end:
                self.totals.wrong.append(f"SIGTERM did not end the outbox within {_ORDERLY_STOP_S:g} s")
                self._kill(child)
                return
            time.sleep(0.005)
        self.totals.stops += 1
        if ended[1]:
            self.totals.wrong.append(f"after SIGTERM the outbox ended with status {ended[1]}")

    def _drain(self) -> None:
        child = self._start_outbox(iter(()), drain=True)
        status = os.waitpid(child, 0)[1]
        if status:
            self.totals.wrong.append(f"the last outbox did not drain the spool, status {status}")

    def _start_outbox(self, numbers: Iterator[int], *, drain: bool) -> int:
        fd = self._books.open()
        child = _fork()
        if child == 0:
            _live(self._url, self._directory, numbers, fd, drain=drain)
        os.close(fd)
        return child

    def _start_receiver(self, *, faulty: bool) -> None:
        seed = self._chance.getrandbits(32)
        child = _fork()
        if child == 0:
            _receive(self._address, self._directory, self._events, seed, faulty=faulty)
        self._receiver = child

    def _kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            self.totals.wrong.append(f"a process had ended by itself, status {status}")

    # the judge

    def _judge(self) -> None:
        totals, found = self.totals, Found()
        totals.acknowledged = self._books.done
        ids: Counter[str] = Counter()
        for path in sorted((self._directory / "received").glob("batches-*.jsonl")):
            with path.open("rb") as file:
                for line in file:
                    batch = orjson.loads(line)
                    ids[batch["batch_id"]] += 1
                    found.add(batch)
                    if len(ids) % _SCHEMA_EVERY == 0:
                        checked(line, batch["batch_id"])
        totals.batches = len(ids)
        totals.twice = sum(times > 1 for times in ids.values())
        with Spool(self._directory / "spool", owner=False) as spool:
            usage = spool.usage()
            totals.spooled, totals.dead, totals.bad = usage.files, usage.dead, usage.bad
            for name in spool.names(Place.DEAD, limit=1_000_000):
                found.add(orjson.loads(spool.read(name, Place.DEAD)))
        totals.lost = len(found.missing(self._books.numbers()))
        events = Counter((self._directory / "events").read_text().split("\n"))
        totals.duplicates_offered = events.pop("known", 0)
        totals.faults = sum(times for event, times in events.items() if event not in ("", "stored"))


def main() -> int:
    """Run, and print the totals."""
    parser = argparse.ArgumentParser(prog="kill_harness", description="Looks for a batch that a kill loses.")
    parser.add_argument("--kills", type=int, default=1000, help="at least so many (default: 1000)")
    parser.add_argument("--numbers", type=int, default=1_000_000, help="at least so many (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the faults (default: 1)")
    parser.add_argument("--dir", type=Path, help="where to work; kept (default: a temporary directory)")
    parser.add_argument("--mutant", choices=MUTANTS, help="break the outbox: the run must find it")
    given = parser.parse_args()
    if given.mutant:
        owner, method, wrong = MUTANTS[given.mutant]
        setattr(owner, method, wrong)
    directory = given.dir or Path(tempfile.mkdtemp(prefix="spyder-kills-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        totals = Harness(directory, given.seed).run(
            given.kills, given.numbers, lambda text: print(text, file=sys.stderr, flush=True)
        )
    finally:
        if given.dir is None:
            shutil.rmtree(directory, ignore_errors=True)
    print(totals)
    for line in totals.wrong:
        print(line, file=sys.stderr)
    return 0 if totals.sound else 1


if __name__ == "__main__":
    sys.exit(main())
