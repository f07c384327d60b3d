"""The inbox: a directory into which people drop domain files, and from which each is taken exactly once.

Place: the beginning of the path. No thread of its own: a scheduler calls `scan` every `inbox.poll_interval` and
`settle` every second, the feeder `claim_next`. Thread-safe.

    NAME                   waits, unless it starts with `.` or ends in `.part` or `.tmp`
    done/NAME, failed/NAME where it ends, each with its NAME.receipt.json; never emptied by the program
    .claimed/CLAIM/        files being worked on (`spyder.intake.claim`)

**When a file is complete.** It is if it was renamed into place; of others, that come by cp, scp or over NFS, nobody
says when. So a file must have had the same inode, size and time of change in two scans, and, on file systems that can
tell, nobody may have it open for writing: a lease of the kind F_RDLCK (fcntl(2)) is refused as long as somebody does.
It needs the file's owner or CAP_LEASE; where it cannot be had, the two scans have to do. Who writes to the file all
the same, through a descriptor from before, is found out by its checksum.

**Who takes it.** In a new directory whose lock is held and whose name is durable, the file's name is written down;
then the file is renamed into it. Of any number of processes, to one the rename succeeds, the others find nothing.

What is no regular file is left where it is, and named once. Only the scan counts, never notifications, which are lost
when the directory is made anew. A scan holds at most `_MAX_TRACKED` names, however many there are.
"""

import errno
import fcntl
import heapq
import itertools
import os
import re
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from spyder.intake import claim
from spyder.intake.claim import ClaimedFile, ClaimLost, Terms, Working
from spyder.intake.receipt import Origin, Receipt, shown
from spyder.intake.suspects import CALM_S, Traffic
from spyder.model.records import rfc3339
from spyder.runtime import durable

CLAIMED: Final = ".claimed"
PLACES: Final = ("done", "failed")

MAX_FILE_BYTES: Final = 4 << 30
"""Of a file, and of what is unpacked from it: 200 million hosts, and half a minute of a bomb's time."""
MAX_CLAIMED: Final = 256
"""Files in work at the same time: a small one waits for its batch, which takes seconds, while others are read."""
REMEMBERED_HOSTS: Final = 1 << 20
"""Hosts of one file among which duplicates are found: 12 bytes each, while it is read. A host that stood further back
is probed again and counted as accepted."""

_MAX_READY: Final = 1000
_MAX_TRACKED: Final = 10_000
_FINISHING_LOCK: Final = ".finishing.lock"
_CLAIM_ID: Final = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", re.ASCII)
_COPY_BYTES: Final = 1 << 20

_Look = tuple[int, int, int]
"""What must stand still: inode, size, time of change in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that is not taken."""

    name: str
    """One line of printable characters."""
    reason: str


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a look at the directory found."""

    ready: int
    """Files that can be taken now, at most `_MAX_READY`."""
    refused: tuple[Refusal, ...] = ()
    """What was not refused before for the same reason. Files without permission are tried again all the same."""
    problem: str | None = None
    """Why there was nothing to look at: the directory is gone, or not permitted."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What `settle` did."""

    receipts: tuple[Receipt, ...] = ()
    lost: tuple[str, ...] = ()
    """Names of files whose claim somebody removed."""
    error: durable.DurableError | None = None
    """The first write that failed; all of it is tried again the next time."""


@dataclass(frozen=True, slots=True)
class InboxStatus:
    """The inbox at a glance."""

    waiting: int
    working: tuple[Working, ...]
    done: int
    failed: int


class Inbox:
    """The inbox directory of one process. Any number of processes may work on one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        run_id: str,
        max_bytes: int = MAX_FILE_BYTES,
        max_claimed: int = MAX_CLAIMED,
        remembered_hosts: int = REMEMBERED_HOSTS,
        calm_s: float = CALM_S,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        calls: durable.Calls = durable.SYSTEM_CALLS,
    ) -> None:
        """Open the inbox; make what is absent of it (mode 0700).

        Args:
            directory: where files are dropped.
            run_id: named in the receipts.
            max_bytes: the largest file, and the most that is unpacked from one.
            max_claimed: files that are held at the same time.
            remembered_hosts: hosts of one file among which duplicates are found.
            calm_s: for how long the process must have lived before a suspect is probed.
            clock: seconds that only go forward.
            wall_clock: seconds since the epoch.
            calls: the system calls.

        Raises:
            durable.DurableError: the directory cannot be used; the message says which step failed, and where.
        """
        self._path = directory
        self._calls = calls
        self._max_claimed = max_claimed
        self._traffic = Traffic(calm_s=calm_s, clock=clock)
        self._terms = Terms(run_id, max_bytes, remembered_hosts, self._traffic, clock, wall_clock)
        self._lock = threading.Lock()
        self._tracked: dict[str, _Look] = {}
        self._ready: deque[tuple[str, _Look]] = deque()
        self._refused: dict[str, str] = {}
        self._news: list[Refusal] = []
        self._claims: dict[str, ClaimedFile] = {}
        durable.Directory.make(directory, calls=calls).close()
        with self._opened() as (root, _):
            root.sync()

    @contextmanager
    def _opened(self) -> Iterator[tuple[durable.Directory, durable.Directory]]:
        """Open the directory that has the path now, and its claims: somebody may have made it anew."""
        with durable.Directory(self._path, calls=self._calls) as root:
            for name in PLACES:
                root.child(name, make=True).close()
            with root.child(CLAIMED, make=True) as claimed:
                yield root, claimed

    # --- looking ---------------------------------------------------------------------------------------------------

    def scan(self) -> ScanResult:
        """Look at the directory, and find out which files are complete. Never raises for what it finds there."""
        try:
            with self._opened() as (root, _):
                return self._scan(root)
        except durable.DurableError as error:
            with self._lock:
                self._tracked.clear()
                self._ready.clear()
            return ScanResult(0, problem=str(error))

    def _scan(self, root: durable.Directory) -> ScanResult:
        with self._lock:
            before = self._tracked
        now: dict[str, _Look] = {}
        ready: list[tuple[int, str]] = []
        odd: dict[str, str] = {}
        for name, look in _looks(root):
            if isinstance(look, str):
                if len(odd) < _MAX_TRACKED:
                    odd[name] = look
            elif name in before or len(now) < _MAX_TRACKED:
                now[name] = look
                if before.get(name) == look:
                    ready.append((look[2], name))
            if len(ready) == _MAX_READY:
                now = dict(itertools.islice((now | before).items(), _MAX_TRACKED))
                break
        with self._lock:
            self._tracked = now
            self._ready = deque((name, now[name]) for _, name in sorted(ready))
            self._refuse_all(odd, now)
            news, self._news = tuple(self._news), []
            return ScanResult(len(self._ready), news)

    def _refuse_all(self, odd: dict[str, str], regular: dict[str, _Look]) -> None:
        denied = {name: reason for name, reason in self._refused.items() if name in regular}
        self._news += [Refusal(shown(name), why) for name, why in odd.items() if self._refused.get(name) != why]
        self._refused = odd | denied

    def _refuse(self, name: str, reason: str) -> None:
        with self._lock:
            if self._refused.get(name) != reason:
                self._refused[name] = reason
                self._news.append(Refusal(shown(name), reason))

    # --- taking ----------------------------------------------------------------------------------------------------

    def claim_next(self) -> ClaimedFile | None:
        """Take the next file that is complete, oldest first; None where there is none, or enough are held.

        Raises `durable.DurableError`: there is no room now, or the disk is suspect; try again
        later. What was half done is found by `resume`.
        """
        while not self._traffic.is_stopped:
            with self._lock:
                if not self._ready or len(self._claims) >= self._max_claimed:
                    return None
                name, look = self._ready.popleft()
            if self._is_still_complete(name, look) and (taken := self._claim(name, look)):
                return taken
        return None

    def _is_still_complete(self, name: str, look: _Look) -> bool:
        try:
            is_complete = _stands_still(self._path / name, look)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._refuse(name, f"{os.strerror(error.errno or 0)}; it is tried again")
            return False
        if is_complete:
            with self._lock:
                self._refused.pop(name, None)
        return is_complete

    def _claim(self, name: str, look: _Look) -> ClaimedFile | None:
        claim_id = _new_claim_id(self._terms.wall_clock())
        arrived = rfc3339(self._terms.wall_clock())
        origin = Origin(claim_id, name, look[1], arrived, self._terms.run_id, sha256=None)
        with self._opened() as (root, claimed), ExitStack() as held:
            directory = held.enter_context(claimed.child(claim_id, make=True))
            claimed.sync()
            lock = _locked(directory)
            if lock is None:  # somebody who cleared away rubbish was quicker
                return None
            held.enter_context(lock)
            held.callback(claim.remove, directory)  # does nothing once the file is there
            claim.write_meta(directory, origin)
            try:
                if not root.move(name, directory, claim.DATA):
                    return None
            except durable.Unavailable as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EXDEV, errno.EBUSY):
                    self._refuse(name, f"{os.strerror(error.errno)}; it is tried again")
                    return None
                raise
            taken = ClaimedFile(directory, lock, self._terms)
            held.pop_all()
        return self._held(taken)

    def _held(self, taken: ClaimedFile) -> ClaimedFile:
        with self._lock:
            self._claims[taken.claim_id] = taken
        return taken

    def resume(self) -> list[ClaimedFile]:
        """Take up what is in `.claimed` and held by nobody: what a dead process had, this one or another.

        At the start, and now and then. Files that only had to be put away are put away, and are not returned.
        Raises `durable.DurableError`.
        """
        with self._lock:
            mine = set(self._claims)
        found: list[ClaimedFile] = []
        with self._opened() as (root, claimed):
            names = (entry.name for entry in claimed.scan() if _CLAIM_ID.fullmatch(entry.name))
            for name in heapq.nsmallest(_MAX_TRACKED, (each for each in names if each not in mine)):
                if len(mine) + len(found) >= self._max_claimed:
                    break
                if taken := self._resume_one(root, claimed, name):
                    found.append(taken)
        return found

    def _resume_one(self, root: durable.Directory, claimed: durable.Directory, name: str) -> ClaimedFile | None:
        with ExitStack() as held:
            try:
                directory = held.enter_context(claimed.child(name))
            except durable.DurableError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
            lock = _locked(directory)
            if lock is None:
                return None
            held.enter_context(lock)
            if directory.size_of(claim.RECEIPT) is not None:
                with _finishing(root, claimed) as places:
                    if places is None:
                        return None
                    if claim.put_away(directory, places) is None:
                        directory.unlink(claim.RECEIPT)  # damaged; without it the work is done again
            if claim.remove(directory):
                return None
            taken = ClaimedFile(directory, lock, self._terms)
            held.pop_all()
        return self._held(taken)

    # --- putting away ----------------------------------------------------------------------------------------------

    def settle(self) -> Settled:
        """Put away every file that is over, and checkpoint the others."""
        with self._lock:
            claims = list(self._claims.values())
        receipts: list[Receipt] = []
        lost: list[str] = []
        first_error: durable.DurableError | None = None
        over = [each for each in claims if each.is_over]
        try:
            if over:
                self._finish(over, receipts, lost)
        except durable.DurableError as error:
            first_error = error
        for each in claims:
            if each not in over:
                try:
                    each.checkpoint()
                except ClaimLost:
                    lost.append(self._dropped(each))
                except durable.DurableError as error:
                    first_error = first_error or error
        return Settled(tuple(receipts), tuple(lost), first_error)

    def _finish(self, over: list[ClaimedFile], receipts: list[Receipt], lost: list[str]) -> None:
        with self._opened() as (root, claimed), _finishing(root, claimed) as places:
            if places is None:
                return
            for each in over:
                try:
                    receipts.append(each.finish(places))
                    each.remove()
                except ClaimLost:
                    lost.append(each.name)
                self._dropped(each)

    def _dropped(self, gone: ClaimedFile) -> str:
        with self._lock:
            self._claims.pop(gone.claim_id, None)
        gone.close()
        return gone.name

    def status(self) -> InboxStatus:
        """Return what the inbox holds. Lists the directory, and opens no file."""
        with self._lock:
            claims = list(self._claims.values())
        return _status(self._path, tuple(each.working() for each in claims))

    def submit(self, stream: BinaryIO, name: str, *, max_bytes: int | None = None) -> str:
        """Drop a file here; see the function `submit`."""
        return submit(self._path, stream, name, max_bytes=max_bytes)

    def stop(self) -> None:
        """Take nothing more, and end every iteration; returns at once, may be called twice."""
        self._traffic.stop()

    def close(self) -> int:
        """Checkpoint every file, and let it go, for the next process; return how many are unfinished.

        Call when the feeder has ended and the last batch is promised. What a worker still probes suspects nobody.
        """
        self.stop()
        with self._lock:
            claims, self._claims = self._claims, {}
        for each in claims.values():
            with suppress(durable.DurableError, ClaimLost):  # the last checkpoint stands
                each.checkpoint(now=True)
            each.close()
        return len(claims)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


# --- one entry -----------------------------------------------------------------------------------------------------


def _is_candidate(name: str) -> bool:
    return not name.startswith(".") and not name.endswith((".part", ".tmp")) and name not in PLACES


def _looks(root: durable.Directory) -> Iterator[tuple[str, _Look | str]]:
    """Yield what there is under each name: what must stand still, or why it is never taken."""
    for entry in root.scan():
        if _is_candidate(entry.name) and (look := _look_at(entry)):
            yield entry.name, look


def _look_at(entry: os.DirEntry[str]) -> _Look | str | None:
    """Return what must stand still; why it is never taken; or None where it is gone."""
    try:
        if entry.is_file(follow_symlinks=False):
            found = entry.stat(follow_symlinks=False)
            return found.st_ino, found.st_size, found.st_mtime_ns
        return f"{_kind(entry)}, not a regular file"
    except OSError:
        return None


def _kind(entry: os.DirEntry[str]) -> str:
    mode = entry.stat(follow_symlinks=False).st_mode
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _stands_still(path: Path, look: _Look) -> bool:
    """Tell whether a file is still as it looked, and nobody has it open for writing; raise `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        is_same = stat.S_ISREG(found.st_mode) and (found.st_ino, found.st_size, found.st_mtime_ns) == look
        return is_same and not _is_being_written(fd)
    finally:
        os.close(fd)


def _is_being_written(fd: int) -> bool:
    try:
        # who opens it for writing just now breaks the lease: of the signals that tell, this one is ignored by default
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _new_claim_id(epoch_s: float) -> str:
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y%m%dT%H%M%S.%fZ}-{os.urandom(4).hex()}"


def _locked(directory: durable.Directory) -> durable.OpenFile | None:
    """Hold a claim; None where another process does, or it is gone."""
    try:
        directory.open_or_make(claim.LOCK).close()
        return directory.hold(claim.LOCK)
    except durable.NotRegular:
        return None
    except durable.DurableError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


_Places = dict[str, durable.Directory]


@contextmanager
def _finishing(root: durable.Directory, claimed: durable.Directory) -> Iterator[_Places | None]:
    """Open where files end, for the one process that may choose names there; None for all others."""
    with ExitStack() as opened:
        try:
            opened.enter_context(durable.DirectoryLock(claimed, _FINISHING_LOCK))
        except durable.LockHeld:
            yield None
        else:
            yield {name: opened.enter_context(root.child(name)) for name in PLACES}


# --- from other processes ------------------------------------------------------------------------------------------


def read_status(directory: Path) -> InboxStatus:
    """Return what an inbox holds, whoever works on it. Changes nothing.

    What may not be read counts nothing: the claims are for the daemon's user alone. Raises `durable.DurableError`
    where the directory itself cannot be opened.
    """
    durable.Directory(directory).close()
    working: list[Working] = []
    with suppress(durable.DurableError), durable.Directory(directory / CLAIMED) as claimed:
        names = (entry.name for entry in claimed.scan() if _CLAIM_ID.fullmatch(entry.name))
        for name in heapq.nsmallest(_MAX_READY, names):
            with suppress(durable.DurableError), claimed.child(name) as each:
                working += filter(None, [claim.read_working(each)])
    return _status(directory, tuple(working))


def _status(directory: Path, working: tuple[Working, ...]) -> InboxStatus:
    waiting = _count(directory, lambda entry: _is_candidate(entry.name) and entry.is_file(follow_symlinks=False))
    done, failed = (
        _count(directory / place, lambda entry: entry.name.endswith(claim.RECEIPT_SUFFIX)) for place in PLACES
    )
    return InboxStatus(waiting, working, done, failed)


def _count(directory: Path, counts: Callable[[os.DirEntry[str]], bool]) -> int:
    with suppress(OSError), os.scandir(directory) as entries:
        return sum(map(counts, entries))
    return 0


class TooLarge(ValueError):
    """There is more than may be submitted."""


def submit(
    directory: Path, stream: BinaryIO, name: str, *, max_bytes: int | None = None, is_unique: bool = False
) -> str:
    """Drop a file into an inbox so that it is there whole or not at all; return the name that it has.

    That is `name`, or where a file of that name waits, one with eight random digits behind it; with `is_unique` it
    always has them, and its receipt can be waited for under this name. Blocks as `stream` does; durable on return.

    Raises `ValueError` for a name that would not be taken up, `TooLarge`, or `OSError`: then there is nothing.
    """
    if not _is_candidate(name) or not name or "/" in name or "\0" in name:
        raise ValueError(f"not a name for a file in an inbox: {shown(name)}")
    temporary = durable.temporary_name("submit")
    with durable.Directory(directory) as inbox:
        try:
            _copy(stream, directory / temporary, max_bytes)
            final = _linked(directory, temporary, name, is_unique=is_unique)
        finally:
            inbox.unlink(temporary)
        inbox.sync()
    return final


def _copy(stream: BinaryIO, path: Path, max_bytes: int | None) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        total_bytes = 0
        while chunk := stream.read(_COPY_BYTES):
            total_bytes += len(chunk)
            if max_bytes is not None and total_bytes > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes")
            left = memoryview(chunk)
            while left:
                left = left[os.write(fd, left) :]
        os.fchmod(fd, 0o644)  # the daemon may be another user; the directory says who may enter
        os.fsync(fd)
    finally:
        os.close(fd)


def _linked(directory: Path, temporary: str, name: str, *, is_unique: bool) -> str:
    """Give a file its name, over nothing that is there."""
    stem = claim.cut(name, 32)
    final = f"{stem}-{os.urandom(4).hex()}" if is_unique else claim.cut(name, 0)
    while True:
        try:
            os.link(directory / temporary, directory / final, follow_symlinks=False)
        except FileExistsError:
            final = f"{stem}-{os.urandom(4).hex()}"
        else:
            return final
