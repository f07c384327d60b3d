"""Files that are whole or absent, whatever is killed, full or cut off: mechanisms without domain words.

Place: below the spool and the ledgers. No thread owns anything here: a `Directory` may be used by many threads
at once, an `OpenFile` or a `DirectoryLock` by one at a time. Every call blocks on the disk.

A file is written whole in this order, and only when the last step has returned does it exist for good: a new
temporary name in the same directory, all bytes, fsync of the file, close, rename, fsync of the directory.
Without the first fsync a power cut leaves an empty file under a good name; without the second it takes the name.

After a failed fsync Linux marks the pages clean, so that a second fsync of that descriptor reports success for
bytes that are gone (the "fsyncgate" of PostgreSQL, 2018). So none is ever synced again: the temporary is
unlinked, the caller writes anew. An error is moreover reported once to each *open description*: two threads that
sync a directory through one shared description would divide one error between them, and the other would be told
that all is well. So each sync of a directory has a description of its own, opened before the change.

Promised for local journalling file systems whose disks honour flushes; not for NFS.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_NOT_NOW = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK,
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV,
})  # fmt: skip
_READ_CHUNK_BYTES = 1 << 20
_PID_BYTES = 20  # digits of 2**64
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp", re.ASCII | re.DOTALL)


class DurableError(OSError):
    """A step failed; what was to be made does not count as made. Says which step, and of which path."""


class Unavailable(DurableError):
    """There is no room, or it is not permitted, now: nothing was made. Wait, and do it anew."""


class DiskSuspect(DurableError):
    """The disk failed (EIO), or answered what it never should: what it still takes must not be relied on."""


class Unreadable(DurableError):
    """This file could not be read; it was left where it is, and others may be sound."""


class NotRegular(Exception):
    """The name is a link, a directory, a pipe, a socket or a device: not a file to be read."""


class LockHeld(Exception):
    """Another living process holds the lock."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The system calls that this module makes. A table, so that the tests can fail each of them in turn."""

    open: Callable[..., int] = os.open
    read: Callable[[int, int], bytes] = os.read
    write: Callable[[int, memoryview], int] = os.write
    ftruncate: Callable[[int, int], None] = os.ftruncate
    fsync: Callable[[int], None] = os.fsync
    close: Callable[[int], None] = os.close
    rename: Callable[..., None] = os.rename
    unlink: Callable[..., None] = os.unlink
    mkdir: Callable[..., None] = os.mkdir
    fstat: Callable[[int], os.stat_result] = os.fstat
    stat: Callable[..., os.stat_result] = os.stat
    fstatvfs: Callable[[int], os.statvfs_result] = os.fstatvfs
    scandir: Callable[[int], Any] = os.scandir
    flock: Callable[[int, int], None] = fcntl.flock


SYSTEM_CALLS = Calls()


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system has left for this user."""

    bytes: int
    files: int | None
    """Files (inodes) that can still be made; None where the file system has no such limit (btrfs)."""


@contextmanager
def _step(verb: str, path: Path, otherwise: type[DurableError] = DiskSuspect) -> Iterator[None]:
    try:
        yield
    except DurableError:
        raise
    except OSError as error:
        raise _typed(error, verb, path, otherwise) from error


def _typed(error: OSError, verb: str, path: Path, otherwise: type[DurableError] = DiskSuspect) -> DurableError:
    number = error.errno or errno.EIO
    kind = Unavailable if number in _NOT_NOW else otherwise
    reason = f"{verb}: {os.strerror(number)}"
    if number in (errno.EACCES, errno.EPERM):
        reason += f"; it must belong to user id {os.geteuid()}, with mode 0700 or 0600"
    return kind(number, reason, str(path))


def _try_lock(fd: int, path: Path, calls: Calls) -> bool:
    try:
        calls.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _typed(error, "lock", path) from error
    return True


def temporary_name(name: str) -> str:
    """Return a name, new each time, under which `name` may be written; `is_temporary` knows it again."""
    return f".{name}.{os.urandom(8).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Tell whether a name is one that `temporary_name` made."""
    return _TEMPORARY.fullmatch(name) is not None


class OpenFile:
    """A regular file that is open, and by its lock may be held against all other holders."""

    def __init__(self, fd: int, path: Path, size: int, calls: Calls) -> None:
        self._fd = fd
        self._path = path
        self._calls = calls
        self._owner_pid = os.getpid()
        self.size = size
        """Its length in bytes when it was opened."""

    def lock(self) -> bool:
        """Take the exclusive lock without waiting, and tell whether it was free. It dies with its owner."""
        return _try_lock(self._fd, self._path, self._calls)

    def identity(self) -> tuple[int, int]:
        """Return the device and inode, which no other file has while this one is open."""
        found = self._calls.fstat(self._fd)
        return found.st_dev, found.st_ino

    def read(self, limit_bytes: int) -> bytes:
        """Return the content from where reading stands, at most so many bytes; raise `Unreadable`."""
        parts: list[bytes] = []
        with _step("read", self._path, Unreadable):
            while limit_bytes > 0 and (part := self._calls.read(self._fd, min(limit_bytes, _READ_CHUNK_BYTES))):
                parts.append(part)
                limit_bytes -= len(part)
        return b"".join(parts)

    def overwrite(self, content: bytes) -> None:
        """Replace the content in place, for what need not survive a crash."""
        with _step("write", self._path):
            self._calls.ftruncate(self._fd, 0)
            self._calls.write(self._fd, memoryview(content))

    def close(self) -> None:
        """Give up the file and its lock, which a forked child that has the descriptor too can neither keep nor end."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if os.getpid() == self._owner_pid:
                with suppress(OSError):
                    self._calls.flock(fd, fcntl.LOCK_UN)
            with suppress(OSError):
                self._calls.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class Directory:
    """An open directory, which owns its descriptor. All names are single components below it.

    Renaming or replacing the path while it is open changes nothing: work goes on in the directory that was opened.
    Thread-safe, except `close`.
    """

    def __init__(self, path: Path, *, calls: Calls = SYSTEM_CALLS, _within: "Directory | None" = None) -> None:
        self.path = path
        self._calls = calls
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with _step("open", path):
            if _within is None:
                self._fd = calls.open(path, flags)
            else:
                self._fd = calls.open(path.name, flags | os.O_NOFOLLOW, dir_fd=_within._fd)

    @classmethod
    def make(cls, path: Path, *, calls: Calls = SYSTEM_CALLS) -> Self:
        """Open a directory, and make it and its parents (mode 0700) where they are absent, durably."""
        for each in reversed((path, *path.parents)):
            with _step("make directory", each):
                if each == path or not each.is_dir():
                    with suppress(FileExistsError):
                        calls.mkdir(each, 0o700)
                    _sync_parent(each, calls)
        return cls(path, calls=calls)

    def child(self, name: str, *, make: bool = False) -> "Directory":
        """Open a directory below this one, never through a link; `make` it (mode 0700; not yet durable) if absent."""
        path = self.path / name
        if make:
            with _step("make directory", path), suppress(FileExistsError):
                self._calls.mkdir(name, 0o700, dir_fd=self._fd)
        return Directory(path, calls=self._calls, _within=self)

    def write_whole(self, name: str, payload: bytes) -> None:
        """Make a file (mode 0600) with these bytes; when this returns it is there for good.

        A file of that name is replaced in one step. Raises `Unavailable` or `DiskSuspect`: then it is not promised.
        It may be there, whole, only where the sync of the directory was what failed.
        """
        with self.witness() as sync:
            temporary = temporary_name(name)
            try:
                self._write_synced(temporary, payload)
                with _step("rename", self.path / name):
                    self._calls.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                with suppress(OSError):
                    self._calls.unlink(temporary, dir_fd=self._fd)
                raise
            sync()

    def _write_synced(self, temporary: str, payload: bytes) -> None:
        path = self.path / temporary
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        with _step("open", path):
            fd = self._calls.open(temporary, flags, 0o600, dir_fd=self._fd)
        try:
            with _step("write", path):
                left = memoryview(payload)
                while left:
                    left = left[self._calls.write(fd, left) :]
            with _step("fsync", path):
                self._calls.fsync(fd)
        except BaseException:
            with suppress(OSError):
                self._calls.close(fd)
            raise
        with _step("close", path):
            self._calls.close(fd)

    @contextmanager
    def witness(self) -> Iterator[Callable[[], None]]:
        """Give a sync of this directory that sees every error since this moment, whoever else syncs meanwhile."""
        with _step("open", self.path):
            fd = self._calls.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:

            def sync() -> None:
                with _step("fsync directory", self.path):
                    self._calls.fsync(fd)

            yield sync
        finally:
            with suppress(OSError):  # nothing was written through it
                self._calls.close(fd)

    def sync(self) -> None:
        """Make every change of names in this directory durable; raise `DiskSuspect`."""
        with self.witness() as sync:
            sync()

    def open_file(self, name: str) -> OpenFile:
        """Open a regular file for reading; never waits (on a pipe), never follows a link.

        Raises `FileNotFoundError`, `NotRegular`, `Unavailable` (no descriptor, not permitted) or `Unreadable`.
        """
        path = self.path / name
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            fd = self._calls.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket or a device without a driver
                raise NotRegular(f"{path} is not a regular file") from error
            raise _typed(error, "open", path, Unreadable) from error
        try:
            return OpenFile(fd, path, self._regular_size(fd, path), self._calls)
        except BaseException:
            with suppress(OSError):
                self._calls.close(fd)
            raise

    def _regular_size(self, fd: int, path: Path) -> int:
        with _step("fstat", path, Unreadable):
            found = self._calls.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular(f"{path} is not a regular file")
        return found.st_size

    def hold(self, name: str) -> OpenFile | None:
        """Open a file and hold it against every other holder, threads and processes alike.

        None where it is gone or held. The lock is of the file and not of the name: after it is taken the name
        must still lead to the file that was locked, else its last holder removed or moved it in between.
        """
        try:
            held = self.open_file(name)
        except FileNotFoundError:
            return None
        kept = False
        try:
            if held.lock():
                with _step("stat", self.path / name, Unreadable):
                    kept = self._leads_to(name, held)
            return held if kept else None
        finally:
            if not kept:
                held.close()

    def _leads_to(self, name: str, held: OpenFile) -> bool:
        try:
            found = self._calls.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == held.identity()

    def size_of(self, name: str) -> int | None:
        """Return the length of what has that name, were it a link to nowhere; None where there is nothing."""
        with _step("stat", self.path / name):
            try:
                return self._calls.stat(name, dir_fd=self._fd, follow_symlinks=False).st_size
            except FileNotFoundError:
                return None

    def unlink(self, name: str) -> bool:
        """Remove a file, and tell whether it was there. Durable only after `sync`."""
        with _step("unlink", self.path / name):
            try:
                self._calls.unlink(name, dir_fd=self._fd)
            except FileNotFoundError:
                return False
        return True

    def rename_to(self, name: str, target: "Directory", new_name: str) -> bool:
        """Rename into another directory, replacing a file there; tell whether it was there. Not yet durable."""
        with _step(f"rename into {target.path}", self.path / name):
            try:
                self._calls.rename(name, new_name, src_dir_fd=self._fd, dst_dir_fd=target._fd)
            except FileNotFoundError:
                return False
        return True

    def move(self, name: str, target: "Directory", new_name: str) -> bool:
        """Rename into another directory, durably; tell whether it was there. A crash leaves it in one of the two."""
        with target.witness() as sync_target, self.witness() as sync_source:
            moved = self.rename_to(name, target, new_name)
            if moved:
                sync_target()
                sync_source()
        return moved

    def scan(self) -> Iterator[os.DirEntry[str]]:
        """Yield every entry, in no order, a few at a time.

        Through a description of its own: two scans of one description would each see a part.
        """
        with _step("open", self.path):
            fd = self._calls.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            with _step("list", self.path), self._calls.scandir(fd) as entries:
                yield from entries
        finally:
            with suppress(OSError):
                self._calls.close(fd)

    def space(self) -> Space:
        """Return what the file system has left."""
        with _step("statvfs", self.path):
            found = self._calls.fstatvfs(self._fd)
        return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)

    def open_or_make(self, name: str) -> OpenFile:
        """Open a file (mode 0600) to be locked or overwritten; it is made, empty and not durably, if absent."""
        path = self.path / name
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with _step("open", path):
            return OpenFile(self._calls.open(name, flags, 0o600, dir_fd=self._fd), path, 0, self._calls)

    def close(self) -> None:
        """Close the descriptor. Whatever comes later fails, and touches nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                self._calls.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def _sync_parent(path: Path, calls: Calls) -> None:
    """Also for a directory that was there: whoever made it may have been killed before this."""
    try:
        with Directory(path.parent, calls=calls) as parent:
            parent.sync()
    except Unavailable as error:
        if error.errno != errno.EACCES:  # one may use a directory without the right to list its parent
            raise


class DirectoryLock:
    """Ownership of a directory, by one process at a time, which ends with the process, however it ends.

    An flock(2) on a file that is never removed: the kernel frees it at the owner's death, so there is no stale
    lock to reason about. The process id in the file is for people only, and never decides anything.
    A child that was forked (not executed) shares the lock, and keeps it until it ends too.
    """

    def __init__(self, directory: Directory, name: str) -> None:
        """Take the lock without waiting; raise `LockHeld`, or `Unavailable` or `DiskSuspect`."""
        self._owned = directory.open_or_make(name)
        try:
            self._take(directory.path / name)
        except BaseException:
            self._owned.close()
            raise

    def _take(self, path: Path) -> None:
        if not self._owned.lock():
            holder = self._owned.read(_PID_BYTES).strip().decode("ascii", "replace")
            raise LockHeld(f"{path} is held by process {holder or '(unknown)'}: one owner at a time")
        with suppress(OSError):  # a full disk is no reason not to own it
            self._owned.overwrite(b"%d\n" % os.getpid())

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()
