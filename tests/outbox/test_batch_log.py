"""The directory of JSON lines: each batch once and whole, whatever fails or dies in between."""

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from spyder.outbox.batch_log import BatchLog, Busy, as_line
from spyder.outbox.destinations import Verdict, destination_of
from spyder.outbox.payload import BadPayload
from spyder.runtime import durable
from tests.outbox.ingest_peers import batch_id_of, batch_of, lines_of

ROOT = Path(__file__).resolve().parents[2]
LINES = {batch_id: as_line(batch_id, payload) for batch_id, payload in (batch_of(number) for number in range(5))}
TWO_LINES = 2 * len(next(iter(LINES.values())))


class Killed(BaseException):
    """The process is dead: nothing after this runs."""


class Faults:
    """A table of system calls of which the `at`th fails, counted from 1; or from which on there are none."""

    def __init__(self, at: int, fault: int | str) -> None:
        self._at = at
        self._fault = fault
        self.seen = 0
        self.hit = ""

    def calls(self) -> durable.Calls:
        """Return the table."""
        return durable.Calls(**{each.name: self._wrap(each.name) for each in fields(durable.Calls)})

    def _wrap(self, name: str) -> Callable[..., Any]:
        call = getattr(durable.SYSTEM_CALLS, name)

        def failing(*args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            dead = self._fault == "kill" and self.seen >= self._at and name not in ("close", "flock")
            if dead or self.seen == self._at:
                self.hit = self.hit or name
                if self._fault == "short" and name == "write":
                    return call(args[0], args[1][: len(args[1]) // 2])
                if dead:
                    if name == "write" and self.hit == name:
                        call(args[0], args[1][: len(args[1]) // 2])
                    raise Killed
                if isinstance(self._fault, int):
                    raise OSError(self._fault, os.strerror(self._fault))
            return call(*args, **kwargs)

        return failing


def _live(directory: Path, calls: durable.Calls) -> tuple[list[str], list[str]]:
    """Append the batches to files of two; return those that count as written, and those that failed."""
    log = BatchLog(directory, max_file_bytes=TWO_LINES, calls=calls)
    promised, failed = [], []
    try:
        for batch_id, line in LINES.items():
            try:
                assert log.append(batch_id, line)
                promised.append(batch_id)
            except OSError:
                failed.append(batch_id)
    except Killed:
        pass
    return promised, failed


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EACCES, "short", "kill"])
def test_whatever_call_fails_no_batch_is_lost_torn_or_there_twice(fault: int | str, tmp_path: Path) -> None:
    """Every system call fails once, or is the last that the process makes, for every N."""
    reached = 0
    for at in range(1, 10_000):
        directory = tmp_path / str(at)
        faults = Faults(at, fault)
        promised, failed = _live(directory, faults.calls())
        if not faults.hit:
            break
        reached = at
        log = BatchLog(directory, max_file_bytes=TWO_LINES)
        log.open()
        assert {each["batch_id"] for each in lines_of(directory)} >= set(promised), (at, faults.hit)
        for batch_id in (*failed, *LINES):
            log.append(batch_id, LINES[batch_id])
        kept = Counter(each["batch_id"] for each in lines_of(directory))
        assert kept == dict.fromkeys(LINES, 1), (at, faults.hit)
    assert reached > 50


def _kind(fd: int) -> str:
    return Path(f"/proc/self/fd/{fd}").readlink().suffix or "directory"


def test_a_line_counts_only_when_it_and_the_name_of_its_file_are_synced(tmp_path: Path) -> None:
    """What a power cut may take was promised to nobody: the line's bytes, and a new file's name."""
    done: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        def call(fd: int, *args: Any) -> Any:
            done.append(f"{name} {_kind(fd)}")
            return getattr(os, name)(fd, *args)

        return call

    directory = tmp_path / "out"
    log = BatchLog(directory, max_file_bytes=TWO_LINES, calls=durable.Calls(write=noted("write"), fsync=noted("fsync")))
    log.open()
    for number, (batch_id, line) in enumerate(LINES.items()):
        done.clear()
        log.append(batch_id, line)
        assert done == ["write .jsonl", "fsync .jsonl"] + ["fsync directory"] * (number % 2 == 0)


def test_a_line_that_another_process_left_counts_only_when_it_is_synced(tmp_path: Path) -> None:
    """It may have been killed between its write and its sync: then the line is on no disk yet."""
    first = next(iter(LINES))
    (tmp_path / "batches-20260101T000000.000Z.jsonl").write_bytes(LINES[first])
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(_kind(fd))
        os.fsync(fd)

    log = BatchLog(tmp_path, max_file_bytes=1 << 20, calls=durable.Calls(fsync=fsync))
    assert not log.append(first, LINES[first])
    assert synced[-2:] == [".jsonl", "directory"]


def test_a_failed_append_is_written_by_the_next_attempt(tmp_path: Path) -> None:
    """A full disk, then room: the same object goes on, in the same file, and leaves no empty ones."""
    for at in range(1, 30):
        directory = tmp_path / str(at)
        faults = Faults(at, errno.ENOSPC)
        log = BatchLog(directory, max_file_bytes=1 << 20, calls=faults.calls())
        for batch_id, line in LINES.items():
            try:
                log.append(batch_id, line)
            except OSError:
                log.append(batch_id, line)
        assert [each["batch_id"] for each in lines_of(directory)] == list(LINES)
        files = list(directory.glob("*.jsonl"))
        # only after a failed sync is a file given up
        assert len(files) == 1 or (faults.hit == "fsync" and len(files) == 2), (at, faults.hit)


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "is cut back"])
def test_a_file_whose_sync_failed_is_not_relied_on(stays: bool, tmp_path: Path) -> None:
    """The line does not count as known, even where it cannot be cut back: it is written anew, to another file."""
    broken = {"on": False}

    def fails(call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any) -> Any:
            if broken["on"]:
                raise OSError(errno.EIO, "broken")
            return call(*args)

        return failing

    calls = durable.Calls(fsync=fails(os.fsync), ftruncate=fails(os.ftruncate) if stays else os.ftruncate)
    log = BatchLog(tmp_path, max_file_bytes=1 << 20, calls=calls)
    first, second, *_ = LINES
    assert log.append(first, LINES[first])
    broken["on"] = True
    with pytest.raises(OSError, match="broken"):
        log.append(second, LINES[second])
    broken["on"] = False
    assert log.append(second, LINES[second])
    assert [each["batch_id"] for each in lines_of(tmp_path)] == [first] + [second] * (1 + stays)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


@pytest.mark.parametrize(
    "tail", [b"", b'{"batch', LINES[batch_id_of(2)][:-1], b"\x00" * 5000, b'{"batch_id":"x"\x00\x00}\n']
)
def test_a_torn_last_line_is_cut_back(tail: bytes, tmp_path: Path) -> None:
    """After a crash, or a power cut that left other bytes, the line that was promised to nobody is gone."""
    log = BatchLog(tmp_path, max_file_bytes=1 << 20)
    whole = [batch_id_of(0), batch_id_of(1)]
    for batch_id in whole:
        log.append(batch_id, LINES[batch_id])
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(tail)
    again = BatchLog(tmp_path, max_file_bytes=1 << 20)
    assert again.open() == 2
    assert [each["batch_id"] for each in lines_of(tmp_path)] == whole
    assert not again.append(whole[1], LINES[whole[1]])
    assert again.append(batch_id_of(2), LINES[batch_id_of(2)])
    assert log.append(batch_id_of(3), LINES[batch_id_of(3)])  # the first one sees what the second did
    assert [each["batch_id"] for each in lines_of(tmp_path)] == [batch_id_of(number) for number in range(4)]


def test_every_length_of_a_last_line_is_mended(tmp_path: Path) -> None:
    """A line cut after any of its bytes counts as not there; only the whole one is known."""
    first, second, *_ = LINES
    for end in [*range(0, len(LINES[second]) - 2, 9), *range(len(LINES[second]) - 2, len(LINES[second]) + 1)]:
        path = tmp_path / "batches-20260101T000000.000Z.jsonl"
        path.write_bytes(LINES[first] + LINES[second][:end])
        log = BatchLog(tmp_path, max_file_bytes=1 << 20)
        assert log.append(second, LINES[second]) is (end < len(LINES[second]))
        assert path.read_bytes() == LINES[first] + LINES[second]


def test_files_are_rotated_by_size_and_named_in_order(tmp_path: Path) -> None:
    """Also where the clock goes back; a line that is larger than a file may be is one file."""
    moments = iter([1e9, 1e9, 5e8, 5e8, 2e9, 2e9])
    log = BatchLog(tmp_path, max_file_bytes=TWO_LINES, clock=lambda: next(moments))
    for batch_id, line in LINES.items():
        log.append(batch_id, line)
    huge, line = batch_id_of(99), as_line(batch_id_of(99), b'{"a":"' + b"x" * 10_000 + b'"}')
    assert log.append(huge, line)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert [each["batch_id"] for each in lines_of(tmp_path)] == [*LINES, huge]
    assert [path.stat().st_size <= TWO_LINES for path in files] == [True, True, True, False]
    assert files[0].name == "batches-20010909T014640.000Z.jsonl"
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)


def test_only_the_newest_files_are_remembered_where_so_asked(tmp_path: Path) -> None:
    """Memory and start are bounded; what came just before a change of files is still known."""
    log = BatchLog(tmp_path, max_file_bytes=TWO_LINES, remembered_files=2)
    for batch_id, line in LINES.items():
        log.append(batch_id, line)
    again = BatchLog(tmp_path, max_file_bytes=TWO_LINES, remembered_files=2)
    assert again.open() == 3
    known = [batch_id for batch_id, line in LINES.items() if not again.append(batch_id, line)]
    assert known == list(LINES)[2:] or known == []  # what is appended first pushes the oldest out


def test_moved_and_removed_files_are_taken_as_they_are(tmp_path: Path) -> None:
    """A user may take files away at any time: their batches are no longer known, and a new file is begun."""
    log = BatchLog(tmp_path, max_file_bytes=1 << 20)
    first = next(iter(LINES))
    log.append(first, LINES[first])
    (path,) = tmp_path.glob("*.jsonl")
    path.rename(tmp_path / "taken.jsonl")
    assert log.append(first, LINES[first])
    assert [each["batch_id"] for each in lines_of(tmp_path)] == [first]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """What has not our names is neither read nor mended."""
    for name in (
        "batches-20269945T000000.000Z.jsonl",
        "batches-.jsonl",
        "notes.txt",
        "batches-20260101T000000.000Z.jsonl.gz",
    ):
        (tmp_path / name).write_text("torn")
    first = next(iter(LINES))
    assert BatchLog(tmp_path, max_file_bytes=1 << 20).append(first, LINES[first])
    assert sum(path.read_text() == "torn" for path in tmp_path.iterdir()) == 4


def test_a_holder_that_does_not_let_go_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped amid an append costs a bounded wait, and the batch is tried later."""
    monkeypatch.setattr("spyder.outbox.batch_log._LOCK_WAIT_S", 0.05)
    destination = destination_of("file:.", base=tmp_path)
    with durable.Directory(tmp_path) as directory:
        held = directory.hold(".lock")
        assert held is not None
        with pytest.raises(Busy):
            BatchLog(tmp_path, max_file_bytes=1 << 20).open()
        assert destination.send(*batch_of(1)).verdict is Verdict.TRY_LATER
        held.close()
    assert destination.send(*batch_of(1)).verdict is Verdict.DELIVERED


PROGRAM = """
import sys
from pathlib import Path
from spyder.outbox.batch_log import BatchLog, as_line
from tests.outbox.ingest_peers import batch_of
log = BatchLog(Path(sys.argv[1]), max_file_bytes=20_000)
for number in range(int(sys.argv[2]), 200):
    batch_id, payload = batch_of(number)
    log.append(batch_id, as_line(batch_id, payload))
"""


def test_several_processes_share_one_directory(tmp_path: Path) -> None:
    """The daemon and a replay write to the same files at once: each batch once, every line whole."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    processes = [subprocess.Popen([*command, begin], cwd=ROOT) for begin in ("0", "0", "100")]
    assert [each.wait(30) for each in processes] == [0, 0, 0]
    kept = Counter(each["batch_id"] for each in lines_of(tmp_path))
    assert kept == {batch_id_of(number): 1 for number in range(200)}
    assert len(list(tmp_path.glob("*.jsonl"))) > 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_no_room_is_tried_later_and_no_right_is_held(number: int, tmp_path: Path) -> None:
    """A full disk passes by itself; a directory that may not be written to is for a person to mend."""
    from spyder.outbox.destinations.files import FileDestination

    failing = {"number": 0}

    def write(fd: int, data: memoryview) -> int:
        if failing["number"]:
            raise OSError(failing["number"], "no")
        return os.write(fd, data)

    def open_log(directory: Path, **others: Any) -> BatchLog:
        return BatchLog(directory, **others, calls=durable.Calls(write=write))

    destination = FileDestination(tmp_path, max_file_bytes=1 << 20, open_log=open_log)
    for errno_of, verdict in ((number, Verdict.TRY_LATER), (errno.EACCES, Verdict.HOLD), (0, Verdict.DELIVERED)):
        failing["number"] = errno_of
        assert destination.send(*batch_of(1)).verdict is verdict


def test_a_line_begins_with_the_id_that_it_was_sent_under() -> None:
    """Batches of SPYDER have no id of their own, and may be laid out over several lines."""
    payload = b'{\n "probe_id": "x",\r\n "edges": [], "batch_id": "other"\n}'
    line = as_line("a.0", payload)
    assert line.startswith(b'{"batch_id":"a.0",')
    assert line.count(b"\n") == 1
    assert orjson.loads(line) == {"batch_id": "a.0", "probe_id": "x", "edges": []}
    batch_id, own = batch_of(1)
    assert as_line(batch_id, own) == own + b"\n"
    with pytest.raises(BadPayload):
        as_line("a", b'{"batch_id":"a",')
