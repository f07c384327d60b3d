"""Programs that the spool's fault tests run: in a process, a mount namespace or under a tracer of their own.

What they print is read by those tests.
"""
# ruff: noqa: T201

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from spyder.outbox.spool import BadBatch, Name, Place, Spool, SpoolFull, new_batch_id
from spyder.runtime import durable
from tests.outbox import spool_scenario as scenario
from tests.runtime import disk_faults

_SKIP = 77


def traced(work: Path, call: str, when: int, points: int) -> None:
    """Live `points` times, each in a child of its own: the tracer strikes at the child's call number `when`."""
    scenario.live(work / "warm", lambda *_: None)  # lazy imports, before the counting
    for point in range(1, points + 1):
        notes = os.open(work / f"{point}.notes", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def note(*words: str, to: int = notes) -> None:
            os.writev(to, [f"{' '.join(words)}\n".encode()])  # not one of the calls that are struck

        child = os.fork()
        if child == 0:
            for _ in range(when - point):
                _in_vain(call)
            try:
                scenario.live(work / f"{point}", note)
            finally:
                error = sys.exception()
                if error is not None:
                    note("died", repr(error).replace(" ", "_"))
                os._exit(error is not None)
        _, status = os.waitpid(child, 0)
        os.close(notes)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit((work / f"{point}.notes").read_text())


def _in_vain(call: str) -> None:
    vain: dict[str, Callable[[], object]] = {
        "openat": lambda: os.open("/nowhere/at/all", os.O_RDONLY),
        "write": lambda: os.write(-1, b""),
        "read": lambda: os.read(-1, 1),
        "close": lambda: os.close(-1),
        "fsync": lambda: os.fsync(1000),
        "renameat": lambda: os.rename("a", "b", src_dir_fd=1000, dst_dir_fd=1000),
        "unlinkat": lambda: os.unlink("a", dir_fd=1000),
        "flock": lambda: durable.SYSTEM_CALLS.flock(1000, 0),
    }
    with suppress(OSError):
        vain[call]()


def _mount(target: Path, *options: str) -> None:
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(target)], check=True, capture_output=True)


def _refusal(act: Callable[[], object]) -> durable.Unavailable:
    try:
        act()
    except durable.Unavailable as error:
        return error
    sys.exit("it was not refused")


def full(work: Path, options: str, admission: str) -> None:
    """Fill a small file system; then read and remove all of it, and write again."""
    _mount(work / "disk", "-t", "tmpfs", "-o", options, "none")
    calls = durable.SYSTEM_CALLS
    if admission == "blind":
        roomy = os.statvfs("/")
        calls = replace(calls, fstatvfs=lambda _: roomy)
    payload = b"x" * 3000
    with scenario.open_spool(work / "disk" / "spool", calls) as spool:
        promised: list[Name] = []

        def fill() -> None:
            while len(promised) < 10_000:
                promised.append(spool.write(new_batch_id(time.time()), payload))

        error = _refusal(fill)
        assert isinstance(error, SpoolFull) == (admission == "asked"), repr(error)
        print("refused", len(promised), error)
        assert 3 < len(promised) < 10_000, len(promised)
        assert spool.usage().files == len(promised)
        assert not [each for each in (work / "disk" / "spool").iterdir() if durable.is_temporary(each.name)]
        assert sorted(promised) == sorted(spool.ready(limit=10_000))
    with scenario.open_spool(work / "disk" / "spool", calls) as spool:  # a full disk does not keep it from starting
        for name in promised:
            claim = spool.claim(name)
            assert claim is not None
            with claim:
                assert claim.read() == payload
                claim.remove()
        spool.sync()
        spool.write(new_batch_id(time.time()), payload)
        assert spool.usage().files == 1


def read_only(work: Path) -> None:
    """Turn the file system read-only under an open spool, and back."""
    disk = work / "disk"
    _mount(disk, "-t", "tmpfs", "none")
    scenario.open_spool(disk / "spool").close()
    # not as the owner, whose lock file is open for writing: an orderly remount would be refused
    with Spool(disk / "spool", owner=False, reserve_bytes=0, reserve_files=0) as spool:
        name = spool.write(new_batch_id(time.time()), b"{}")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        claim = spool.claim(name)
        assert claim is not None
        with claim:
            assert _refusal(claim.remove).errno == errno.EROFS
        assert _refusal(lambda: spool.write(new_batch_id(time.time()), b"{}")).errno == errno.EROFS
        assert spool.read(name) == b"{}"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        spool.write(new_batch_id(time.time()), b"{}")
        assert spool.usage().files == 2


def other_device(work: Path) -> None:
    """Open a spool whose dead/ is a mount of its own."""
    (work / "spool").mkdir()
    _mount(work / "spool" / "dead", "-t", "tmpfs", "none")
    error = _refusal(lambda: scenario.open_spool(work / "spool"))
    assert error.errno == errno.EXDEV
    assert not list(work.glob("spool/*/.*tmp"))
    print(error)


def not_permitted(_work: Path) -> None:
    """Open, as nobody, a spool that belongs to root."""
    place = Path(f"/tmp/spyder-not-permitted-{os.getpid()}")
    for each in (place, place / "dead", place / "bad"):
        each.mkdir(mode=0o755)
    try:
        os.setgroups([])
        os.setresgid(65534, 65534, 0)
        os.setresuid(65534, 65534, 0)
        print(_refusal(lambda: scenario.open_spool(place)))
    finally:
        os.setresuid(0, 0, 0)
        shutil.rmtree(place)


def race(directory: Path, manner: str) -> None:
    """List, wait for the start, claim all that can be claimed; keep or remove it; say what was had, and wait."""
    with Spool(directory, owner=False) as spool:
        names = spool.ready(limit=1000)
        print("listed", flush=True)
        sys.stdin.readline()
        mine = []
        for name in names:
            claim = spool.claim(name)
            if claim is not None:
                claim.read()
                mine.append(claim)
                if manner == "remove":
                    claim.remove()
                    claim.release()
        print(*(claim.name.batch_id for claim in mine), flush=True)
        sys.stdin.readline()


def hold(directory: Path) -> None:
    """Claim the oldest batch, say so, and wait to be killed."""
    with Spool(directory, owner=False) as spool:
        claim = spool.claim(spool.ready(limit=1)[0])
        print("held" if claim else "not held", flush=True)
        signal.pause()


def cut(work: Path, cuts: int, mutant: str) -> None:
    """Cut the power under a writer, again and again; print how many batches were promised, and how many are lost."""
    calls = durable.SYSTEM_CALLS if mutant == "none" else getattr(disk_faults, mutant)()
    fresh, image, copy = work / "fresh.img", work / "image", work / "copy"
    with fresh.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", str(fresh)], check=True)
    chance = random.Random(1)
    promised = lost = 0
    for _ in range(cuts):
        shutil.copyfile(fresh, image)
        said = _run_until_the_cut(image, copy, work / "disk", calls, chance.uniform(0.01, 0.12))
        _mount(work / "disk", "-o", "loop", str(copy))
        try:
            kept = _sound_batches(work / "disk" / "spool")
        finally:
            subprocess.run(["umount", str(work / "disk")], check=True)
        mine = {batch_id for verb, batch_id in said if verb == "promised"}
        done = {batch_id for verb, batch_id in said if verb == "delivered"}
        promised += len(mine)
        lost += len(mine - done - kept)
    print(promised, lost)


def _run_until_the_cut(
    image: Path, copy: Path, disk: Path, calls: durable.Calls, after_s: float
) -> list[tuple[str, ...]]:
    try:
        _mount(disk, "-o", "loop", str(image))
    except subprocess.CalledProcessError as error:
        print(error.stderr.decode(), file=sys.stderr)
        sys.exit(_SKIP)
    reading, writing = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(reading)
        _write_for_ever(disk / "spool", calls, writing)
    os.close(writing)
    said = os.read(reading, 65536)  # the first promise: from here the time counts
    time.sleep(after_s)
    os.kill(writer, signal.SIGSTOP)
    os.waitpid(writer, os.WUNTRACED)
    shutil.copyfile(image, copy)  # what the file system has given to its disk, and no more
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    while part := os.read(reading, 65536):
        said += part
    os.close(reading)
    subprocess.run(["umount", str(disk)], check=True)
    return [tuple(line.split()) for line in said.decode().splitlines()]


def _write_for_ever(directory: Path, calls: durable.Calls, to: int) -> None:
    try:
        with scenario.open_spool(directory, calls) as spool:
            for number in itertools.count():
                name = spool.write(
                    new_batch_id(time.time()), b"%0*d" % (random.Random(number).randint(1, 9000), number)
                )
                os.write(to, f"promised {name.batch_id}\n".encode())
                if number % 3 == 2:
                    _deliver_oldest(spool, to)
    finally:
        os._exit(1)


def _deliver_oldest(spool: Spool, to: int) -> None:
    for name in spool.ready(limit=2):
        claim = spool.claim(name)
        if claim is not None:
            with claim:
                claim.read()
                os.write(to, f"delivered {name.batch_id}\n".encode())
                claim.remove()
    spool.sync()


def _sound_batches(directory: Path) -> set[str]:
    if not directory.exists():
        return set()
    kept = set()
    with scenario.open_spool(directory) as spool:
        names: list[Name] = spool.names(Place.READY, limit=100_000)
        for name in names:
            with suppress(BadBatch), spool.claim(name) or nullcontext() as claim:
                if claim is None:
                    continue
                claim.read()
                kept.add(name.batch_id)
    return kept


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    programs: dict[str, Callable[[], None]] = {
        "traced": lambda: traced(Path(rest[0]), rest[1], int(rest[2]), int(rest[3])),
        "full": lambda: full(Path(rest[0]), rest[1], rest[2]),
        "read-only": lambda: read_only(Path(rest[0])),
        "other-device": lambda: other_device(Path(rest[0])),
        "not-permitted": lambda: not_permitted(Path(rest[0])),
        "race": lambda: race(Path(rest[0]), rest[1]),
        "hold": lambda: hold(Path(rest[0])),
        "cut": lambda: cut(Path(rest[0]), int(rest[1]), rest[2]),
    }
    programs[verb]()
