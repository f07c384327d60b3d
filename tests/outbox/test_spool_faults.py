"""The spool on a disk that fails at every single call, under a kill before every system call, and after power cuts."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from spyder.outbox.spool import Claim, Name, Place
from spyder.runtime.durable import SYSTEM_CALLS, Calls
from tests.outbox import spool_scenario as scenario
from tests.runtime import disk_faults

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def quick_disk() -> Iterator[Path]:
    """A directory in memory where there is one: the faults are injected, so that the disk need only be quick."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


def _program(*args: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "tests.outbox.spool_programs", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, capture_output=True, text=True, timeout=580, check=False)


def _lives(
    tmp_path: Path, error: int | str, base: Calls = SYSTEM_CALLS
) -> Iterator[tuple[disk_faults.Faults, list[str]]]:
    """Live once for each call that there is, in which that call fails; yield the fault and what was wrong after."""
    at = 1
    while True:
        faults = disk_faults.Faults(at, error)
        said = disk_faults.Recorder()
        directory = tmp_path / f"spool-{at}"
        scenario.live(directory, said.note, _over(faults, base))
        if faults.seen < at:
            return
        notes = [note.words for note in said.trace if isinstance(note, disk_faults.Note)]
        wrong = scenario.judge(scenario.look(directory), notes)
        if not scenario.error_class_is_right(notes):
            wrong.append(f"error class: {notes}")
        wrong += [f"{each} after a failed fsync" for each in faults.after_failed_sync]
        shutil.rmtree(directory)
        yield faults, wrong
        at += 1


def _over(faults: disk_faults.Faults, base: Calls) -> Calls:
    """Put a mutant, if there is one, above the failing disk."""
    failing = faults.calls()
    return failing if base is SYSTEM_CALLS else disk_faults.sync_until_it_succeeds(failing)


@pytest.mark.parametrize("error", [errno.EIO, *disk_faults.WAIT_ERRORS, disk_faults.SHORT_WRITE])
def test_every_call_fails_once(quick_disk: Path, error: int | str) -> None:
    """Whichever call fails: nothing promised is lost, nothing is half-written, and the error says what to do."""
    hits: dict[str, int] = {}
    for faults, wrong in _lives(quick_disk, error):
        assert not wrong, f"call {faults.at} ({faults.hit}): {wrong}"
        hits[faults.hit] = hits.get(faults.hit, 0) + 1
    kinds = {"write"} if error == disk_faults.SHORT_WRITE else {"write", "fsync", "rename", "unlink", "open", "read"}
    assert kinds <= hits.keys()


def test_mutant_that_syncs_again_is_caught(quick_disk: Path) -> None:
    """A failed fsync that is tried again on the same descriptor does not pass the test above."""
    mutant = disk_faults.sync_until_it_succeeds()
    found = [wrong for _, wrong in _lives(quick_disk, errno.EIO, mutant)]
    assert any("after a failed fsync" in each for wrong in found for each in wrong)
    assert any("lost" in each or "torn" in each for wrong in found for each in wrong)


def _crash_findings(directory: Path, mutant: Callable[[Calls], Calls]) -> tuple[int, list[str]]:
    """Live once on a healthy disk; return how many states a power cut may leave, and what is wrong in them."""
    with scenario.open_spool(directory):
        places = {directory.joinpath(place).stat().st_ino: place for place in Place}
    recorder = disk_faults.Recorder()
    scenario.live(directory, recorder.note, mutant(recorder.calls()))
    assert any(note == disk_faults.Note(("promised", scenario.IDS["e"])) for note in recorder.trace)
    states = 0
    wrong: set[str] = set()
    for remains in recorder.crashes():
        states += 1
        files = {
            (places[inode], name): payload
            for (inode, text), payload in remains.files.items()
            if (name := Name.parse(text))
        }
        wrong.update(scenario.judge(files, remains.notes))
        if states > 200_000:
            break
    return states, sorted(wrong)


def test_no_power_cut_loses_a_promise(quick_disk: Path) -> None:
    """In every state that the strict crash model allows, after every step, each promise is kept and no file is torn."""
    states, wrong = _crash_findings(quick_disk / "spool", lambda calls: calls)
    assert wrong == []
    assert states > 200


@pytest.mark.parametrize(
    ("mutant", "symptom"),
    [
        (disk_faults.without_file_sync, "lost"),
        (disk_faults.without_file_sync, "torn"),
        (disk_faults.without_directory_sync, "lost"),
        (disk_faults.rename_before_file_sync, "torn"),
    ],
)
def test_mutants_of_the_write_are_caught(quick_disk: Path, mutant: Callable[[Calls], Calls], symptom: str) -> None:
    """Without the file's sync, without the directory's, or with the rename first, the test above fails."""
    _, wrong = _crash_findings(quick_disk / "spool", mutant)
    assert any(each.startswith(symptom) for each in wrong)


def test_mutant_that_removes_the_parent_first_is_caught(quick_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split that takes the whole batch off the disk before its halves are promised loses it in some state."""

    def hasty(claim: Claim, parts: Iterable[tuple[str, bytes]]) -> list[Name]:
        claim.remove()
        claim._spool.sync()
        return [claim._spool._replace_by(claim.name, *part) for part in parts]

    monkeypatch.setattr(Claim, "replace", hasty)
    _, wrong = _crash_findings(quick_disk / "spool", lambda calls: calls)
    assert wrong == [f"lost: {scenario.IDS['c']}"]


def _count_calls(tmp_path: Path) -> dict[str, int]:
    """Return how often one life makes each call."""
    counts = {}
    for name in ("openat", "write", "fsync", "renameat", "unlinkat", "close", "read", "flock"):
        faults = disk_faults.Faults(10**9, errno.EIO, only={"openat": "open"}.get(name, name.removesuffix("at")))
        scenario.live(tmp_path / f"count-{name}", lambda *_: None, faults.calls())
        counts[name] = faults.seen
    return counts


def _needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("not root: no mounts and no tracing of system calls")


def _under_strace(tmp_path: Path, call: str, injection: str) -> int:
    """Live once for each call of that kind, which the kernel fails or kills there; return how many there were."""
    points = _count_calls(tmp_path)[call]
    work = tmp_path / "work"
    work.mkdir()
    trace = tmp_path / "trace"
    # each life makes the calls that are missing to this number in vain, so that one run of strace serves all of them
    when = 2000 if call in ("openat", "read", "close") else 200
    strace = (
        "strace",
        "-f",
        "-qq",
        "-o",
        str(trace),
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:{injection}:when={when}",
    )
    done = _program("traced", work, call, when, points, prefix=strace)
    assert done.returncode == 0, done.stderr
    for point in range(1, points + 1):
        notes = [tuple(line.split()) for line in (work / f"{point}.notes").read_text().splitlines()]
        directory = work / f"{point}"
        if directory.exists():
            wrong = scenario.judge(scenario.look(directory), notes)
        else:
            wrong = [f"promised without a directory: {words}" for words in notes if words[0] == "promised"]
        assert not wrong, f"{call} {point} of {points}, {injection}: {wrong}"
        if "EIO" in injection or "ENOSPC" in injection or "EACCES" in injection:
            assert scenario.error_class_is_right(notes), f"{call} {point}: {notes}"
    hit = trace.read_text().count("killed by SIGKILL" if "KILL" in injection else "(INJECTED)")
    assert hit == points, f"{hit} of {points} points were reached"
    return points


@pytest.mark.parametrize("call", ["fsync", "renameat"])
def test_killed_before_every_step_of_a_promise(quick_disk: Path, call: str) -> None:
    """SIGKILL before each fsync and each rename, one at a time: nothing promised is lost, nothing is half-written."""
    _needs("strace")
    assert _under_strace(quick_disk, call, "signal=KILL") >= 8


@pytest.mark.slow
@pytest.mark.parametrize("injection", ["signal=KILL", "error=ENOSPC", "error=EIO", "error=EACCES"])
@pytest.mark.parametrize("call", ["write", "fsync", "renameat", "unlinkat", "openat", "close", "read", "flock"])
def test_every_system_call_under_strace(quick_disk: Path, call: str, injection: str) -> None:
    """Every system call of a spool's life fails, or is the last thing before a kill, once each: nothing is lost."""
    _needs("strace")
    assert _under_strace(quick_disk, call, injection) > 0


@pytest.mark.parametrize("options", ["size=64k", "size=1m,nr_inodes=20"])
@pytest.mark.parametrize("admission", ["asked", "blind"])
def test_a_disk_without_room(tmp_path: Path, options: str, admission: str) -> None:
    """On a full disk a write is refused and leaves nothing; all that was promised is read, removed, and makes room."""
    _needs("unshare", "mount")
    done = _program("full", tmp_path, options, admission, prefix=("unshare", "-m"))
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout


def test_a_spool_that_turns_read_only(tmp_path: Path) -> None:
    """On a file system that is read-only for a while, writes wait, reads go on, and all is well afterwards."""
    _needs("unshare", "mount")
    done = _program("read-only", tmp_path, prefix=("unshare", "-m"))
    assert done.returncode == 0, done.stderr


def test_dead_on_another_file_system_is_refused_at_start(tmp_path: Path) -> None:
    """A mount on dead/, from which a batch could not be renamed, is found at the start and named."""
    _needs("unshare", "mount")
    done = _program("other-device", tmp_path, prefix=("unshare", "-m"))
    assert done.returncode == 0, done.stderr
    assert "rename into" in done.stdout


def test_a_directory_without_permission_is_refused_at_start(tmp_path: Path) -> None:
    """A directory that the user may not write is found at the start; the message names it and what it should be."""
    _needs("unshare")
    done = _program("not-permitted", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "must belong to user id 65534" in done.stdout


def _power_cuts(tmp_path: Path, cuts: int, mutant: str) -> tuple[int, int]:
    """Return how many batches were promised, and how many of them are lost, over so many power cuts of an ext4."""
    _needs("unshare", "mount", "mkfs.ext4")
    done = _program("cut", tmp_path, cuts, mutant, prefix=("unshare", "-m"))
    if done.returncode == 77:
        pytest.skip(f"no loop device: {done.stderr}")
    assert done.returncode == 0, done.stderr
    promised, lost = map(int, done.stdout.split())
    return promised, lost


def test_a_few_power_cuts(tmp_path: Path) -> None:
    """After the power is cut under a real ext4, every promised batch is there and whole."""
    promised, lost = _power_cuts(tmp_path, 4, "none")
    assert promised > 10
    assert lost == 0


@pytest.mark.slow
def test_many_power_cuts(tmp_path: Path) -> None:
    """The same, many times."""
    promised, lost = _power_cuts(tmp_path, 100, "none")
    assert promised > 1000
    assert lost == 0


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["without_file_sync", "without_directory_sync"])
def test_power_cuts_catch_the_mutants(tmp_path: Path, mutant: str) -> None:
    """Without the file's sync or the directory's, the power cuts lose promised batches."""
    assert _power_cuts(tmp_path, 12, mutant)[1] > 0
