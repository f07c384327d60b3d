"""The spool: names, order, capacity, claims, damage, the dead, and a hundred thousand batches."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from spyder.model.records import Batch, Edge, EdgeType, rfc3339
from spyder.outbox.payload import encode
from spyder.outbox.spool import (
    BadBatch,
    Claim,
    Name,
    NoSuchBatch,
    PayloadTooLarge,
    Place,
    Spool,
    SpoolFull,
    Usage,
    half_ids,
    new_batch_id,
)
from spyder.runtime import durable
from tests.runtime import disk_faults

ROOT = Path(__file__).resolve().parents[2]
_PAYLOAD = b'{"batch_id":"x","edges":[]}'
_NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool, at noon."""
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0, clock=lambda: _NOON) as opened:
        yield opened


def _ids(count: int) -> list[str]:
    return [new_batch_id(_NOON + number) for number in range(count)]


def _claimed(spool: Spool, name: Name) -> Claim:
    claim = spool.claim(name)
    assert claim is not None
    return claim


# --- names and ids


def test_ids_are_time_ordered_uuids() -> None:
    """An id is a UUIDv7 as 32 digits; later ones sort later, down to the quarter of a microsecond."""
    first, second = new_batch_id(_NOON), new_batch_id(_NOON + 0.000001)
    assert first[:12] == f"{int(_NOON * 1000):012x}"
    assert (first[12], first[16] in "89ab", len(first)) == ("7", True, 32)
    assert first < second


@pytest.mark.parametrize("epoch_s", [0.0, -5.0, _NOON, 1e15])
def test_ids_are_unique_whatever_the_clock_says(epoch_s: float) -> None:
    """A clock that stands still, before the epoch or far beyond, gives no id twice."""
    ids = {new_batch_id(epoch_s) for _ in range(20_000)}
    assert len(ids) == 20_000
    assert all(Name.parse(str(Name.of(each, b""))) for each in ids)


def test_the_halves_name_their_parent() -> None:
    """A half's id is its parent's with .0 or .1; it keeps the parent's place in the order, after it."""
    batch_id = new_batch_id(_NOON)
    first, second = half_ids(batch_id)
    assert (first, second) == (f"{batch_id}.0", f"{batch_id}.1")
    assert half_ids(first)[1] == f"{batch_id}.0.1"
    names = [Name.of(each, b"") for each in (batch_id, first, half_ids(first)[1], second, new_batch_id(_NOON + 1))]
    assert names == sorted(names)
    assert list(map(str, names)) == sorted(map(str, names))


def test_the_name_is_a_function_of_id_and_bytes(spool: Spool) -> None:
    """UTC time of the id, id, 16 digits of the SHA-256 of the file: and the file is the bytes and no more."""
    batch_id = new_batch_id(_NOON + 0.5)
    name = spool.write(batch_id, _PAYLOAD)
    digest = hashlib.sha256(_PAYLOAD).hexdigest()
    assert str(name) == f"20260101T120000.500Z-{batch_id}-{digest[:16]}.json"
    assert (spool._root.path / str(name)).read_bytes() == _PAYLOAD
    assert Name.parse(str(name)) == name


@pytest.mark.parametrize(
    "batch_id", ["", "x", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + ".2", "0" * 32 + "/", "../" + "0" * 32]
)
def test_what_is_no_id_is_refused(spool: Spool, batch_id: str) -> None:
    """An id can never lead out of the spool."""
    with pytest.raises(ValueError, match="not a batch id"):
        spool.write(batch_id, _PAYLOAD)


@pytest.mark.parametrize(
    "text", ["", "x.json", ".owner.lock", "dead", "20260101T120000.500Z-" + "0" * 32 + "-" + "0" * 16]
)
def test_foreign_names_are_left_alone(spool: Spool, text: str) -> None:
    """What is not a batch's name is not listed, not moved, not counted, and hinders no start."""
    path = spool._root.path / (text or "x")
    if not path.exists():
        path.write_text("mine")
    spool.recount()
    assert spool.ready(limit=10) == []
    assert spool.usage().files == 0
    assert path.exists()


# --- writing and listing


def test_ready_is_oldest_first_in_windows(spool: Spool) -> None:
    """Batches come by age, however they were written; `after` goes on where a window ended."""
    ids = _ids(25)
    for batch_id in ids[::2] + ids[1::2]:
        spool.write(batch_id, _PAYLOAD)
    first = spool.ready(limit=10)
    second = spool.ready(limit=100, after=first[-1])
    assert [name.batch_id for name in first + second] == ids


def test_writing_the_same_batch_again_makes_no_second_file(spool: Spool) -> None:
    """After an error that left a doubt, the batch takes the place of its own double."""
    batch_id = new_batch_id(_NOON)
    assert spool.write(batch_id, _PAYLOAD) == spool.write(batch_id, _PAYLOAD)
    spool.recount()
    assert spool.usage().files == 1


def test_the_directories_are_private(tmp_path: Path) -> None:
    """0700, whatever the umask."""
    Spool(tmp_path / "a" / "spool").close()
    for place in ("a", "a/spool", "a/spool/dead", "a/spool/bad"):
        assert (tmp_path / place).stat().st_mode & 0o777 == 0o700


def test_the_start_removes_what_a_dead_owner_left(tmp_path: Path) -> None:
    """Half-written temporaries go, everywhere; other files with a dot stay."""
    Spool(tmp_path).close()
    left = [tmp_path / place / durable.temporary_name("x.json") for place in (".", "dead", "bad")]
    for path in [*left, tmp_path / ".mine"]:
        path.write_bytes(b"half")
    Spool(tmp_path).close()
    assert [path.exists() for path in left] == [False] * 3
    assert (tmp_path / ".mine").exists()


def test_a_new_spool_survives_a_power_cut(tmp_path: Path) -> None:
    """The names of the directories are synced before anything is promised in them."""
    recorder = disk_faults.Recorder()
    Spool(tmp_path / "spool", calls=recorder.calls()).close()
    for parent in (tmp_path, tmp_path / "spool"):
        assert disk_faults.Sync(parent.stat().st_ino) in recorder.trace


def test_one_owner_and_any_number_of_others(tmp_path: Path) -> None:
    """A second owner is refused; others look and claim beside the owner, and remove no temporaries."""
    with Spool(tmp_path) as owner:
        with pytest.raises(durable.LockHeld, match=str(os.getpid())):
            Spool(tmp_path)
        half = tmp_path / durable.temporary_name("x.json")
        half.touch()
        owner.write(new_batch_id(_NOON), _PAYLOAD)
        with Spool(tmp_path, owner=False) as other:
            assert other.usage().files == 1
        assert half.exists()


def test_a_spool_that_is_absent_is_made_by_its_owner_only(tmp_path: Path) -> None:
    """A person who mistypes the directory gets an error, not an empty spool."""
    with pytest.raises(durable.DurableError):
        Spool(tmp_path / "absent", owner=False)
    assert not (tmp_path / "absent").exists()


# --- capacity


def test_the_cap_refuses_and_deletes_nothing(tmp_path: Path) -> None:
    """At `max_bytes` a write is refused; after a delivery there is room again."""
    with Spool(tmp_path, max_bytes=250, reserve_bytes=0) as spool:
        names = [spool.write(batch_id, b"x" * 100) for batch_id in _ids(2)]
        with pytest.raises(SpoolFull, match="200 bytes are spooled"):
            spool.write(new_batch_id(_NOON), b"x" * 100)
        assert spool.ready(limit=10) == names
        with _claimed(spool, names[0]) as claim:
            claim.remove()
        spool.write(new_batch_id(_NOON), b"x" * 100)


def test_many_writers_never_exceed_the_cap(tmp_path: Path) -> None:
    """Admission counts what others are about to write."""
    with Spool(tmp_path, max_bytes=1000, reserve_bytes=0) as spool:
        refused: list[SpoolFull] = []

        def write() -> None:
            for _ in range(5):
                try:
                    spool.write(new_batch_id(_NOON), b"x" * 100)
                except SpoolFull as error:
                    refused.append(error)

        writers = [threading.Thread(target=write) for _ in range(6)]
        for each in writers:
            each.start()
        for each in writers:
            each.join()
        assert len(refused) == 20
        assert spool.usage().bytes == 1000


def test_room_made_by_another_process_is_found(tmp_path: Path) -> None:
    """A full spool is counted anew, at most every ten seconds."""
    now = [100.0]
    with Spool(tmp_path, max_bytes=100, reserve_bytes=0, monotonic=lambda: now[0]) as spool:
        name = spool.write(new_batch_id(_NOON), b"x" * 100)
        (tmp_path / str(name)).unlink()
        with pytest.raises(SpoolFull):
            spool.write(new_batch_id(_NOON), b"x")
        now[0] += 10
        spool.write(new_batch_id(_NOON), b"x")


def test_a_lower_cap_on_a_full_spool_only_waits(tmp_path: Path) -> None:
    """A cap that is set below what is there loses nothing, and keeps nothing from being delivered."""
    with Spool(tmp_path) as spool:
        names = [spool.write(batch_id, b"x" * 100) for batch_id in _ids(3)]
    with Spool(tmp_path, max_bytes=50) as spool:
        assert spool.ready(limit=10) == names
        assert _claimed(spool, names[0]).read() == b"x" * 100
        with pytest.raises(SpoolFull):
            spool.write(new_batch_id(_NOON), b"x")


@pytest.mark.parametrize(("bytes_", "files", "reason"), [(1 << 60, 0, "bytes"), (0, 1 << 60, "inodes")])
def test_the_reserve_is_left_to_others(tmp_path: Path, bytes_: int, files: int, reason: str) -> None:
    """Where fewer bytes or inodes are free than the reserve, a write is refused with what there is."""
    with Spool(tmp_path, reserve_bytes=bytes_, reserve_files=files) as spool:
        with pytest.raises(SpoolFull, match=f"{reason} are free"):
            spool.write(new_batch_id(_NOON), _PAYLOAD)
        assert spool.usage().files == 0


def test_a_batch_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    """Neither one above the size that is read, nor one that no cap would ever admit."""
    with Spool(tmp_path, max_batch_bytes=10) as spool, pytest.raises(PayloadTooLarge):
        spool.write(new_batch_id(_NOON), b"x" * 11)
    with Spool(tmp_path, max_bytes=10) as spool, pytest.raises(PayloadTooLarge):
        spool.write(new_batch_id(_NOON), b"x" * 11)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A file beyond the size that is read is judged by its length, and said to be too large."""
    with Spool(tmp_path) as spool:
        name = spool.write(new_batch_id(_NOON), b"x" * 11)
    with Spool(tmp_path, max_batch_bytes=10) as spool, pytest.raises(BadBatch, match="11 bytes; the most is 10"):
        _claimed(spool, name).read()


# --- claims


def test_a_claim_excludes_others_until_it_is_released(spool: Spool) -> None:
    """One holder; after it lets go without removing, the batch is there for the next."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    with _claimed(spool, name) as claim:
        assert spool.claim(name) is None
        assert claim.read() == _PAYLOAD
    with _claimed(spool, name) as claim:
        claim.remove()
    assert spool.claim(name) is None


def test_a_claim_dies_with_its_process(spool: Spool) -> None:
    """After SIGKILL of the holder the batch is claimed at once by another."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    command = [sys.executable, "-m", "tests.outbox.spool_programs", "hold", str(spool._root.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert spool.claim(name) is None
        holder.kill()
        holder.wait()
    _claimed(spool, name).release()


@pytest.mark.parametrize("manner", ["keep", "remove"])
def test_each_file_is_claimed_once_by_racing_processes(spool: Spool, manner: str) -> None:
    """Three processes over one listing of 500 batches: every batch is had by exactly one, whether it stays or goes."""
    ids = _ids(500)
    for batch_id in ids:
        (spool._root.path / str(Name.of(batch_id, _PAYLOAD))).write_bytes(_PAYLOAD)
    command = [sys.executable, "-m", "tests.outbox.spool_programs", "race", str(spool._root.path), manner]
    with ExitStack() as racers:
        running = [
            racers.enter_context(
                subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(3)
        ]
        outs = [each.stdout for each in running if each.stdout]
        ins = [each.stdin for each in running if each.stdin]
        assert [out.readline() for out in outs] == ["listed\n"] * 3
        for each in ins:
            each.write("go\n")
            each.flush()
        had = [batch_id for out in outs for batch_id in out.readline().split()]
        for each in ins:
            each.close()
    assert sorted(had) == sorted(ids)


def test_a_split_puts_the_halves_in_the_parent_s_place(spool: Spool) -> None:
    """The halves are ready, the parent is gone; also in a spool that is full."""
    spool._max_bytes = 100
    name = spool.write(new_batch_id(_NOON), b"x" * 100)
    first, second = half_ids(name.batch_id)
    with _claimed(spool, name) as claim:
        halves = claim.replace([(first, b"x" * 50), (second, b"y" * 50)])
    assert spool.ready(limit=10) == halves
    assert [each.batch_id for each in halves] == [first, second]
    assert spool.usage() == Usage(files=2, bytes=100, oldest_age_s=0.0, dead=0, bad=0)


@pytest.mark.parametrize("parts", [[], [("0" * 32, _PAYLOAD)]])
def test_a_split_cannot_lose_its_batch(spool: Spool, parts: list[tuple[str, bytes]]) -> None:
    """No parts, or a part of another family, is a mistake of the caller, and the batch stays."""
    name = spool.write("0" * 32, _PAYLOAD)
    with _claimed(spool, name) as claim, pytest.raises(ValueError, match="0" * 32):
        claim.replace(parts)
    assert spool.ready(limit=10) == [name]


# --- the dead


def test_the_dead_keep_their_reason_and_come_back(spool: Spool) -> None:
    """A buried batch lies in dead/ with the reason beside it; requeued, it is ready again under its name."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    with _claimed(spool, name) as claim:
        claim.bury({"status": 400, "body": "no\ud800", "time": rfc3339(_NOON)})
    assert spool.ready(limit=10) == []
    assert spool.names(Place.DEAD, limit=10) == [name]
    assert json.loads(spool.why(name))["status"] == 400
    assert (spool.usage().files, spool.usage().dead) == (0, 1)
    assert spool.find(name.batch_id) == [(Place.DEAD, name)]
    assert spool.read(name, Place.DEAD) == _PAYLOAD
    spool.requeue(name)
    assert spool.ready(limit=10) == [name]
    assert spool.why(name) == b""
    assert (spool.usage().files, spool.usage().bytes, spool.usage().dead) == (1, len(_PAYLOAD), 0)
    with pytest.raises(NoSuchBatch):
        spool.requeue(name)


def test_a_requeued_batch_counts_by_its_age(spool: Spool) -> None:
    """It may be the oldest again."""
    name = spool.write(new_batch_id(_NOON - 90), _PAYLOAD)
    with _claimed(spool, name) as claim:
        claim.bury({})
    spool.write(new_batch_id(_NOON - 30), _PAYLOAD)
    assert spool.usage().oldest_age_s == pytest.approx(30, abs=0.01)
    spool.requeue(name)
    assert spool.usage().oldest_age_s == pytest.approx(90, abs=0.01)


def test_the_dead_and_the_bad_survive_every_start(tmp_path: Path) -> None:
    """They are never emptied by the program, and start after start counts them."""
    with Spool(tmp_path) as spool:
        first, second = (spool.write(batch_id, _PAYLOAD) for batch_id in _ids(2))
        with _claimed(spool, first) as claim:
            claim.bury({})
        (tmp_path / str(second)).write_bytes(b"damaged")
        with pytest.raises(BadBatch):
            _claimed(spool, second).read()
    for _ in range(2):
        with Spool(tmp_path) as spool:
            assert spool.usage() == Usage(files=0, bytes=0, oldest_age_s=0.0, dead=1, bad=1)


def test_a_reason_without_a_batch_is_harmless(spool: Spool) -> None:
    """What a crash between the two steps of a burial leaves is not a dead batch, and is replaced by the next burial."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    (spool._root.path / "dead" / f"{name}.why").write_text("half")
    assert spool.names(Place.DEAD, limit=10) == []
    with _claimed(spool, name) as claim:
        claim.bury({"status": 422})
    assert json.loads(spool.why(name)) == {"status": 422}


@pytest.mark.parametrize("place", [Place.READY, Place.DEAD])
def test_a_person_may_discard_a_batch(spool: Spool, place: Place) -> None:
    """It is gone, with its reason; one that is being sent is not touched."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    with _claimed(spool, name) as claim:
        assert not spool.discard(name, Place.READY)
        if place is Place.DEAD:
            claim.bury({})
    assert spool.discard(name, place)
    assert not spool.discard(name, place)
    assert spool.find(name.batch_id) == []
    assert list((spool._root.path / "dead").iterdir()) == []
    assert spool.usage() == Usage(files=0, bytes=0, oldest_age_s=0.0, dead=0, bad=0)


@pytest.mark.parametrize("place", [Place.READY, Place.DEAD])
def test_a_discarded_batch_stays_away(tmp_path: Path, place: Place) -> None:
    """A person's deletion is durable when it returns."""
    recorder = disk_faults.Recorder()
    with Spool(tmp_path, calls=recorder.calls()) as spool:
        name = spool.write(new_batch_id(_NOON), _PAYLOAD)
        if place is Place.DEAD:
            with _claimed(spool, name) as claim:
                claim.bury({})
        spool.discard(name, place)
    assert recorder.trace[-1] == disk_faults.Sync((tmp_path / place).stat().st_ino)


# --- damage


def _damage(kind: str, path: Path) -> None:
    def hold(content: bytes) -> None:
        path.write_bytes(content)

    def sparse() -> None:
        with path.open("wb") as file:
            file.truncate(2 << 30)

    def instead(make: Callable[[], object]) -> None:
        path.unlink()
        make()

    flipped = bytes([_PAYLOAD[0] ^ 1]) + _PAYLOAD[1:]
    damage: dict[str, Callable[[], object]] = {
        "empty": lambda: hold(b""),
        "NULs": lambda: hold(bytes(len(_PAYLOAD))),
        "one bit flipped": lambda: hold(flipped),
        "longer": lambda: hold(_PAYLOAD + b"\n"),
        "another batch": lambda: hold(_PAYLOAD.replace(b"x", b"y")),
        "2 GB of nothing": sparse,
        "link": lambda: instead(lambda: path.symlink_to("/etc/hostname")),
        "dangling link": lambda: instead(lambda: path.symlink_to("nowhere")),
        "pipe": lambda: instead(lambda: os.mkfifo(path)),
        "directory": lambda: instead(lambda: (path / "x").mkdir(parents=True)),
    }
    damage[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "NULs",
        "one bit flipped",
        "longer",
        "another batch",
        "2 GB of nothing",
        "link",
        "dangling link",
        "pipe",
        "directory",
    ],
)
def test_damage_goes_to_bad_and_stops_nothing(tmp_path: Path, kind: str) -> None:
    """Whatever lies under a batch's name: the start goes well, it is set aside, counted, and the others are sent."""
    with Spool(tmp_path) as spool:
        names = [spool.write(batch_id, _PAYLOAD) for batch_id in _ids(3)]
    _damage(kind, tmp_path / str(names[1]))
    sent, damaged = [], []
    with Spool(tmp_path) as spool:
        for name in spool.ready(limit=10):
            try:
                with _claimed(spool, name) as claim:
                    sent.append(claim.read())
                    claim.remove()
            except BadBatch as damage:
                damaged.append(damage)
        assert sent == [_PAYLOAD] * 2
        assert [(each.name, each.moved) for each in damaged] == [(names[1], True)]
        assert [each.name for each in (tmp_path / "bad").iterdir()] == [str(names[1])]
        usage = spool.usage()
        assert (usage.files, usage.bad) == (0, 1)
        spool.recount()
        assert spool.usage() == Usage(files=0, bytes=0, oldest_age_s=0.0, dead=0, bad=1)


def test_a_file_cut_at_any_byte_is_noticed(spool: Spool) -> None:
    """Every length but the right one is damage; looking at it moves nothing."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    path = spool._root.path / str(name)
    for length in range(len(_PAYLOAD)):
        path.write_bytes(_PAYLOAD[:length])
        with pytest.raises(BadBatch) as caught:
            spool.read(name)
        assert not caught.value.moved
    path.write_bytes(_PAYLOAD)
    assert spool.read(name) == _PAYLOAD


def test_every_flipped_bit_is_noticed(spool: Spool) -> None:
    """One bit anywhere in the file."""
    name = spool.write(new_batch_id(_NOON), _PAYLOAD)
    for bit in range(len(_PAYLOAD) * 8):
        flipped = bytearray(_PAYLOAD)
        flipped[bit // 8] ^= 1 << bit % 8
        (spool._root.path / str(name)).write_bytes(flipped)
        with pytest.raises(BadBatch):
            spool.read(name)


def test_bad_files_never_replace_each_other(spool: Spool) -> None:
    """Two damaged files of one name are both kept."""
    batch_id = new_batch_id(_NOON)
    for content in (b"first", b"second"):
        name = spool.write(batch_id, _PAYLOAD)
        (spool._root.path / str(name)).write_bytes(content)
        with pytest.raises(BadBatch):
            _claimed(spool, name).read()
    assert {each.read_bytes() for each in (spool._root.path / "bad").iterdir()} == {b"first", b"second"}
    assert spool.usage().bad == 2


def test_a_vanished_batch_is_nobody_s(spool: Spool) -> None:
    """A name whose file is gone is not claimed, and says so when it is looked at."""
    name = Name.of(new_batch_id(_NOON), _PAYLOAD)
    assert spool.claim(name) is None
    with pytest.raises(NoSuchBatch):
        spool.read(name)


def test_a_removed_spool_is_an_error_and_not_made_again(tmp_path: Path) -> None:
    """`rm -r` under the daemon: no write is promised, nothing goes on in memory alone."""
    with Spool(tmp_path / "spool") as spool:
        subprocess.run(["rm", "-r", tmp_path / "spool"], check=True)
        with pytest.raises(durable.DiskSuspect):
            spool.write(new_batch_id(_NOON), _PAYLOAD)
    assert not (tmp_path / "spool").exists()


# --- figures


def test_the_age_is_that_of_the_oldest_that_is_left(spool: Spool) -> None:
    """From the name alone, and never below zero when the clock has gone back."""
    old = spool.write(new_batch_id(_NOON - 90), _PAYLOAD)
    spool.write(new_batch_id(_NOON - 30), _PAYLOAD)
    assert spool.usage().oldest_age_s == pytest.approx(90, abs=0.01)
    with _claimed(spool, old) as claim:
        claim.remove()
    assert spool.usage().oldest_age_s == pytest.approx(30, abs=0.01)
    assert Name.of(new_batch_id(_NOON + 3600), b"").age_s(_NOON) == 0.0


@pytest.mark.parametrize("time_", ["20261399T996199.000Z", "00000000T000000.000Z"])
def test_a_time_that_is_none_has_no_age(time_: str) -> None:
    """A name made by hand may hold any digits."""
    assert Name(time_, "0" * 32, "0" * 16).age_s(_NOON) == 0.0


def test_a_full_batch_is_durable_within_its_budget(spool: Spool) -> None:
    """10,000 edges encoded and written cost less than 50 ms of CPU (budget of the design)."""
    edges = [
        Edge(EdgeType.LINKS_TO, f"host{n}.example.com", f"target{n}.example.org", rfc3339(_NOON), "local-1", "run-1")
        for n in range(10_000)
    ]
    costs = []
    for batch_id in _ids(5):
        batch = Batch(batch_id, rfc3339(_NOON), "local-1", "run-1", edges=edges)
        start = time.process_time()
        spool.write(batch_id, encode(batch).payload)
        costs.append(time.process_time() - start)
    assert min(costs) < 0.05


@pytest.mark.slow
def test_a_hundred_thousand_batches(tmp_path: Path) -> None:
    """They are counted at the start within 5 s, and listed in seconds without holding more than the window."""
    Spool(tmp_path).close()
    for number in range(100_000):
        os.close(os.open(tmp_path / str(Name.of(f"{number:012x}7000{number:016x}", b"")), os.O_CREAT | os.O_WRONLY))
    try:
        tracemalloc.start()
        start = time.monotonic()
        with Spool(tmp_path) as spool:
            opened = time.monotonic()
            names = spool.ready(limit=1000)
            listed = time.monotonic()
            _, peak = tracemalloc.get_traced_memory()
            assert spool.usage().files == 100_000
        assert [int(name.batch_id[:12], 16) for name in names] == list(range(1000))
        assert opened - start < 5.0
        assert listed - opened < 3.0
        assert peak < 4 << 20
    finally:
        tracemalloc.stop()
        subprocess.run(["rm", "-r", tmp_path], check=True)
