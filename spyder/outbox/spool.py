"""The spool: a directory in which every batch waits, as one self-checking file, until the destination has it.

Place: after the batcher, before the shipper. Any thread may call anything here; a `Claim` belongs to one thread.

On disk, all on one file system, directories 0700, files 0600:

    TIME-BATCHID-CHECKSUM.json   ready: promised. Leaves by `remove` (delivered), for dead/ or for bad/
    .NAME.RANDOM.tmp             being written; removed by the next owner's start
    .owner.lock                  held by the daemon for its life
    dead/NAME, dead/NAME.why     refused by the destination, and why; never emptied by the program
    bad/NAME                     failed its own checksum, or no file at all; never emptied by the program

There is no index that could disagree with the files: the listing of the directory is the queue. Names that are
none of these are left alone.

**Names.** A file's name is a function of the batch's id and bytes alone. So a batch that is written anew, after an
error that left it in doubt whether the first attempt is there, replaces its own double. TIME is that of the id, UTC to
the millisecond: names sort by age, and the halves of a split batch keep their parent's place. BATCHID is a UUIDv7 (RFC
9562, section 5.7) as 32 hexadecimal digits: ordered by time, unique by 62 random bits whatever the clock says, and
across forks; a half has `.0` or `.1` after its parent's id. CHECKSUM is the first 16 digits of the SHA-256 of the exact
bytes: `sha256sum FILE` shows a person the same, and by chance 1 in 2**64 damaged files would pass. The file is plain
JSON without a trailer, for any tool to read.

**Who holds a file.** Shippers are threads of the daemon and other processes (`spyderctl replay-spool`), so a claim is
an exclusive flock on the batch file itself, by a descriptor of its own. The kernel ends it with its owner. Races:

- Two open the file, one locks it: the other's attempt fails at once, and it goes on to the next file.
- One opens it; meanwhile the holder removes or moves it and lets go; the first now locks an inode without that name.
  So after locking, the name must lead to the locked inode (its number cannot be given to another file while it is
  open). A file that is renamed away and back (dead and requeued) is the same inode under its name: a sound claim.
- Only a holder removes or moves a ready file, hence nothing can happen between that check and the act. The exception
  is `write` of the same batch once more (see Names): it replaces the file by an equal one, which is not locked. Both
  may then be sent, with the same id. That takes a failed sync of the directory first.
- A file can be claimed between its rename and the sync of the directory. If it is delivered and removed before
  `write` returns, the promise is kept by the destination.
- `requeue` moves a file which its burier may still hold: then nobody else gets it until that one lets go.

**Crashes.** `write`: see `spyder.runtime.durable`. `remove`: an unlink that is lost in a power cut means a second
delivery under the same id. `bury`: the reason, then the move; a crash between leaves a reason without a batch, which
the next burial replaces. `requeue`: the move, then the reason's end. `replace`: every part is promised before the
parent goes; a crash between sends both, and the parent, refused again, gives the same parts under the same names.
"""

import errno
import hashlib
import heapq
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from spyder.runtime import durable

RESERVE_BYTES = 64 << 20
"""Left free on the file system for others, and for the reasons of dead batches."""
RESERVE_FILES = 1000
MAX_BATCH_BYTES = 64 << 20
"""Some 30 times a batch of 10,000 edges (2.4 MB). More than this is not read into memory."""
RECOUNT_S = 10.0
"""A full spool is counted again after this long: another process may have made room."""

_BATCH_ID = r"[0-9a-f]{32}(?:\.[01]){0,20}"  # 2**20 parts: more than a batch has records
_NAME = re.compile(rf"(\d{{8}}T\d{{6}}\.\d{{3}}Z)-({_BATCH_ID})-([0-9a-f]{{16}})\.json", re.ASCII)
_BATCH_ID_ONLY = re.compile(_BATCH_ID, re.ASCII)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999, which is as far as a datetime goes


class Place(StrEnum):
    """Where a batch file lies; the values are the folders' names."""

    READY = "."
    DEAD = "dead"
    BAD = "bad"


class SpoolFull(durable.Unavailable):
    """`max_bytes` or the reserve is reached: wait until batches have been delivered, nothing is ever deleted."""


class PayloadTooLarge(Exception):
    """The batch is larger than any that would be read back: make it smaller."""


class NoSuchBatch(Exception):
    """No batch of that id lies there."""


class BadBatch(Exception):
    """The file is damaged. Where `moved`, it lies in bad/ now; else it is still where it was."""

    def __init__(self, name: "Name", reason: str, *, moved: bool) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
        self.moved = moved


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """The name of a batch file. Names sort by age, parents before their halves."""

    time: str
    """UTC, as `20260101T000000.000Z`."""
    batch_id: str
    checksum: str

    @classmethod
    def of(cls, batch_id: str, payload: bytes) -> Self:
        """Return the one name of these bytes under this id; raise `ValueError` for an id that is none."""
        if _BATCH_ID_ONLY.fullmatch(batch_id) is None:
            raise ValueError(f"not a batch id: {batch_id!r}")
        return cls(_time_of(batch_id), batch_id, _checksum(payload))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the name that a file has, or None where it is not a batch's."""
        found = _NAME.fullmatch(text)
        return cls(*found.groups()) if found else None

    def age_s(self, epoch_s: float) -> float:
        """Return how long before that moment the batch was begun; 0 where the clock has gone back since."""
        try:
            begun = datetime.strptime(self.time, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        except ValueError:  # the 45th of a month: somebody else's doing
            return 0.0
        return max(0.0, epoch_s - begun.timestamp())

    def __str__(self) -> str:
        return f"{self.time}-{self.batch_id}-{self.checksum}.json"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the spool holds. As of the last count, and what this process did since."""

    files: int
    bytes: int
    oldest_age_s: float
    """Of the oldest batch that is ready; 0 when there is none."""
    dead: int
    bad: int


def new_batch_id(epoch_s: float, randomness: Callable[[int], bytes] = os.urandom) -> str:
    """Return an id that no other batch has or will have, whatever the clock says; ids sort by time where it is right.

    A UUIDv7: 48 bits of milliseconds, the version, 12 bits of the millisecond's fraction (RFC 9562, section 6.2,
    method 3), the variant, 62 random bits.
    """
    milliseconds, fraction = divmod(max(0, int(epoch_s * 4_096_000)), 4096)
    random = int.from_bytes(randomness(8)) >> 2
    return f"{min(milliseconds, _LAST_MS) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random:032x}"


def half_ids(batch_id: str) -> tuple[str, str]:
    """Return the ids of the two halves of a batch that was too large; they name their parent."""
    return f"{batch_id}.0", f"{batch_id}.1"


class Claim:
    """One ready batch, held by nobody else until it is removed, buried, replaced or let go. One thread's."""

    def __init__(self, spool: "Spool", name: Name, held: durable.OpenFile) -> None:
        self.name = name
        self._spool = spool
        self._held = held

    @property
    def size(self) -> int:
        """The length of the file in bytes."""
        return self._held.size

    def read(self) -> bytes:
        """Return the batch, whose checksum is right. Once.

        Raises `BadBatch` (the file is in bad/ then) or `durable.Unreadable` (left in its place).
        """
        try:
            return self._spool._verified(self.name, self._held)
        except BadBatch as damage:
            raise self._spool._set_aside(self.name, damage.reason, self.size) from None

    def remove(self) -> None:
        """Take the batch off the disk: the destination has it. Durable after `Spool.sync`, once a pass.

        Raises `durable.Unavailable` or `DiskSuspect`: then it is still there, and must not be sent again for that.
        """
        self._spool._remove(self.name, self.size)

    def bury(self, why: Mapping[str, object]) -> None:
        """Move the batch to dead/, with the reason beside it.

        Raises `durable.Unavailable` or `DiskSuspect`: then it may be there, or still be ready.
        """
        self._spool._bury(self.name, self.size, why)

    def replace(self, parts: Iterable[tuple[str, bytes]]) -> list[Name]:
        """Put smaller batches in the place of this one, with the ids of `half_ids`, and remove it; return their names.

        The cap of the spool is not asked, for they are no more than what they replace; the reserve may be used.
        Raises `durable.Unavailable` or `DiskSuspect`: then this one is still there, and perhaps some of the parts.
        Raises `ValueError` for no parts, and for an id that does not name this one as its parent.
        """
        names = [self._spool._replace_by(self.name, batch_id, payload) for batch_id, payload in parts]
        if not names:
            raise ValueError(f"{self.name.batch_id} would be replaced by nothing")
        self.remove()
        return names

    def release(self) -> None:
        """Let go, whatever has become of the batch; may be called twice."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()


class Spool:
    """The spool directory. Thread-safe, except `close`, which is for when all others have stopped."""

    def __init__(
        self,
        directory: Path,
        *,
        owner: bool = True,
        max_bytes: int | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        reserve_files: int = RESERVE_FILES,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        calls: durable.Calls = durable.SYSTEM_CALLS,
    ) -> None:
        """Open the spool.

        An owner (the daemon) makes what is absent, removes what a dead owner left half-written, and proves that
        files can be moved to dead/ and bad/. Any number of others may work beside it.

        Args:
            directory: where the batches lie.
            owner: hold the directory for life. Only one process can.
            max_bytes: what the ready batches may take together; None for no cap. dead/ and bad/ do not count: they
                wait for a person, and would stop the intake until one comes.
            reserve_bytes: what `write` leaves free on the file system.
            reserve_files: as many inodes are left free too.
            max_batch_bytes: the largest batch that is written, or read back.
            clock: seconds since the epoch; for ages only.
            monotonic: seconds; for the time between two counts.
            calls: the system calls.

        Raises:
            durable.LockHeld: another owner lives.
            durable.DurableError: the directory cannot be used; the message says which step failed, and where.
        """
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._reserve_files = reserve_files
        self._max_batch_bytes = max_batch_bytes
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._files = self._bytes = self._dead_files = self._bad_files = 0
        self._oldest: Name | None = None
        self._counted_at = 0.0
        with ExitStack() as opened:
            self._root = opened.enter_context(
                durable.Directory.make(directory, calls=calls) if owner else durable.Directory(directory, calls=calls)
            )
            if owner:
                opened.enter_context(durable.DirectoryLock(self._root, ".owner.lock"))
            self._dead = opened.enter_context(self._root.child(Place.DEAD, make=owner))
            self._bad = opened.enter_context(self._root.child(Place.BAD, make=owner))
            if owner:
                self._root.sync()
                self._remove_leftovers()
                self._prove_moves()
            self.recount()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Give up the directory and its ownership; may be called twice."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _remove_leftovers(self) -> None:
        for directory in (self._root, self._dead, self._bad):
            for name in [entry.name for entry in directory.scan() if durable.is_temporary(entry.name)]:
                directory.unlink(name)

    def _prove_moves(self) -> None:
        """Fail at start, and not at the first burial: dead/ is a mount of its own, or a directory is not writable."""
        probe = durable.temporary_name("probe")
        try:
            self._root.open_or_make(probe).close()
        except durable.Unavailable as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return  # the more reason to start: shipping makes room
            raise
        way = (self._root, self._dead, self._bad, self._root)
        try:
            for source, target in itertools.pairwise(way):
                source.rename_to(probe, target, probe)
        finally:
            for directory in way[:3]:
                with suppress(durable.DurableError):
                    directory.unlink(probe)

    def write(self, batch_id: str, payload: bytes) -> Name:
        """Put a batch into the spool. When this returns, the batch is promised.

        Raises `SpoolFull` (admission), `durable.Unavailable` (the disk has no room, or does not permit it) or
        `durable.DiskSuspect`: then it is not promised; write it again, under the same id. Raises `PayloadTooLarge` or
        `ValueError` for what can never be written.
        """
        name = Name.of(batch_id, payload)
        self._admit(len(payload))
        return self._write(name, payload)

    def _write(self, name: Name, payload: bytes) -> Name:
        try:
            self._root.write_whole(str(name), payload)
        except BaseException:
            self._count(-1, -len(payload))
            raise
        return name

    def _replace_by(self, parent: Name, batch_id: str, payload: bytes) -> Name:
        if batch_id not in half_ids(parent.batch_id):
            raise ValueError(f"{batch_id!r} does not name {parent.batch_id} as its parent")
        name = Name.of(batch_id, payload)
        self._count(1, len(payload))
        return self._write(name, payload)

    def _admit(self, size: int) -> None:
        """Count the batch in, before it can be claimed and counted out; or raise."""
        most = min(self._max_batch_bytes, self._max_bytes or self._max_batch_bytes)
        if size > most:
            raise PayloadTooLarge(f"a batch of {size} bytes; the most is {most}")
        space = self._root.space()
        if space.bytes - size < self._reserve_bytes:
            raise self._full(f"{space.bytes} bytes are free, and {self._reserve_bytes} stay free")
        if space.files is not None and space.files <= self._reserve_files:
            raise self._full(f"{space.files} inodes are free, and {self._reserve_files} stay free")
        if not self._counted_in(size):
            if self._monotonic() - self._counted_at >= RECOUNT_S:
                self.recount()
            if not self._counted_in(size):
                raise self._full(f"{self._bytes} bytes are spooled, and at most {self._max_bytes} may be")

    def _counted_in(self, size: int) -> bool:
        with self._lock:
            fits = self._max_bytes is None or self._bytes + size <= self._max_bytes
            if fits:
                self._files += 1
                self._bytes += size
            return fits

    def _full(self, reason: str) -> SpoolFull:
        return SpoolFull(errno.ENOSPC, f"the spool is full: {reason}", str(self._root.path))

    def ready(self, *, limit: int, after: Name | None = None) -> list[Name]:
        """Return the oldest batches that are ready, at most `limit`, and newer than `after`; see `names`."""
        found = self.names(Place.READY, limit=limit, after=after)
        if after is None and limit > 0:
            self._oldest = found[0] if found else None
        return found

    def names(self, place: Place, *, limit: int, after: Name | None = None) -> list[Name]:
        """Return the oldest batch names of a place. No file is opened, and no more than `limit` names are kept.

        A name may be gone, held or damaged by the time it is claimed.
        """
        floor = str(after) if after else ""
        texts = (entry.name for entry in self._directory(place).scan() if entry.name > floor)
        oldest = heapq.nsmallest(limit, (text for text in texts if _NAME.fullmatch(text)))
        return [name for text in oldest if (name := Name.parse(text))]

    def claim(self, name: Name) -> Claim | None:
        """Hold a ready batch, so that no other thread or process does; None where one does, or it is gone.

        Raises `BadBatch` for what is not a regular file (it is in bad/ then), `durable.Unavailable` or `Unreadable`.
        """
        try:
            held = self._root.hold(str(name))
        except durable.NotRegular as error:
            raise self._set_aside(name, "not a regular file", 0) from error
        return Claim(self, name, held) if held else None

    def read(self, name: Name, place: Place = Place.READY) -> bytes:
        """Return a batch to look at, whoever holds it. Moves nothing.

        Raises `NoSuchBatch`, `BadBatch`, `durable.Unavailable` or `Unreadable`.
        """
        try:
            with self._directory(place).open_file(str(name)) as file:
                return self._verified(name, file)
        except FileNotFoundError:
            raise NoSuchBatch(f"{name} is not in {self._directory(place).path}") from None
        except durable.NotRegular as error:
            raise BadBatch(name, "not a regular file", moved=False) from error

    def why(self, name: Name) -> bytes:
        """Return the reason beside a dead batch, as JSON; empty where there is none."""
        try:
            with self._dead.open_file(f"{name}.why") as file:
                return file.read(self._max_batch_bytes)
        except (FileNotFoundError, durable.NotRegular):
            return b""

    def find(self, batch_id: str) -> list[tuple[Place, Name]]:
        """Return where a batch lies: nowhere, in one place, or after a crash or a damage in more."""
        return [(place, name) for place in Place for name in self._named(place, batch_id)]

    def _named(self, place: Place, batch_id: str) -> Iterator[Name]:
        for entry in self._directory(place).scan():
            if (name := Name.parse(entry.name)) and name.batch_id == batch_id:
                yield name

    def requeue(self, name: Name) -> None:
        """Move a dead batch back to those that are ready; raise `NoSuchBatch`, `Unavailable` or `DiskSuspect`."""
        size = self._dead.size_of(str(name))
        if size is None or not self._dead.move(str(name), self._root, str(name)):
            raise NoSuchBatch(f"no dead batch {name}")
        self._count(1, size, dead=-1)
        self._oldest = None
        self._dead.unlink(f"{name}.why")

    def discard(self, name: Name, place: Place) -> bool:
        """Delete a batch for good, on a person's word; False where it is gone, or being sent."""
        if place is Place.READY:
            return self._discard_ready(name)
        directory = self._directory(place)
        if not directory.unlink(str(name)):
            return False
        directory.unlink(f"{name}.why")
        directory.sync()
        self._count(0, 0, dead=-(place is Place.DEAD), bad=-(place is Place.BAD))
        return True

    def _discard_ready(self, name: Name) -> bool:
        claim = self.claim(name)
        if claim is None:
            return False
        with claim:
            claim.remove()
            self.sync()
        return True

    def sync(self) -> None:
        """Make the removals durable: once a pass is enough, for a lost one means a second delivery. `DiskSuspect`."""
        self._root.sync()

    def usage(self) -> Usage:
        """Return what the spool holds; cheap, except where the oldest batch has just gone (one listing)."""
        if self._oldest is None and self._files > 0:
            self.ready(limit=1)
        oldest = self._oldest
        with self._lock:
            return Usage(
                files=max(0, self._files),
                bytes=max(0, self._bytes),
                oldest_age_s=oldest.age_s(self._clock()) if oldest else 0.0,
                dead=self._dead_files,
                bad=self._bad_files,
            )

    def recount(self) -> None:
        """Count what is on the disk: at the start, and now and then, since other processes work here too.

        What this process changes meanwhile may be counted twice or not at all, until the next time.
        """
        files = size = 0
        oldest: str | None = None
        for entry in self._root.scan():
            if _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_size
                files += 1
                oldest = min(oldest or entry.name, entry.name)
        dead = sum(1 for entry in self._dead.scan() if _NAME.fullmatch(entry.name))
        bad = sum(1 for entry in self._bad.scan() if not entry.name.startswith("."))
        with self._lock:
            self._files, self._bytes, self._dead_files, self._bad_files = files, size, dead, bad
            self._oldest = Name.parse(oldest) if oldest else None
            self._counted_at = self._monotonic()

    def _count(self, files: int, size: int, *, dead: int = 0, bad: int = 0) -> None:
        with self._lock:
            self._files += files
            self._bytes += size
            self._dead_files += dead
            self._bad_files += bad

    def _directory(self, place: Place) -> durable.Directory:
        return {Place.READY: self._root, Place.DEAD: self._dead, Place.BAD: self._bad}[place]

    def _verified(self, name: Name, file: durable.OpenFile) -> bytes:
        if file.size > self._max_batch_bytes:
            raise BadBatch(name, f"{file.size} bytes; the most is {self._max_batch_bytes}", moved=False)
        payload = file.read(self._max_batch_bytes)
        if _checksum(payload) != name.checksum:
            raise BadBatch(name, f"{len(payload)} bytes with the checksum {_checksum(payload)}", moved=False)
        return payload

    def _set_aside(self, name: Name, reason: str, size: int) -> BadBatch:
        """Move a damaged file to bad/, over nothing that is there; return what to raise."""
        moved = False
        with suppress(durable.DurableError):  # it stays, is found again, and stops no other
            target = str(name)
            if self._bad.size_of(target) is not None:
                target += "." + os.urandom(4).hex()
            moved = self._root.move(str(name), self._bad, target)
        if moved:
            self._gone(name, size, bad=1)
        return BadBatch(name, reason, moved=moved)

    def _remove(self, name: Name, size: int) -> None:
        if self._root.unlink(str(name)):
            self._gone(name, size)

    def _bury(self, name: Name, size: int, why: Mapping[str, object]) -> None:
        self._dead.write_whole(f"{name}.why", json.dumps(dict(why), default=str).encode())
        if self._root.move(str(name), self._dead, str(name)):
            self._gone(name, size, dead=1)

    def _gone(self, name: Name, size: int, *, dead: int = 0, bad: int = 0) -> None:
        self._count(-1, -size, dead=dead, bad=bad)
        if name == self._oldest:
            self._oldest = None


def _checksum(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:16]


def _time_of(batch_id: str) -> str:
    milliseconds = min(int(batch_id[:12], 16), _LAST_MS)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{milliseconds % 1000:03d}Z"
