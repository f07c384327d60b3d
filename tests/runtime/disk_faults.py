"""Disks that fail, lie, and lose power: tables of system calls for the fault tests, and a model of crashes.

The model is the strict one of POSIX: of a file's bytes only what was there at its last fsync is sure to survive, of
the names in a directory only those that its last fsync saw; of all that came later any part may survive, in any order.
"""

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from spyder.runtime.durable import SYSTEM_CALLS, Calls

SHORT_WRITE = "short write"


@dataclass
class Faults:
    """Fails the `at`th call, counted from 1, with an error number, or for `SHORT_WRITE` by half of its work."""

    at: int
    error: int | str
    only: str | None = None
    seen: int = 0
    hit: str = ""
    """The name of the call that failed; empty while none did."""
    after_failed_sync: list[str] = field(default_factory=list)
    """What was done to a descriptor whose fsync had failed; nothing but `close` is allowed."""
    _failed: set[int] = field(default_factory=set)

    def calls(self, base: Calls = SYSTEM_CALLS) -> Calls:
        """Return the table that fails."""
        return Calls(**{each.name: self._wrap(each.name, getattr(base, each.name)) for each in fields(base)})

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            if args[0] in self._failed and name in ("write", "fsync", "close"):
                if name == "close":
                    self._failed.discard(args[0])
                else:
                    self.after_failed_sync.append(name)
            if self.only in (None, name):
                self.seen += 1
                if self.seen == self.at:
                    self.hit = name
                    return self._fail(name, call, args, kwargs)
            return call(*args, **kwargs)

        return failing

    def _fail(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.error == SHORT_WRITE:
            if name == "write":
                return call(args[0], args[1][: max(1, len(args[1]) // 2)])
            self.hit = ""
            return call(*args, **kwargs)
        if name == "fsync":
            lose_unsynced(args[0])
            self._failed.add(args[0])
        raise OSError(self.error, os.strerror(int(self.error)))


def lose_unsynced(fd: int) -> None:
    """Do what Linux does after a failed fsync of a new file: its pages count as clean, and are gone."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.ftruncate(fd, 0)


def without_file_sync(base: Calls = SYSTEM_CALLS) -> Calls:
    """Return a mutant: files are not synced."""
    return replace(base, fsync=lambda fd: base.fsync(fd) if stat.S_ISDIR(os.fstat(fd).st_mode) else None)


def without_directory_sync(base: Calls = SYSTEM_CALLS) -> Calls:
    """Return a mutant: directories are not synced."""
    return replace(base, fsync=lambda fd: base.fsync(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else None)


def rename_before_file_sync(base: Calls = SYSTEM_CALLS) -> Calls:
    """Return a mutant: the file gets its final name first, and is synced then."""
    late: list[int] = []

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            late.append(base.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
        else:
            base.fsync(fd)

    def rename(*args: Any, **kwargs: Any) -> None:
        base.rename(*args, **kwargs)
        while late:
            base.fsync(late[-1])
            base.close(late.pop())

    return replace(base, fsync=fsync, rename=rename)


def sync_until_it_succeeds(base: Calls = SYSTEM_CALLS) -> Calls:
    """Return a mutant: a failed fsync is tried again on the same descriptor."""

    def fsync(fd: int) -> None:
        try:
            base.fsync(fd)
        except OSError:
            base.fsync(fd)

    return replace(base, fsync=fsync)


@dataclass(frozen=True)
class NameChange:
    """One change of names: `gone` leads nowhere any more, `come` leads to a file. Names are (directory, name)."""

    gone: tuple[int, str] | None
    come: tuple[int, str] | None
    file: int | None


@dataclass(frozen=True)
class Write:
    """Bytes that were added to a file."""

    file: int
    payload: bytes


@dataclass(frozen=True)
class Sync:
    """An fsync of a file or a directory."""

    inode: int


@dataclass(frozen=True)
class Note:
    """What the program said to the world at this moment."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Remains:
    """One state in which a power cut may leave the disk, and what had been said before it."""

    files: dict[tuple[int, str], bytes]
    notes: list[tuple[str, ...]]


@dataclass
class Recorder:
    """Makes the calls, and keeps the trace of what they changed."""

    trace: list[NameChange | Write | Sync | Note] = field(default_factory=list)
    _serials: dict[int, int] = field(default_factory=dict)
    """Of each inode the file that it is now: file systems give the numbers of removed files to new ones."""
    _next: Iterator[int] = field(default_factory=lambda: itertools.count(1 << 64))

    def calls(self, base: Calls = SYSTEM_CALLS) -> Calls:
        """Return the table that is recorded."""

        def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            makes = flags & os.O_CREAT and _inode_of(kwargs["dir_fd"], path) is None
            fd = base.open(path, flags, *args, **kwargs)
            if makes:
                self._serials[os.fstat(fd).st_ino] = next(self._next)
                self.trace.append(NameChange(None, (self._file(kwargs["dir_fd"]), path), self._file(fd)))
            return fd

        def write(fd: int, payload: memoryview) -> int:
            count = base.write(fd, payload)
            self.trace.append(Write(self._file(fd), bytes(payload[:count])))
            return count

        def fsync(fd: int) -> None:
            base.fsync(fd)
            self.trace.append(Sync(self._file(fd)))

        def rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            inode = _inode_of(src_dir_fd, source)
            base.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            assert inode is not None
            gone, come = (self._file(src_dir_fd), source), (self._file(dst_dir_fd), target)
            self.trace.append(NameChange(gone, come, self._serials[inode]))

        def unlink(name: str, *, dir_fd: int) -> None:
            base.unlink(name, dir_fd=dir_fd)
            self.trace.append(NameChange((self._file(dir_fd), name), None, None))

        return replace(base, open=open_, write=write, fsync=fsync, rename=rename, unlink=unlink)

    def _file(self, fd: int) -> int:
        inode = os.fstat(fd).st_ino
        return self._serials.get(inode, inode)

    def note(self, *words: str) -> None:
        """Keep what the program says, between the calls before and after it."""
        self.trace.append(Note(words))

    def crashes(self) -> Iterator[Remains]:
        """Yield every state in which a power cut at any moment may leave the disk."""
        for moment in range(len(self.trace) + 1):
            yield from _remains(self.trace[:moment])


def _inode_of(directory: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def _remains(trace: list[NameChange | Write | Sync | Note]) -> Iterator[Remains]:
    written: dict[int, bytes] = {}
    synced: dict[int, bytes] = {}
    changes: list[tuple[NameChange, set[int]]] = []  # with the directories that are not synced since
    notes = []
    for event in trace:
        if isinstance(event, Note):
            notes.append(event.words)
        elif isinstance(event, Write):
            written[event.file] = written.get(event.file, b"") + event.payload
        elif isinstance(event, NameChange):
            changes.append((event, {place[0] for place in (event.gone, event.come) if place}))
        else:
            if event.inode in written:
                synced[event.inode] = written[event.inode]
            for _, unsynced in changes:
                unsynced.discard(event.inode)
    unsure = [index for index, (_, unsynced) in enumerate(changes) if unsynced]
    for survives in itertools.product((False, True), repeat=len(unsure)):
        lost = {index for index, kept in zip(unsure, survives, strict=True) if not kept}
        names = _apply(change for index, (change, _) in enumerate(changes) if index not in lost)
        for tail in _tails(written, synced):
            yield Remains({name: tail.get(file, b"") for name, file in names.items()}, notes)


def _apply(changes: Iterator[NameChange]) -> dict[tuple[int, str], int]:
    names: dict[tuple[int, str], int] = {}
    for change in changes:
        if change.gone:
            names.pop(change.gone, None)
        if change.come and change.file is not None:
            names[change.come] = change.file
    return names


def _tails(written: dict[int, bytes], synced: dict[int, bytes]) -> Iterator[dict[int, bytes]]:
    """Yield what the files may hold: what was synced, and of the rest nothing, half, zeros or all."""
    yield {file: synced.get(file, b"") for file in written}
    if written != synced:
        yield {file: whole[: max(len(whole) // 2, len(synced.get(file, b"")))] for file, whole in written.items()}
        yield {file: synced.get(file, b"").ljust(len(whole), b"\0") for file, whole in written.items()}
        yield dict(written)


WAIT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENFILE)
