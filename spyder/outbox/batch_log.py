"""Batches in a directory of JSON lines, each there once and for good: what `file:` writes and the receiver keeps.

Place: under `spyder.outbox.destinations.files` and `spyder.outbox.receiver`. Any number of threads and processes may
append to one directory; each append holds `.lock` there (flock), which the kernel frees at its holder's death.

    batches-TIME.jsonl   one batch a line, its id first. A new file is begun when the last would grow beyond its size
    .lock                held for the time of an append

**A batch is known if and only if its line is in the files.** There is no index that could disagree: the ids are read
from the lines, at first use and whenever another process has appended. An id counts only when its line is whole and
the file has been synced since, for what a killed process wrote may never have reached the disk.

A line that was cut off by a crash is cut back to the end of the line before: it was promised to nobody. Every append is
synced before the next begins, hence only the last line of all can be such a one. After a failed sync the bytes are in
doubt for ever (`spyder.runtime.durable`), so the line is cut back, and the next goes to a new file.
"""

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from spyder.outbox.payload import BadPayload, decode
from spyder.runtime import durable

_NAME: Final = re.compile(r"batches-(\d{8}T\d{6}\.\d{3})Z\.jsonl", re.ASCII)
_TIME: Final = "%Y%m%dT%H%M%S.%f"
_ID: Final = r'[^"\\\x00-\x1f]{1,200}'
_LINE_ID: Final = re.compile(rb'\{"batch_id":"(' + _ID.encode() + rb')"')
_LOCK: Final = ".lock"
_LOCK_WAIT_S: Final = 5.0
"""An append takes milliseconds; who waits longer waits for a process that was stopped."""
_LOCK_POLL_S: Final = 0.005
_READ_BYTES: Final = 1 << 16


class Busy(Exception):
    """Another process holds the directory, and has not let go in time."""


@dataclass(slots=True)
class _Known:
    """What has been read of one file."""

    inode: int
    end: int = 0
    """Everything before this was read, and is whole."""
    ids: set[bytes] = field(default_factory=set)


def as_line(batch_id: str, payload: bytes) -> bytes:
    """Return a batch as one line that begins with its id. Raises `BadPayload` for what is not one JSON object."""
    begin = b'{"batch_id":' + orjson.dumps(batch_id)
    if payload.startswith((begin + b",", begin + b"}")) and b"\n" not in payload and b"\r" not in payload:
        decode(payload)
        return payload + b"\n"
    return orjson.dumps({"batch_id": batch_id} | decode(payload) | {"batch_id": batch_id}) + b"\n"


class BatchLog:
    """The directory. Thread-safe."""

    def __init__(
        self,
        directory: Path,
        *,
        max_file_bytes: int,
        remembered_files: int | None = None,
        clock: Callable[[], float] = time.time,
        calls: durable.Calls = durable.SYSTEM_CALLS,
    ) -> None:
        """Touch nothing yet.

        Args:
            directory: made at the first append where it is absent; never again after that.
            max_file_bytes: a file is not appended to where it would grow beyond this, unless by its first line.
            remembered_files: the newest so many files are looked into for a batch; None for all of them.
            clock: seconds since the epoch, for the names.
            calls: the system calls.
        """
        self._path = directory
        self._max_file_bytes = max_file_bytes
        self._remembered_files = remembered_files
        self._clock = clock
        self._calls = calls
        # held through the I/O of an append: it is the order of the lines. Another process may hold that up too
        self._turn = threading.Lock()
        self._made = False
        self._known: dict[str, _Known] = {}
        self._doubtful: set[str] = set()

    def open(self) -> int:
        """Make the directory, mend the last line, read the ids, and return how many there are; else as `append`."""
        with self._alone() as directory:
            self._catch_up(directory)
            return sum(len(each.ids) for each in self._known.values())

    def append(self, batch_id: str, line: bytes) -> bool:
        """Append a line of `as_line`, durably; False where the batch is there. Blocks on the disk and other writers.

        Raises `Busy`, or `OSError` (`durable.DurableError` among them): then the line does not count as written.
        """
        with self._alone() as directory:
            self._catch_up(directory)
            key = _key(batch_id)
            if any(key in each.ids for each in self._known.values()):
                return False
            self._write(directory, key, line)
            return True

    @contextmanager
    def _alone(self) -> Iterator[durable.Directory]:
        if not self._turn.acquire(timeout=_LOCK_WAIT_S):
            raise Busy("another thread is writing")
        try:
            with self._directory() as directory, self._held(directory):
                yield directory
        finally:
            self._turn.release()

    def _directory(self) -> durable.Directory:
        """Open it anew each time: a directory that was put in the place of the old one is taken for what it is."""
        if self._made:
            return durable.Directory(self._path, calls=self._calls)
        made = durable.Directory.make(self._path, calls=self._calls)
        self._made = True
        return made

    def _held(self, directory: durable.Directory) -> durable.OpenFile:
        directory.open_or_make(_LOCK).close()
        end = time.monotonic() + _LOCK_WAIT_S
        while (held := directory.hold(_LOCK)) is None:
            if time.monotonic() >= end:
                raise Busy("another process is writing")
            time.sleep(_LOCK_POLL_S)  # flock knows no time limit
        return held

    # reading

    def _catch_up(self, directory: durable.Directory) -> None:
        names = _names(directory)[-(self._remembered_files or 0) :]
        self._known = {name: known for name, known in self._known.items() if name in names}
        for name in names:
            if name not in self._doubtful:
                self._read(directory, name, last=name == names[-1])

    def _read(self, directory: durable.Directory, name: str, *, last: bool) -> None:
        path = directory.path / name
        try:
            found = path.stat(follow_symlinks=False)
        except FileNotFoundError:  # moved away just now: its batches are no longer known
            self._known.pop(name, None)
            return
        known = self._known.get(name)
        if known is None or known.inode != found.st_ino or found.st_size < known.end:
            known = _Known(found.st_ino)
        if found.st_size > known.end:
            fd = self._calls.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                end, ids = _whole_lines(fd, known.end, check_last=last)
                if end < found.st_size:
                    self._calls.ftruncate(fd, end)
                self._calls.fsync(fd)
            finally:
                self._calls.close(fd)
            directory.sync()
            known.end = end
            known.ids |= ids
        self._known[name] = known

    # writing

    def _write(self, directory: durable.Directory, key: bytes, line: bytes) -> None:
        name = self._current(directory, len(line))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        new = name not in self._known
        fd = self._calls.open(directory.path / name, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
        try:
            known = self._known.get(name) or _Known(self._calls.fstat(fd).st_ino)
            self._write_synced(fd, name, line, known.end)
            if new:
                directory.sync()
        except BaseException:
            if new:
                with suppress(OSError):
                    directory.unlink(name)
            raise
        finally:
            self._calls.close(fd)
        known.end += len(line)
        known.ids.add(key)
        self._known[name] = known

    def _write_synced(self, fd: int, name: str, line: bytes, end: int) -> None:
        written = False
        try:
            left = memoryview(line)
            while left:
                left = left[self._calls.write(fd, left) :]
            written = True
            self._calls.fsync(fd)
        except BaseException:
            if written:
                self._doubtful.add(name)
            with suppress(OSError):  # the next append finds what is left of it
                self._calls.ftruncate(fd, end)
            raise

    def _current(self, directory: durable.Directory, size: int) -> str:
        names = _names(directory)
        if names and names[-1] in self._known and names[-1] not in self._doubtful:
            end = self._known[names[-1]].end
            if end == 0 or end + size <= self._max_file_bytes:
                return names[-1]
        moment = datetime.fromtimestamp(self._clock(), UTC).replace(tzinfo=None)
        if names:
            # the newest file has the greatest name, whatever the clock says
            moment = max(moment, _moment(names[-1]) + timedelta(milliseconds=1))
        return f"batches-{moment.strftime(_TIME)[:-3]}Z.jsonl"


def _key(batch_id: str) -> bytes:
    return orjson.dumps(batch_id)[1:-1]


def _names(directory: durable.Directory) -> list[str]:
    """Return the names of our files, oldest first; what else lies there is left alone."""
    return sorted(entry.name for entry in directory.scan() if _is_ours(entry.name))


def _is_ours(name: str) -> bool:
    try:
        return _NAME.fullmatch(name) is not None and _moment(name).year < 9999
    except ValueError:  # the 45th of a month: somebody else's doing
        return False


def _moment(name: str) -> datetime:
    found = _NAME.fullmatch(name)
    assert found is not None
    return datetime.strptime(found[1], _TIME)  # noqa: DTZ007 - compared with its like


def _whole_lines(fd: int, begin: int, *, check_last: bool) -> tuple[int, set[bytes]]:
    """Return where the last whole line ends, and the ids of the lines from `begin` on.

    With `check_last` the last line must be JSON as well: after a power cut a file may be as long as it was to become,
    and hold something else.
    """
    ids: set[bytes] = set()
    position = line_begin = last_begin = begin
    line_id: bytes | None = None
    last_id: bytes | None = None
    with open(fd, "rb", closefd=False) as file:
        file.seek(begin)
        while part := file.readline(_READ_BYTES):
            if position == line_begin:
                found = _LINE_ID.match(part)
                line_id = found[1] if found else None
            position += len(part)
            if part.endswith(b"\n"):
                if last_id is not None:
                    ids.add(last_id)
                last_begin, last_id, line_begin = line_begin, line_id, position
        if check_last and last_begin < line_begin and not _is_json(file, last_begin, line_begin):
            return last_begin, ids
    if last_id is not None:
        ids.add(last_id)
    return line_begin, ids


def _is_json(file: BinaryIO, begin: int, end: int) -> bool:
    file.seek(begin)
    try:
        decode(file.read(end - begin))
    except BadPayload:
        return False
    return True


NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a write that pass by themselves, when somebody makes room."""
