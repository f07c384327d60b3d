"""The inbox on a disk that fails at every call, under a kill before every system call, after power cuts, in races."""

import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spyder.intake import claim
from spyder.intake.inbox import Inbox
from spyder.intake.ledger import Ledger, Place
from spyder.runtime import durable
from spyder.runtime.durable import SYSTEM_CALLS, Calls, Unavailable
from tests.intake import domain_files
from tests.intake import inbox_scenario as scenario
from tests.runtime import disk_faults

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
_PROGRAM = (sys.executable, "-m", "tests.intake.inbox_programs")

_OF_THE_START = ("openat", "read", "close")
"""Calls of which the interpreter makes hundreds before it runs anything."""


@pytest.fixture
def quick_disk() -> Iterator[Path]:
    """A directory in memory where there is one: the faults are injected, so that the disk need only be quick."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


def _started(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*_PROGRAM, *map(str, args)],
        cwd=ROOT,
        env=_ENVIRONMENT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


# --- every call fails once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errno.EIO,
        errno.ENOSPC,
        disk_faults.SHORT_WRITE,
        *(pytest.param(error, marks=pytest.mark.slow) for error in (errno.EACCES, errno.EMFILE, errno.EROFS)),
    ],
)
def test_every_call_fails_once(quick_disk: Path, error: int | str) -> None:
    """Whichever call fails: each file ends once with a receipt that adds up, and nothing that was saved is redone."""
    hits: Counter[str] = Counter()
    at = 1
    while True:
        directory = quick_disk / f"inbox-{at}"
        directory.mkdir()
        scenario.drop(directory)
        faults = disk_faults.Faults(at, error)
        notes: list[tuple[str, ...]] = []
        later: list[tuple[str, ...]] = []
        scenario.live(directory, lambda *words, notes=notes: notes.append(words), faults.calls())
        if faults.seen < at:
            break
        scenario.finish(directory, later)
        wrong = scenario.judge(directory, notes, later)
        wrong += [f"{each} after a failed fsync" for each in faults.after_failed_sync]
        assert not wrong, f"call {at} ({faults.hit}): {wrong}"
        hits[faults.hit] += 1
        shutil.rmtree(directory)
        at += 1
    kinds = {"write"} if error == disk_faults.SHORT_WRITE else {"write", "fsync", "rename", "unlink", "open", "read"}
    assert kinds <= hits.keys()


# --- power cuts --------------------------------------------------------------------------------------------------


def _recorded(recorder: disk_faults.Recorder, mutant: Callable[[Calls], Calls]) -> Calls:
    """Return calls that are recorded, the making of directories too: as a file that names the directory."""
    base = recorder.calls()

    def mkdir(path: Any, mode: int, *, dir_fd: int | None = None) -> None:
        base.mkdir(path, mode, dir_fd=dir_fd)
        if dir_fd is not None:
            made, parent = os.stat(path, dir_fd=dir_fd).st_ino, os.fstat(dir_fd).st_ino
            if not any(isinstance(event, disk_faults.Write) and event.file == made for event in recorder.trace):
                recorder.trace.append(disk_faults.Write(made, f"directory {made}".encode()))
                recorder.trace.append(disk_faults.Sync(made))
            recorder.trace.append(disk_faults.NameChange(None, (parent, path), made))

    return mutant(replace(base, mkdir=mkdir))


def _materialise(remains: disk_faults.Remains, inode: int, directory: Path) -> None:
    """Make what a power cut left, from the directory with that number down."""
    directory.mkdir(exist_ok=True)
    for (parent, name), content in remains.files.items():
        if parent == inode and name not in (".", ""):
            if content.startswith(b"directory "):
                _materialise(remains, int(content.split()[1]), directory / name)
            else:
                (directory / name).write_bytes(content)


def _crash_findings(work: Path, mutant: Callable[[Calls], Calls]) -> tuple[int, set[str]]:
    """Live once on a healthy disk; finish from every state that a power cut may leave, and return what is wrong."""
    directory = work / "inbox"
    directory.mkdir()
    recorder = disk_faults.Recorder()
    calls = _recorded(recorder, mutant)
    scenario.drop(directory, _recorded(recorder, lambda base: base))
    dropped = len(recorder.trace)
    scenario.live(directory, recorder.note, calls)
    assert ("finished", "list") in [note.words for note in recorder.trace if isinstance(note, disk_faults.Note)]
    states, wrong = 0, set[str]()
    known: set[object] = set()
    for moment in range(dropped, len(recorder.trace) + 1):
        for remains in disk_faults._remains(recorder.trace[:moment]):
            state = frozenset(remains.files.items()), len(remains.notes)
            if state in known:
                continue
            known.add(state)
            states += 1
            after = work / f"after-{states}"
            _materialise(remains, directory.stat().st_ino, after)
            later: list[tuple[str, ...]] = []
            scenario.finish(after, later)
            wrong.update(scenario.judge(after, remains.notes, later))
            shutil.rmtree(after)
            if wrong:
                return states, wrong
    return states, wrong


def test_no_power_cut_loses_a_file_or_a_receipt(quick_disk: Path) -> None:
    """From every state of the strict crash model, after every step, each file ends once, with its receipt."""
    states, wrong = _crash_findings(quick_disk, lambda calls: calls)
    assert wrong == set()
    assert states > 100


@pytest.mark.parametrize("mutant", [disk_faults.without_file_sync, disk_faults.without_directory_sync])
def test_mutants_without_a_sync_are_caught(quick_disk: Path, mutant: Callable[[Calls], Calls]) -> None:
    """Without the syncs of files, or of directories, the test above fails."""
    _, wrong = _crash_findings(quick_disk, mutant)
    assert wrong


def test_mutant_that_checkpoints_ahead_of_promises_is_caught(quick_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that counts a host when it is given out loses it in a crash: the test above sees that."""
    honest = Ledger.open

    def hasty(ledger: Ledger, end: int, line: int, *, waiting: int, tally: list[str]) -> Place:
        place = honest(ledger, end, line, waiting=waiting, tally=tally)
        for _ in range(waiting):
            ledger.done(place, ["accepted", "dns.ok", "robots.ok", "http.ok", "tls.ok"])
        place.waiting = 10**9
        return place

    monkeypatch.setattr(Ledger, "open", hasty)
    _, wrong = _crash_findings(quick_disk, lambda calls: calls)
    assert any("promised" in each for each in wrong)


# --- kills before every system call ------------------------------------------------------------------------------


def _strace(*options: str, program: tuple[object, ...]) -> None:
    if shutil.which("strace") is None or os.geteuid() != 0:
        pytest.skip("strace is not installed, or this is not root")
    command = ["strace", "-f", "-qq", *options, *_PROGRAM, *map(str, program)]
    done = subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr


def _calls_of_a_life(work: Path, call: str) -> int:
    """Return how often one life makes a system call."""
    work.mkdir()
    scenario.drop_plainly(work / "1")
    trace = work / "trace"
    _strace("-o", str(trace), "-e", f"trace={call}", program=("traced", work, call, 0, 1))
    child = int((work / "child").read_text())
    return sum(line.split()[0] == str(child) for line in trace.read_text().splitlines())


def _under_strace(quick_disk: Path, call: str, injection: str) -> int:
    """Live once for each call of that kind, which the kernel fails or kills there; return how many there were."""
    points = _calls_of_a_life(quick_disk / "count", call)
    work = quick_disk / "work"
    for point in range(1, points + 1):
        scenario.drop_plainly(work / f"{point}")
    # each life makes the calls that are missing to this number in vain: so many that the interpreter's own start is
    # not struck, and one run of strace serves all of them
    when = 3000 if call in _OF_THE_START else 400
    program = ("traced", work, call, when, points)
    _strace("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{injection}:when={when}", program=program)
    survived = 0
    for point in range(1, points + 1):
        notes = [tuple(line.split()) for line in (work / f"{point}.notes").read_text().splitlines()]
        survived += ("survived",) in notes
        later: list[tuple[str, ...]] = []
        scenario.finish(work / f"{point}", later)
        wrong = scenario.judge(work / f"{point}", notes, later)
        assert not wrong, f"{call} {point} of {points}, {injection}: {wrong}"
    assert injection != "signal=KILL" or survived == 0, f"{survived} of {points} were not struck"
    return points


@pytest.mark.parametrize(("call", "least"), [("fsync", 25), ("renameat", 10), ("mkdirat", 5)])
def test_killed_before_every_step(quick_disk: Path, call: str, least: int) -> None:
    """SIGKILL before each fsync, each rename, each new directory: each file ends once, and nothing saved is redone."""
    assert _under_strace(quick_disk, call, "signal=KILL") >= least


@pytest.mark.slow
@pytest.mark.parametrize("injection", ["signal=KILL", "error=ENOSPC", "error=EIO"])
@pytest.mark.parametrize(
    "call", ["write", "pwrite64", "fsync", "renameat", "unlinkat", "unlink", "mkdirat", "rmdir", "fcntl", "flock"]
)
def test_every_system_call_under_strace(quick_disk: Path, call: str, injection: str) -> None:
    """Every system call that changes something fails, or is the last thing before a kill, once each."""
    assert _under_strace(quick_disk, call, injection) > 0


@pytest.mark.slow
@pytest.mark.parametrize("call", _OF_THE_START)
def test_killed_before_every_other_system_call(quick_disk: Path, call: str) -> None:
    """SIGKILL before every open, read and close."""
    assert _under_strace(quick_disk, call, "signal=KILL") > 0


# --- a disk without room -----------------------------------------------------------------------------------------


class SmallDisk:
    """A disk that has room or has none."""

    def __init__(self) -> None:
        self.is_full = False
        self.calls = replace(SYSTEM_CALLS, write=self._write)

    def _write(self, fd: int, payload: memoryview) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return SYSTEM_CALLS.write(fd, payload)


def test_work_pauses_while_progress_cannot_be_written(tmp_path: Path) -> None:
    """The checkpoint says so, no host is given out, settle says so too; with room again it goes on where it was."""
    disk = SmallDisk()
    hosts = domain_files.hosts(10)
    with Inbox(tmp_path, run_id="run-1", calls=disk.calls) as inbox:
        (tmp_path / "list").write_bytes(domain_files.listing(hosts))
        [file] = domain_files.claims(inbox)
        first = domain_files.work(file, limit=4)
        disk.is_full = True
        with pytest.raises(Unavailable, match="No space left"):
            file.checkpoint(now=True)
        for _ in range(3):
            with pytest.raises(Unavailable, match="No space left"):
                next(file)
        disk.is_full = False
        assert first + domain_files.work(file) == hosts
        disk.is_full = True
        settled = inbox.settle()
        assert (settled.receipts, type(settled.error)) == ((), Unavailable)
        disk.is_full = False
        assert len(inbox.settle().receipts) == 1
    assert [receipt["accepted"] for receipt in domain_files.receipts(tmp_path)] == [10]


def test_nothing_is_taken_while_there_is_no_room(tmp_path: Path) -> None:
    """A claim that cannot be written down leaves the file in the inbox, and nothing else."""
    disk = SmallDisk()
    with Inbox(tmp_path, run_id="run-1", calls=disk.calls) as inbox:
        (tmp_path / "list").write_bytes(b"a.example\n")
        assert domain_files.found(inbox) == 1
        disk.is_full = True
        with pytest.raises(Unavailable, match="No space left"):
            inbox.claim_next()
        assert (tmp_path / "list").exists()
        assert list((tmp_path / ".claimed").iterdir()) == []
        disk.is_full = False
        assert len(domain_files.finished(inbox)) == 1


# --- races and kills ---------------------------------------------------------------------------------------------


def test_two_processes_share_five_hundred_files(quick_disk: Path) -> None:
    """Each file is taken by exactly one of them, and has exactly one receipt."""
    names = [f"{number:03d}" for number in range(500)]
    with Inbox(quick_disk, run_id="run-0"):
        for name in names:
            (quick_disk / name).write_bytes(f"host{name}.example\n".encode())
    racers = [_started("race", quick_disk) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    finished = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert sorted(finished[0] + finished[1]) == names
    assert all(finished), "one of them took everything"
    assert sorted(receipt["name"] for receipt in domain_files.receipts(quick_disk)) == names


def test_what_a_killed_process_held_is_taken_up(tmp_path: Path) -> None:
    """While it lives nobody gets its files; the moment it is killed, everybody may."""
    with Inbox(tmp_path, run_id="run-1") as inbox:
        (tmp_path / "list").write_bytes(b"a.example\n")
        holder = _started("hold", tmp_path)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "1\n"
        assert inbox.resume() == []
        holder.kill()
        holder.communicate()
        assert [file.name for file in inbox.resume()] == ["list"]


@pytest.mark.parametrize(("lines", "kills"), [(4000, 8), pytest.param(100_000, 40, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_no_line(quick_disk: Path, lines: int, kills: int) -> None:
    """After many kills every host was promised, the receipt is that of an undisturbed run, and little was redone."""
    inbox, log = quick_disk / "inbox", quick_disk / "log"
    inbox.mkdir()
    hosts = domain_files.hosts(lines)
    content = domain_files.listing(hosts[: lines // 2] + hosts[:100] + ["bad_$"] * 50 + hosts[lines // 2 :])
    (inbox / "list").write_bytes(content)
    chance = random.Random(4)
    lived = 0
    for life in range(kills + 30):
        process = _started("work", inbox, log, 50)
        assert process.stdout is not None
        process.stdout.readline()
        if life < kills:
            time.sleep(chance.uniform(0, 6 * lines / 30_000 / kills))
            process.kill()
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
        lived += 1
    assert lived >= 3
    [receipt] = domain_files.receipts(inbox)
    assert [receipt[fate] for fate in domain_files.FATES] == [lines, 100, 0, 0, 50, 0]
    promised = Counter(log.read_text().split())
    assert set(promised) == set(hosts)
    assert len(receipt["run_ids"]) >= 2
    redone = sum(promised.values()) - lines
    assert redone < lived * 4000, f"{redone} promised again over {lived} kills"


def test_constants_of_the_disk_format() -> None:
    """Names on disk that an upgrade must go on to know."""
    assert (claim.DATA, claim.META, claim.PROGRESS, claim.RECEIPT) == (
        "data",
        "meta.json",
        "progress.json",
        "receipt.json",
    )
    assert durable.is_temporary(durable.temporary_name(claim.PROGRESS))
