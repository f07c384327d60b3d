"""One domain file that was taken from the inbox: read, worked off, put away with its receipt.

Place: between the inbox and the feeder. The feeder iterates; workers begin and end tickets, whoever hears of promises
says `done`; any thread may checkpoint. On disk, in a directory of its own that no other process touches while `.lock`
is held (the lock ends with its owner):

    .claimed/CLAIM/data           the file, as it was dropped
                   meta.json      its name and arrival; from the first checkpoint on, its checksum and line count
                   progress.json  how far it has come (`spyder.intake.ledger`): a checkpoint
                   begun          what is being probed; suspects.json: what was, in crashes (`spyder.intake.suspects`)
                   receipt.json   all is done: what is left is to put both away

Every .json is written whole and synced before it counts. The states that a crash may leave, and what a restart makes
of them:

| found | means | made of it |
|---|---|---|
| neither data nor receipt.json | killed before the file was taken, or after all was put away | removed |
| data, meta.json without a checksum | killed before the first checkpoint | read through, begun at 0 |
| data, no or an older progress.json | killed at work | what is not done by the checkpoint is given out again |
| data and receipt.json | killed before the file was put away | put away, under another name if its own was taken |
| receipt.json alone | the file is in done/ or failed/ | the receipt is put beside it |

The file is read from its beginning each time, also what was done: the memory of hosts that were seen is not on disk,
and the checksum of what is read must be that of what was taken.
"""

import errno
import hashlib
import itertools
import json
import operator
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from spyder.intake import lines
from spyder.intake.ledger import START, Ledger, Place, Progress
from spyder.intake.lines import Entry, InputError
from spyder.intake.receipt import (
    LINES,
    REASONS,
    Fate,
    NamedLines,
    Origin,
    Receipt,
    counted,
    hosts_in,
    name_fields,
    name_of,
    shown,
)
from spyder.intake.suspects import Marks, Suspects, Traffic, read_crash
from spyder.model.records import Outcome, rfc3339
from spyder.runtime import durable
from spyder.runtime.seen_table import SeenTable

DATA: Final = "data"
META: Final = "meta.json"
PROGRESS: Final = "progress.json"
RECEIPT: Final = "receipt.json"
LOCK: Final = ".lock"
BEGUN: Final = "begun"
RECEIPT_SUFFIX: Final = ".receipt.json"

CHECKPOINT_S: Final = 1.0
_HOSTS_AT_ONCE: Final = 1000
_MAX_RUN_IDS: Final = 100
_MAX_NAME_BYTES: Final = 255  # NAME_MAX of every file system that Linux has
_MAX_JSON_BYTES: Final = 64 << 20  # more than is ever written: a place that is open is some 30 bytes


class ClaimLost(Exception):
    """Somebody removed the claim's directory while it was worked on: there is nothing left to finish."""


class _Stopped(Exception):
    """The inbox was stopped in the middle of reading."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every file of an inbox."""

    run_id: str
    max_bytes: int
    remembered_hosts: int
    traffic: Traffic
    clock: Callable[[], float]
    wall_clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Working:
    """How far a file has come, for a person."""

    claim_id: str
    name: str
    """One line of printable characters."""
    lines_done: int
    lines: int | None
    """None until it has been read through once."""
    rate_per_s: float | None
    """Lines a second since the work was begun or taken up again; None while nothing can be said."""

    @property
    def left_s(self) -> float | None:
        """Seconds until it is done, at this rate."""
        if self.lines is None or not self.rate_per_s:
            return None
        return max(0, self.lines - self.lines_done) / self.rate_per_s


class Ticket:
    """A host that was given out: the origin of its task.

    One thread at a time: the feeder, the worker, then whoever hears of the promise.
    """

    __slots__ = ("_alone", "_file", "_is_out", "_place", "_slot", "host", "line", "nth")

    def __init__(self, file: "ClaimedFile", place: Place, nth: int, entry: Entry) -> None:
        self._file = file
        self._place: Place | None = place
        self.nth = nth
        self._slot = -1
        self._alone = False
        self._is_out = False
        self.host = cast("str", entry.host)
        self.line = entry.line
        """From 1."""

    def begin(self) -> None:
        """Say that a worker begins to probe it. Without this, a crash suspects nobody."""
        place = self._place
        if place is not None and self._slot < 0:
            self._slot = self._file._marks.begin((place.end, self.nth), alone=self._alone)

    def end(self) -> None:
        """Say that the probe is over, however; may be called twice."""
        slot, self._slot = self._slot, -1
        self._file._marks.end(slot)
        if self._is_out:
            self._is_out = False
            self._file._terms.traffic.leave(alone=self._alone)

    def done(self, outcome: Outcome) -> None:
        """Say that the batch with its report is in the spool. The second time says nothing."""
        self.end()
        place, self._place = self._place, None
        if place is not None:
            self._file._ledger.done(place, counted(outcome))

    def _let_out(self, *, alone: bool) -> bool:
        traffic = self._file._terms.traffic
        self._alone = alone
        self._is_out = traffic.enter_alone() if alone else traffic.enter()
        return self._is_out


class _Measured:
    """Reads a file as far as it was long, and hashes what it reads."""

    def __init__(self, file: durable.OpenFile, size: int, traffic: Traffic) -> None:
        self._file = file
        self._left = size
        self._traffic = traffic
        self._hash = hashlib.sha256()

    def read(self, limit_bytes: int) -> bytes:
        if self._traffic.is_stopped:
            raise _Stopped
        content = self._file.read(min(limit_bytes, self._left))
        self._left -= len(content)
        self._hash.update(content)
        return content

    def drained(self) -> str:
        """Read what is left, and return the checksum of the whole in hexadecimal."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


def _count(stream: BinaryIO, max_bytes: int) -> tuple[int, int]:
    """Return how many lines `read_entries` will number, and in how many bytes, up to where it raises.

    Raises `InputError` where the stream itself does, for the next time it may not.
    """
    count = size = 0
    is_cut = False
    try:
        for block in lines.blocks(stream, max_bytes=max_bytes):
            size += len(block)
            count += len(block.splitlines()) - is_cut
            is_cut = not block.endswith((b"\n", b"\r"))
    except InputError as error:
        if error.reason == "unreadable":
            raise
    return count, size


@dataclass(frozen=True, slots=True)
class _Stock:
    """What is known of a file that was read through once."""

    lines: int
    unpacked_bytes: int
    trouble: tuple[str, str] | None = None
    """Why it cannot be read at all: a key of `REASONS`, and a detail."""


class ClaimedFile:
    """One file, held by this process. Iterating gives the hosts to be probed, as tickets.

    The first step reads the file through, for its checksum and number of lines. The iteration may raise
    `durable.DurableError`: work pauses, since progress cannot be written, or the file not be opened. It can be gone on
    with, on the same object, and does so from where it was. `ClaimLost` is the end of it. Else it ends at the end of
    the file, or when the inbox is stopped; `is_over` tells when also everything is done. It blocks only for suspects:
    until all other hosts are back.
    """

    def __init__(self, directory: durable.Directory, lock: durable.OpenFile, terms: Terms) -> None:
        """Take up what is in a directory whose lock is held; owns both from now on.

        Raises `durable.DurableError`.
        """
        self._directory = directory
        self._lock = lock
        self._terms = terms
        self._marks = Marks(directory.path / BEGUN)
        self._named = NamedLines()
        self._failure: tuple[str, str] | None = None
        self._line = 0
        self._held: deque[Ticket] = deque()
        self._next: deque[Ticket] = deque()
        self._reading: Iterator[list[Ticket]] | None = None
        self._is_read = self._is_lost = False
        self._receipt: Receipt | None = None
        self._saving = threading.Lock()
        self._saved_changes = 0
        self._saved_at = terms.clock()
        self._save_error: durable.DurableError | None = None
        self._origin, self._stock = self._read_meta()
        self._is_stock_saved = self._stock is not None
        progress, history = self._read_progress()
        self._started = str(history.get("started") or rfc3339(terms.wall_clock()))
        self._run_ids = _with(history.get("run_ids"), terms.run_id)
        self._ledger = Ledger(progress)
        self._began_at = terms.clock()
        self._began_lines = progress.lines_done
        self._suspects = Suspects(directory)
        if crash := read_crash(directory, BEGUN):
            self._suspects.add(crash, is_done=progress.is_done)

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def claim_id(self) -> str:
        """The name of its directory."""
        return self._directory.path.name

    @property
    def name(self) -> str:
        """Its name in the inbox, for a log: one line of printable characters."""
        return shown(self._origin.name)

    @property
    def lines(self) -> int | None:
        """How many lines it has; None until it has been read through once."""
        return self._stock.lines if self._stock else None

    @property
    def is_over(self) -> bool:
        """Whether the file was read to its end, and all that it says is done."""
        return self._is_read and not self._next and not self._held and self._ledger.is_empty

    def working(self) -> Working:
        """Return how far it has come."""
        done = self._ledger.snapshot().lines_done
        elapsed_s = self._terms.clock() - self._began_at
        rate = (done - self._began_lines) / elapsed_s if elapsed_s > 0 and done > self._began_lines else None
        return Working(self.claim_id, self.name, done, self.lines, rate)

    def _read_meta(self) -> tuple[Origin, _Stock | None]:
        fields = read_json(self._directory, META)
        try:
            origin = Origin(
                claim_id=self.claim_id,
                name=name_of("name", fields),
                size=int(fields["size"]),
                arrived=str(fields["arrived"]),
                run_id=str(fields["run_id"]),
                sha256=fields["sha256"] and str(fields["sha256"]),
            )
            stock = fields["stock"]
            if stock is None:
                return origin, None
            trouble = stock["trouble"] and (str(stock["trouble"][0]), str(stock["trouble"][1]))
            return origin, _Stock(int(stock["lines"]), int(stock["unpacked_bytes"]), trouble)
        except (KeyError, TypeError, ValueError, AttributeError):  # damaged: nothing is lost but its name
            arrived = rfc3339(self._terms.wall_clock())
            return Origin(self.claim_id, f"unnamed-{self.claim_id}", 0, arrived, self._terms.run_id, None), None

    def _read_progress(self) -> tuple[Progress, Mapping[str, Any]]:
        fields = read_json(self._directory, PROGRESS)
        if self._origin.sha256 is None or fields.get("sha256") != self._origin.sha256:
            return START, {}
        try:
            return Progress.from_fields(fields), fields
        except (KeyError, TypeError, ValueError, AttributeError):
            return START, {}

    # --- taking stock ----------------------------------------------------------------------------------------------

    def _taken_stock(self) -> "_Stock":
        """Read the file through once, for its checksum and number of lines, where that has not been done."""
        if self._stock is not None:
            return self._stock
        size, sha256 = 0, None
        try:
            with self._opened() as file:
                size = file.size
                sha256, stock = self._measured(file)
        except durable.NotRegular as error:
            stock = _Stock(0, 0, ("not_regular", str(error)))
        except (durable.Unreadable, InputError) as error:
            stock = _Stock(0, 0, ("unreadable", str(error)))
        self._origin = replace(self._origin, size=size, sha256=sha256)
        self._stock = stock
        return stock

    def _opened(self) -> durable.OpenFile:
        try:
            return self._directory.open_file(DATA)
        except FileNotFoundError as error:
            self._is_lost = True
            raise ClaimLost(str(error)) from error

    def _measured(self, file: durable.OpenFile) -> tuple[str | None, _Stock]:
        if file.size > self._terms.max_bytes:
            return None, _Stock(0, 0, ("too_large", f"{file.size} bytes; the most is {self._terms.max_bytes}"))
        stream = _Measured(file, file.size, self._terms.traffic)
        stock = _Stock(*_count(cast("BinaryIO", stream), self._terms.max_bytes))
        return stream.drained(), stock

    # --- giving out ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        """Return itself: there is one position."""
        return self

    def __next__(self) -> Ticket:
        """Return the next host to be probed; see the class for what is raised."""
        if self._save_error is not None:
            self.checkpoint(now=True)
        while not (self._next or self._is_read):
            self._read_on()
        waiting = self._next or self._held
        if not waiting or not waiting[0]._let_out(alone=waiting is self._held):
            raise StopIteration
        return waiting.popleft()

    def _read_on(self) -> None:
        """Read until something is found to be probed, or the end."""
        if self._terms.traffic.is_stopped:
            raise StopIteration
        try:
            if self._reading is None:
                self._reading = self._begun_reading()
            found = next(self._reading, None)
        except _Stopped:
            raise StopIteration from None
        if found is None:
            self._is_read = True
            self._ledger.end_reading()
        else:
            self._next.extend(found)

    def _begun_reading(self) -> Iterator[list[Ticket]]:
        stock = self._taken_stock()
        if stock.trouble:
            self._failure = stock.trouble
            return iter(())
        return self._read(self._opened(), stock)

    def _read(self, file: durable.OpenFile, stock: _Stock) -> Iterator[list[Ticket]]:
        """Yield the tickets of each place that has any."""
        # no host takes fewer than four bytes with its line end
        seen = _Seen(min(self._terms.remembered_hosts, stock.unpacked_bytes // 4))
        with file:
            stream = _Measured(file, self._origin.size, self._terms.traffic)
            entries = self._readable(lines.read_entries(cast("BinaryIO", stream), max_bytes=self._terms.max_bytes))
            if not self._suspects:
                entries = self._after(self._ledger.snapshot().low_water, entries, seen)
            for end, group in itertools.groupby(entries, operator.attrgetter("end")):
                if tickets := self._tickets(end, list(group), seen):
                    yield tickets
            self._compare(stream)

    def _after(self, low_water: int, entries: Iterator[Entry], seen: "_Seen") -> Iterator[Entry]:
        """Yield what stands after the low-water mark; of what stands before it only remember what is needed."""
        hosts: list[str] = []
        for entry in entries:
            if entry.end > low_water:
                seen.add(hosts)
                yield entry
                yield from entries
                return
            self._line = entry.line
            if entry.host is None:
                self._named.reject(entry)
            elif len(hosts) < _HOSTS_AT_ONCE:
                hosts.append(entry.host)
            else:
                seen.add([*hosts, entry.host])
                hosts.clear()

    def _readable(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        try:
            yield from entries
        except InputError as error:
            self._failure = error.reason, str(error)

    def _compare(self, stream: _Measured) -> None:
        """Find out whether what was read is what was taken."""
        if self._failure and self._failure[0] == "unreadable":
            return
        try:
            is_same = stream.drained() == self._origin.sha256 and self._directory.size_of(DATA) == self._origin.size
        except durable.DurableError as error:
            self._failure = "unreadable", str(error)
            return
        if not is_same:
            self._failure = "changed", f"it had {self._origin.size} bytes with the checksum {self._origin.sha256}"

    def _tickets(self, end: int, entries: list[Entry], seen: "_Seen") -> list[Ticket]:
        """Open a place, and return what is to be probed of it now."""
        is_done = self._ledger.is_done(end)
        tally = [LINES] if entries[0].line != self._line else []
        self._line = entries[0].line
        hosts = [
            (nth, entry) for nth, entry in enumerate(entries) if self._is_to_be_probed(end, nth, entry, seen, tally)
        ]
        if is_done:
            self._ledger.pass_by()
            return []
        place = self._ledger.open(end, self._line, waiting=len(hosts), tally=tally)
        tickets = [Ticket(self, place, nth, entry) for nth, entry in hosts]
        if not self._suspects:
            return tickets
        self._held.extend(each for each in tickets if self._suspects.is_suspect((end, each.nth)))
        return [each for each in tickets if not self._suspects.is_suspect((end, each.nth))]

    def _is_to_be_probed(self, end: int, nth: int, entry: Entry, seen: "_Seen", tally: list[str]) -> bool:
        if entry.host is None:
            self._named.reject(entry)
            tally += Fate.REJECTED, f"{Fate.REJECTED}.{entry.reason}"
        elif seen.before(entry.host):
            tally.append(Fate.DUPLICATES)
        elif self._suspects and self._suspects.is_convicted((end, nth)):
            self._named.put_aside(entry)
            tally.append(Fate.SET_ASIDE)
        else:
            return True
        return False

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def checkpoint(self, *, now: bool = False) -> None:
        """Write down how far the file has come, where there is news and `CHECKPOINT_S` has passed, or it must be `now`.

        Thread-safe; two at once are one. Raises `durable.DurableError` (then the iteration raises it too, until this
        has succeeded) or `ClaimLost`.
        """
        if self._is_lost:
            raise ClaimLost(f"{self._directory.path} has no data")
        if not self._saving.acquire(blocking=False):
            return
        try:
            changes = self._ledger.changes
            is_due = now or self._terms.clock() - self._saved_at >= CHECKPOINT_S
            if is_due and (changes != self._saved_changes or self._save_error) and self._origin.sha256:
                self._save()
                self._saved_changes, self._saved_at = changes, self._terms.clock()
        finally:
            self._saving.release()

    def _save(self) -> None:
        fields = {
            "sha256": self._origin.sha256,
            **self._ledger.snapshot().fields(),
            "started": self._started,
            "run_ids": self._run_ids,
            "rate_per_s": self.working().rate_per_s,
        }
        try:
            if not self._is_stock_saved:  # not at once: most files are small, and over before their first checkpoint
                self._directory.write_whole(META, _meta_json(self._origin, self._stock))
                self._is_stock_saved = True
            self._directory.write_whole(PROGRESS, json.dumps(fields).encode("ascii"))
        except durable.DurableError as error:
            if error.errno == errno.ENOENT:
                raise ClaimLost(f"{self._directory.path} is gone") from error
            self._save_error = error
            raise
        self._save_error = None

    # --- the end ---------------------------------------------------------------------------------------------------

    def finish(self, places: Mapping[str, durable.Directory]) -> Receipt:
        """Write the receipt and put both away, in `done` or `failed` of `places`. Only when `is_over`.

        Only one process may do this at a time. Raises `durable.DurableError`: call it again; or `ClaimLost`.
        """
        try:
            if self._receipt is None:
                receipt = self._made_receipt(places)
                self._directory.write_whole(RECEIPT, receipt.to_json())
                self._receipt = receipt
            if name := put_away(self._directory, places):
                self._receipt = replace(self._receipt, file=name)
        except durable.DurableError as error:
            if error.errno == errno.ENOENT:
                raise ClaimLost(f"{self._directory.path} is gone") from error
            raise
        return self._receipt

    def _made_receipt(self, places: Mapping[str, durable.Directory]) -> Receipt:
        counts = Counter(self._ledger.snapshot().counts)
        total = max(self.lines or 0, counts[LINES])
        if self._failure and self._failure[0] in ("changed", "unreadable"):
            total = max(self._line, counts[LINES])  # what was counted before is not what was read
        if self._failure is None and counts[Fate.REJECTED] and not hosts_in(counts):
            self._failure = "no_hosts", ""
        reason, detail = self._failure or (None, "")
        receipt = Receipt(
            origin=self._origin,
            reason=reason,
            detail=detail or (REASONS[reason] if reason else None),
            file="",
            run_ids=tuple(self._run_ids),
            started=self._started,
            finished=rfc3339(self._terms.wall_clock()),
            lines=total,
            counts=counts,
            rejected_lines=tuple(self._named.rejected),
            set_aside_lines=tuple(self._named.set_aside),
        )
        return replace(receipt, file=free_name(places[receipt.place], self._origin.name, self.claim_id))

    def remove(self) -> None:
        """Remove what is left in the claim's directory, after `finish`. Never raises."""
        self._marks.close()
        remove(self._directory)

    def close(self) -> None:
        """Let the file go, for whoever takes it up next; what is still out is given out again then.

        Writes no checkpoint. May be called twice.
        """
        self._marks.close()
        if isinstance(self._reading, Generator):
            with suppress(ValueError):  # another thread is in it, and ends it when it finds that all is stopped
                self._reading.close()
        self._lock.close()
        self._directory.close()


class _Seen:
    """The hosts that a file has named so far, as many as are remembered."""

    def __init__(self, hosts: int) -> None:
        self._table = SeenTable(hosts, float("inf"))
        self._count = 0

    def add(self, hosts: list[str]) -> None:
        """Remember hosts that need not be told apart."""
        self._count += len(hosts)
        self._table.add(hosts, self._count >> 8)

    def before(self, host: str) -> bool:
        """Tell whether a host was named, and remember it."""
        self._count += 1
        now = self._count >> 8  # an order is all that is needed of it, and 32 bits hold
        is_known = self._table.contains(host, now)
        self._table.add((host,), now)
        return is_known


# --- on disk -------------------------------------------------------------------------------------------------------


def write_meta(directory: durable.Directory, origin: Origin) -> None:
    """Write down what is known of a file before it is taken; raise `durable.DurableError`."""
    directory.write_whole(META, _meta_json(origin, None))


def _meta_json(origin: Origin, stock: _Stock | None) -> bytes:
    fields = asdict(origin) | name_fields("name", origin.name) | {"stock": asdict(stock) if stock else None}
    return json.dumps(fields).encode("ascii")


def read_json(directory: durable.Directory, name: str) -> dict[str, Any]:
    """Return the object in a file; empty where there is none, or anything else. Raises `durable.DurableError`."""
    try:
        with directory.open_file(name) as file:
            found = json.loads(file.read(_MAX_JSON_BYTES))
    except (FileNotFoundError, durable.NotRegular, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_working(directory: durable.Directory) -> Working | None:
    """Return how far a claim has come that another process may hold; None where it is none (yet, or any more)."""
    meta, progress = read_json(directory, META), read_json(directory, PROGRESS)
    try:
        done = Progress.from_fields(progress).lines_done if progress else 0
        rate = progress.get("rate_per_s")
        total = int(meta["stock"]["lines"]) if meta["stock"] else None
        name = shown(name_of("name", meta))
        return Working(directory.path.name, name, done, total, None if rate is None else float(rate))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _with(run_ids: object, run_id: str) -> list[str]:
    known = [str(each) for each in run_ids] if isinstance(run_ids, list) else []
    return [*known, *([] if run_id in known else [run_id])][-_MAX_RUN_IDS:]


def free_name(place: durable.Directory, name: str, claim_id: str) -> str:
    """Return a name under which neither file nor receipt is in the way: its own, or with the claim's id behind it."""
    suffix = f".{claim_id}"
    for each in (cut(name, len(RECEIPT_SUFFIX)), cut(name, len(suffix) + len(RECEIPT_SUFFIX)) + suffix):
        if place.size_of(each) is None and place.size_of(each + RECEIPT_SUFFIX) is None:
            return each
    return f"{cut(name, 64)}{suffix}.{os.urandom(8).hex()}"


def cut(name: str, room_bytes: int) -> str:
    """Return as much of a file's name as leaves so much room behind it."""
    raw = os.fsencode(name)
    end = _MAX_NAME_BYTES - room_bytes
    for _ in range(3):  # not in the middle of a character, which has at most three bytes after its first
        if end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
    return os.fsdecode(raw[:end])


def put_away(directory: durable.Directory, places: Mapping[str, durable.Directory]) -> str | None:
    """Put a file and its receipt away, from wherever a crash may have left them; return the name that it has there.

    None where there is no receipt, or a damaged one. The file goes first: where its receipt is, it is. Each move is
    durable before the next. Raises `durable.DurableError`: nothing is lost, do it again.
    """
    fields = read_json(directory, RECEIPT)
    try:
        place, name, original = places[fields["result"]], name_of("file", fields), name_of("name", fields)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if _is_there(directory, DATA):
        if _same(directory.path / DATA, place.path / name):  # a power cut between the two sides of the move
            directory.unlink(DATA)
        else:
            if place.size_of(name) is not None or place.size_of(name + RECEIPT_SUFFIX) is not None:
                name = free_name(place, original, directory.path.name)
                renamed = {key: each for key, each in fields.items() if key != "file_base64"} | name_fields(
                    "file", name
                )
                directory.write_whole(RECEIPT, json.dumps(renamed, indent=1).encode("ascii") + b"\n")
            directory.move(DATA, place, name)
    target = name + RECEIPT_SUFFIX
    if place.size_of(target) is not None and not _same(directory.path / RECEIPT, place.path / target):
        target = f"{cut(name, 64)}.{directory.path.name}{RECEIPT_SUFFIX}"
    with suppress(OSError):  # for whoever may enter the folder: it is the folder that says who that is
        (directory.path / RECEIPT).chmod(0o644)
    directory.move(RECEIPT, place, target)
    return name


def _is_there(directory: durable.Directory, name: str) -> bool:
    return directory.size_of(name) is not None


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def remove(directory: durable.Directory) -> bool:
    """Remove a claim in which neither a file nor a receipt is left; tell whether it is gone. Never raises."""
    with suppress(durable.DurableError, OSError):
        if _is_there(directory, DATA) or _is_there(directory, RECEIPT):
            return False
        for name in sorted((entry.name for entry in directory.scan()), key=lambda name: name == LOCK):
            directory.unlink(name)
        directory.path.rmdir()
        return True
    return False
