"""Files that are whole or absent: what `spyder.runtime.durable` promises, on a real file system."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spyder.runtime.durable import (
    SYSTEM_CALLS,
    Calls,
    Directory,
    DirectoryLock,
    DiskSuspect,
    DurableError,
    LockHeld,
    NotRegular,
    Unavailable,
    Unreadable,
    is_temporary,
    temporary_name,
)
from tests.runtime import disk_faults

_ROOT = Path(__file__).resolve().parents[2]
_HOLDER = """
import signal, sys
from pathlib import Path
from spyder.runtime.durable import Directory, DirectoryLock
lock = DirectoryLock(Directory(Path(sys.argv[1])), ".lock")
print("locked", flush=True)
signal.pause()
"""


def _full_disk() -> Calls:
    def write(_fd: int, _payload: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return replace(SYSTEM_CALLS, write=write)


def _names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_write_whole_makes_exactly_that_file(tmp_path: Path) -> None:
    """The bytes are there under the name, for the owner alone, and no temporary is left."""
    with Directory(tmp_path) as directory:
        directory.write_whole("a", b"x" * 100_000)
    assert (tmp_path / "a").read_bytes() == b"x" * 100_000
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert _names(tmp_path) == ["a"]


def test_write_whole_takes_its_steps_in_order(tmp_path: Path) -> None:
    """New temporary, bytes, sync of the file, rename, sync of the directory: in this order and no other."""
    recorder = disk_faults.Recorder()
    with Directory(tmp_path, calls=recorder.calls()) as directory:
        directory.write_whole("a", b"content")
    made, written, synced, renamed, directory_synced = recorder.trace
    assert isinstance(made, disk_faults.NameChange)
    assert made.come is not None
    assert made.file is not None
    assert is_temporary(made.come[1])
    assert written == disk_faults.Write(made.file, b"content")
    assert synced == disk_faults.Sync(made.file)
    assert renamed == disk_faults.NameChange(made.come, (tmp_path.stat().st_ino, "a"), made.file)
    assert directory_synced == disk_faults.Sync(tmp_path.stat().st_ino)


def test_write_whole_replaces_in_one_step(tmp_path: Path) -> None:
    """A file of that name is replaced; one who has the old file open still reads it whole."""
    with Directory(tmp_path) as directory:
        directory.write_whole("a", b"old")
        with directory.open_file("a") as before:
            directory.write_whole("a", b"new")
            assert before.read(10) == b"old"
        with directory.open_file("a") as after:
            assert after.read(10) == b"new"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "close", "rename"])
@pytest.mark.parametrize(
    ("number", "kind"),
    [(number, Unavailable) for number in disk_faults.WAIT_ERRORS]
    + [(number, DiskSuspect) for number in (errno.EIO, errno.ENXIO, errno.EBADF)],
)
def test_errors_say_what_to_do(tmp_path: Path, call: str, number: int, kind: type[DurableError]) -> None:
    """No room or no permission means wait; what a sound disk never answers means distrust; nothing is left behind."""
    faults = disk_faults.Faults(at=1 if call in ("rename", "write", "fsync", "close") else 3, error=number, only=call)
    with Directory(tmp_path, calls=faults.calls()) as directory, pytest.raises(kind) as caught:
        directory.write_whole("a", b"content")
    assert caught.value.errno == number
    assert str(tmp_path) in str(caught.value)
    assert _names(tmp_path) == []


def test_a_write_that_makes_no_room_for_the_witness_makes_nothing(tmp_path: Path) -> None:
    """Without a descriptor for the later sync of the directory, nothing is begun."""
    faults = disk_faults.Faults(at=2, error=errno.EMFILE, only="open")
    with Directory(tmp_path, calls=faults.calls()) as directory, pytest.raises(Unavailable):
        directory.write_whole("a", b"content")
    assert _names(tmp_path) == []


def test_a_failed_directory_sync_is_no_promise(tmp_path: Path) -> None:
    """The file may be there, whole; but the caller is told that it is not promised."""
    faults = disk_faults.Faults(at=2, error=errno.EIO, only="fsync")
    with Directory(tmp_path, calls=faults.calls()) as directory, pytest.raises(DiskSuspect):
        directory.write_whole("a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_short_writes_are_carried_on(tmp_path: Path) -> None:
    """A disk that takes three bytes at a time gets all of them."""
    calls = replace(SYSTEM_CALLS, write=lambda fd, view: os.write(fd, view[:3]))
    with Directory(tmp_path, calls=calls) as directory:
        directory.write_whole("a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    """EFBIG, from a limit of the process, is an error to wait for, and no torn file."""
    program = (
        "import resource, sys; from pathlib import Path; from spyder.runtime import durable\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: durable.Directory(Path(sys.argv[1])).write_whole('a', bytes(9000))\n"
        "except durable.Unavailable as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == errno.EFBIG
    assert _names(tmp_path) == []


def test_each_directory_sync_has_a_description_of_its_own(tmp_path: Path) -> None:
    """Two threads never share one: the kernel reports an error once to each description, and one would not hear."""
    synced: list[int] = []
    inside = threading.Barrier(2, timeout=10)

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            synced.append(fd)
            inside.wait()  # both are in the call at once
        os.fsync(fd)

    with Directory(tmp_path, calls=replace(SYSTEM_CALLS, fsync=fsync)) as directory:
        writers = [threading.Thread(target=directory.write_whole, args=(name, b"x")) for name in "ab"]
        for each in writers:
            each.start()
        for each in writers:
            each.join()
    assert len(set(synced)) == 2
    assert directory.path == tmp_path


def test_temporary_names_are_new_each_time_and_known_again() -> None:
    """What a dead writer left can be told from the files of others."""
    assert temporary_name("a") != temporary_name("a")
    assert is_temporary(temporary_name("some-name.json"))
    assert not any(map(is_temporary, (".lock", "a.tmp", ".a.tmp", ".a.0123456789abcdeg.tmp", "x.0123456789abcdef.tmp")))


def test_make_makes_every_parent_and_syncs_each_name(tmp_path: Path) -> None:
    """A new directory is private, and survives a power cut with its parents."""
    recorder = disk_faults.Recorder()
    with Directory.make(tmp_path / "a" / "b", calls=recorder.calls()) as made:
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    inodes = [(tmp_path).stat().st_ino, (tmp_path / "a").stat().st_ino]
    assert recorder.trace == [disk_faults.Sync(inode) for inode in inodes]


def test_make_takes_a_directory_that_is_there(tmp_path: Path) -> None:
    """Nothing is changed about it but its parent's sync, which its maker may not have lived to do."""
    tmp_path.chmod(0o750)
    Directory.make(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_child_is_not_reached_through_a_link(tmp_path: Path) -> None:
    """A link in the place of a directory is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Directory(tmp_path) as directory, pytest.raises(DiskSuspect):
        directory.child("link")


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    """Anything else under the name is refused, at once: a pipe without a writer does not make it wait."""
    path = tmp_path / "x"
    (tmp_path / "file").touch()
    server = socket.socket(socket.AF_UNIX)
    become: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to("file"),
        "dangling": lambda: path.symlink_to("nowhere"),
        "pipe": lambda: os.mkfifo(path),
        "socket": lambda: server.bind(str(path)),
        "directory": path.mkdir,
    }
    become[kind]()
    with server, Directory(tmp_path) as directory, pytest.raises(NotRegular):
        directory.open_file("x")


def test_reading_is_bounded(tmp_path: Path) -> None:
    """No more than asked for is read, however large the file is."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 31)
    with Directory(tmp_path) as directory, directory.open_file("big") as opened:
        assert opened.size == 1 << 31
        assert opened.read(3_000_000) == bytes(3_000_000)


@pytest.mark.parametrize(("call", "kind"), [("open", Unreadable), ("fstat", Unreadable), ("read", Unreadable)])
def test_a_bad_sector_is_the_trouble_of_one_file(tmp_path: Path, call: str, kind: type[DurableError]) -> None:
    """EIO while a file is opened or read says nothing about the others."""
    (tmp_path / "a").write_bytes(b"x")
    faults = disk_faults.Faults(at=2 if call == "open" else 1, error=errno.EIO, only=call)
    with Directory(tmp_path, calls=faults.calls()) as directory, pytest.raises(kind):
        directory.open_file("a").read(10)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """A held file is not had by another descriptor, in the same process too, until it is let go."""
    (tmp_path / "a").touch()
    with Directory(tmp_path) as directory:
        first = directory.hold("a")
        assert first is not None
        assert directory.hold("a") is None
        first.close()
        second = directory.hold("a")
        assert second is not None
        second.close()
        assert directory.hold("absent") is None


@pytest.mark.parametrize("fate", ["removed", "replaced"])
def test_a_file_that_changed_before_the_lock_is_not_held(tmp_path: Path, fate: str) -> None:
    """The last holder removed or replaced it between our opening and our locking: the lock is of nothing."""
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def flock(fd: int, operation: int) -> None:
        path.unlink(missing_ok=True)
        if fate == "replaced":
            path.write_bytes(b"new")
        SYSTEM_CALLS.flock(fd, operation)

    with Directory(tmp_path, calls=replace(SYSTEM_CALLS, flock=flock)) as directory:
        assert directory.hold("a") is None


def test_move_leaves_it_in_one_of_two(tmp_path: Path) -> None:
    """A move is one rename, and both directories are synced after it, the target first."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    recorder = disk_faults.Recorder()
    with (
        Directory(tmp_path / "source", calls=recorder.calls()) as source,
        Directory(tmp_path / "target", calls=recorder.calls()) as target,
    ):
        source.write_whole("a", b"x")
        recorder.trace.clear()
        assert source.move("a", target, "b")
        assert not source.move("a", target, "b")
    inodes = [(tmp_path / name).stat().st_ino for name in ("target", "source")]
    assert recorder.trace[1:] == [disk_faults.Sync(inode) for inode in inodes]
    assert (tmp_path / "target" / "b").read_bytes() == b"x"


def test_scans_at_the_same_time_see_everything(tmp_path: Path) -> None:
    """Each scan has a position of its own."""
    for number in range(300):
        (tmp_path / str(number)).touch()
    with Directory(tmp_path) as directory:
        pairs = zip(directory.scan(), directory.scan(), strict=True)
        assert {(first.name, second.name) for first, second in pairs} >= {(str(n), str(n)) for n in range(300)}


def test_a_closed_directory_touches_nothing(tmp_path: Path) -> None:
    """Late work fails, although its descriptor's number may be another file's by then."""
    directory = Directory(tmp_path)
    directory.close()
    directory.close()
    with Directory(tmp_path), pytest.raises(DiskSuspect):
        directory.write_whole("a", b"x")
    assert _names(tmp_path) == []


def test_a_directory_that_was_removed_is_suspect(tmp_path: Path) -> None:
    """Work in it fails, is not waited for, and does not make it anew."""
    (tmp_path / "gone").mkdir()
    with Directory(tmp_path / "gone") as directory:
        (tmp_path / "gone").rmdir()
        with pytest.raises(DiskSuspect):
            directory.write_whole("a", b"x")
    assert _names(tmp_path) == []


def test_the_lock_is_one_owner_s_and_names_it(tmp_path: Path) -> None:
    """A second owner is refused with the process id of the first."""
    with Directory(tmp_path) as directory, DirectoryLock(directory, ".lock") as lock:
        with pytest.raises(LockHeld, match=f"process {os.getpid()}:"):
            DirectoryLock(directory, ".lock")
        lock.release()
        DirectoryLock(directory, ".lock").release()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    """After SIGKILL the lock is free at once; the process id that is left behind decides nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, tmp_path], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with Directory(tmp_path) as directory:
            with pytest.raises(LockHeld, match=str(owner.pid)):
                DirectoryLock(directory, ".lock")
            owner.kill()
            owner.wait()
            DirectoryLock(directory, ".lock").release()


def test_a_full_disk_does_not_refuse_the_lock(tmp_path: Path) -> None:
    """The process id is for people: where it cannot be written, the lock holds all the same."""
    (tmp_path / ".lock").touch()
    calls = _full_disk()
    with (
        Directory(tmp_path, calls=calls) as directory,
        DirectoryLock(directory, ".lock"),
        pytest.raises(LockHeld, match="unknown"),
    ):
        DirectoryLock(directory, ".lock")


def test_a_lock_is_not_ended_by_a_forked_child(tmp_path: Path) -> None:
    """A child that closes what it inherited does not open the door to another owner."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from spyder.runtime.durable import Directory, DirectoryLock, LockHeld\n"
        "directory = Directory(Path(sys.argv[1])); lock = DirectoryLock(directory, '.lock')\n"
        "child = os.fork()\n"
        "if child == 0: lock.release(); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "try: DirectoryLock(directory, '.lock')\n"
        "except LockHeld: print('held')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "held\n"
