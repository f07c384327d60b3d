"""The inbox: what is taken, when, by whom, and where it ends."""

import gzip
import io
import itertools
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spyder.intake import inbox as inbox_module
from spyder.intake.claim import RECEIPT_SUFFIX, ClaimedFile, ClaimLost
from spyder.intake.inbox import Inbox, TooLarge, read_status, submit
from spyder.intake.receipt import REASONS
from spyder.runtime.durable import DurableError
from tests.intake import domain_files
from tests.intake.domain_files import claims, finished, found, listing, outcome, receipts, work
from tests.waiting import started, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Inbox]:
    """An inbox in an empty directory, whose process seems to have lived for long."""
    with Inbox(tmp_path / "inbox", run_id="run-1", calm_s=0.0) as inbox:
        yield inbox


@pytest.fixture
def directory(box: Inbox, tmp_path: Path) -> Path:
    """Its directory."""
    return tmp_path / "inbox"


# --- what is taken, and when -------------------------------------------------------------------------------------


def test_a_file_is_taken_worked_off_and_put_away(box: Inbox, directory: Path) -> None:
    """A dropped file gives its hosts, and ends in done/ with its receipt; nothing of the work is left."""
    (directory / "list.txt").write_bytes(b"a.example\nb.example\n")
    [file] = claims(box)
    assert (file.name, file.lines) == ("list.txt", None)
    assert not (directory / "list.txt").exists()
    assert work(file) == ["a.example", "b.example"]
    assert file.lines == 2
    [receipt] = box.settle().receipts
    assert (receipt.place, receipt.file) == ("done", "list.txt")
    assert (directory / "done/list.txt").read_bytes() == b"a.example\nb.example\n"
    assert receipts(directory)[0]["accepted"] == 2
    assert [path.name for path in (directory / ".claimed").iterdir()] == [".finishing.lock"]


@pytest.mark.parametrize("name", [".hidden", "list.part", "list.tmp", ".list.txt.a8Hq2p"])
def test_names_that_say_unfinished_wait(box: Inbox, directory: Path, name: str) -> None:
    """They are taken when they are renamed, and not before."""
    (directory / name).write_bytes(b"a.example\n")
    assert found(box) == 0
    (directory / name).rename(directory / "list")
    assert found(box) == 1


def test_a_growing_file_waits(box: Inbox, directory: Path) -> None:
    """A file that changes between scans is not taken, until it has stood still for two."""
    path = directory / "list"
    for size in range(1, 6):
        path.write_bytes(b"a.example\n" * size)
        assert box.scan().ready == 0
    assert box.scan().ready == 1


def test_a_slow_writer_is_waited_for(box: Inbox, directory: Path) -> None:
    """A file that stands still but is open for writing is not taken; when it is closed, it is."""
    with (directory / "list").open("wb") as slow:
        slow.write(b"a.example\n")
        slow.flush()
        for _ in range(3):
            assert found(box) == 1
            assert box.claim_next() is None
        slow.write(b"b.example\n")
    assert [receipt.lines for receipt in finished(box)] == [2]


def test_a_reader_does_not_hold_a_file_up(box: Inbox, directory: Path) -> None:
    """Somebody who looks at the file is no writer."""
    (directory / "list").write_bytes(b"a.example\n")
    with (directory / "list").open("rb"):
        assert len(claims(box)) == 1


def test_a_file_that_changes_after_the_scan_waits_again(box: Inbox, directory: Path) -> None:
    """Between scan and claim it was written to: it needs two more scans."""
    (directory / "list").write_bytes(b"a.example\n")
    assert found(box) == 1
    (directory / "list").write_bytes(b"a.example\nb.example\n")
    assert box.claim_next() is None
    assert [receipt.lines for receipt in finished(box)] == [2]


def test_a_file_that_is_removed_while_it_waits_is_forgotten(box: Inbox, directory: Path) -> None:
    """Gone before the second scan, or between scan and claim: nothing happens, and nothing is reported."""
    for remove_early in (True, False):
        (directory / "list").write_bytes(b"a.example\n")
        box.scan()
        if remove_early:
            (directory / "list").unlink()
        assert box.scan().ready == (not remove_early)
        (directory / "list").unlink(missing_ok=True)
        assert box.claim_next() is None
    assert box.scan() == inbox_module.ScanResult(0)
    assert [path.name for path in (directory / ".claimed").iterdir()] == []


def _sock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/etc/passwd"), "a link"),
        (lambda path: path.symlink_to("nowhere"), "a link"),
        (_sock, "a socket"),
    ],
)
def test_what_is_no_file_is_refused_once(
    box: Inbox, directory: Path, make: Callable[[Path], object], kind: str
) -> None:
    """It is named once, with the reason, stays where it is, and keeps nobody waiting."""
    make(directory / "odd")
    (directory / "list").write_bytes(b"a.example\n")
    [refusal] = box.scan().refused
    assert (refusal.name, refusal.reason) == ("odd", f"{kind}, not a regular file")
    assert box.scan().refused == ()
    assert [file.name for file in iter(box.claim_next, None)] == ["list"]
    assert stat.S_IFMT((directory / "odd").lstat().st_mode) != stat.S_IFREG


def test_a_file_that_turns_into_a_pipe_is_not_opened_for_ever(box: Inbox, directory: Path) -> None:
    """Replaced between scan and claim, it is not taken, and nobody hangs."""
    (directory / "list").write_bytes(b"a.example\n")
    assert found(box) == 1
    (directory / "list").unlink()
    os.mkfifo(directory / "list")
    assert box.claim_next() is None
    assert [refusal.reason for refusal in box.scan().refused] == ["a pipe, not a regular file"]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A directory of the user nobody, whom this process is meanwhile."""
    if os.geteuid() != 0:
        pytest.skip("not root: the user cannot be changed")
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(place, 65534, 65534)
    try:
        os.seteuid(65534)
        yield place
    finally:
        os.seteuid(0)
        shutil.rmtree(place)


def test_permission_denied_is_reported_once_and_tried_again(nobody: Path) -> None:
    """A file that may not be read is named once; when it may be, it is taken. Others are not held up."""
    with Inbox(nobody / "inbox", run_id="run-1") as box:
        path = nobody / "inbox" / "secret"
        path.write_bytes(b"a.example\n")
        path.chmod(0)
        (nobody / "inbox" / "list").write_bytes(b"b.example\n")
        assert [file.name for file in claims(box)] == ["list"]
        assert [(each.name, each.reason) for each in box.scan().refused] == [
            ("secret", "Permission denied; it is tried again")
        ]
        assert claims(box) == []
        assert box.scan().refused == ()
        path.chmod(0o600)
        assert [file.name for file in claims(box)] == ["secret"]


def test_a_file_without_a_lease_is_taken_by_the_scans(nobody: Path) -> None:
    """Who may not ask whether a file is being written takes what stood still for two scans."""
    with Inbox(nobody / "inbox", run_id="run-1") as box:
        os.seteuid(0)
        (nobody / "inbox" / "list").write_bytes(b"a.example\n")
        (nobody / "inbox" / "list").chmod(0o644)
        os.seteuid(65534)
        assert [receipt.lines for receipt in finished(box)] == [1]


def test_a_directory_that_may_not_be_written_is_a_problem_and_not_a_loss(nobody: Path) -> None:
    """Where nothing can be renamed, the file stays, and the scan says why."""
    with Inbox(nobody / "inbox", run_id="run-1") as box:
        inbox = nobody / "inbox"
        (inbox / "list").write_bytes(b"a.example\n")
        assert found(box) == 1
        inbox.chmod(0o500)
        assert box.claim_next() is None
        assert [(each.name, each.reason) for each in box.scan().refused] == [
            ("list", "Permission denied; it is tried again")
        ]
        inbox.chmod(0o700)
        assert (inbox / "list").exists()
        assert [receipt.lines for receipt in finished(box)] == [1]


def test_a_directory_that_is_made_anew_is_picked_up(box: Inbox, directory: Path) -> None:
    """After `rm -r` and `mkdir`, the next files are taken; while it is gone, the scan says so."""
    (directory / "list").write_bytes(b"a.example\n")
    assert len(claims(box)) == 1
    shutil.rmtree(directory)
    assert "No such file" in str(box.scan().problem)
    directory.mkdir()
    (directory / "again").write_bytes(b"b.example\n")
    assert box.scan().problem is None
    assert [file.name for file in claims(box)] == ["again"]


def test_work_on_a_file_whose_claim_was_removed_ends(box: Inbox, directory: Path) -> None:
    """With the directory its claims are gone: they are named as lost, and the rest goes on."""
    (directory / "list").write_bytes(b"a.example\nb.example\n")
    (directory / "other").write_bytes(b"a.example\nb.example\n")
    one, other = claims(box)
    work(one)
    work(other, limit=1)
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / "again").write_bytes(b"b.example\n")
    assert len(finished_after(box, 1.1)) == 0
    assert [receipt.lines for receipt in finished(box)] == [1]


def finished_after(box: Inbox, seconds: float) -> list[str]:
    """Settle until all is lost that is."""
    lost: list[str] = []

    def both_lost() -> bool:
        settled = box.settle()
        lost.extend(settled.lost)
        assert settled.error is None
        return len(lost) == 2

    wait_until(both_lost)
    assert sorted(lost) == ["list", "other"]
    return []


@pytest.mark.parametrize(
    "raw",
    [b"two\nlines", b"caf\xe9", b"-rf", b"..list", b"x" * 255, "ä".encode() * 127, b"a b\tc", b"\x1b[31m", b'"quote\\'],
)
def test_any_name_is_taken_and_its_receipt_is_json(box: Inbox, directory: Path, raw: bytes) -> None:
    """Line ends, bytes that are no UTF-8, 255 bytes: file and receipt lie in done/, and the receipt says the name."""
    (directory / os.fsdecode(raw)).write_bytes(b"a.example\n")
    if raw.startswith(b"."):
        assert claims(box) == []
        return
    [receipt] = finished(box)
    assert receipt.origin.name == os.fsdecode(raw)
    path = directory / "done" / (receipt.file + RECEIPT_SUFFIX)
    fields = json.loads(path.read_text("ascii"))
    assert fields["name"].encode("utf-8")
    assert (directory / "done" / receipt.file).read_bytes() == b"a.example\n"
    assert receipt.file == os.fsdecode(raw) or len(raw) > 242


def test_a_hundred_thousand_files_are_listed_in_bounded_memory(box: Inbox, directory: Path) -> None:
    """However many files wait, a scan holds some thousands of names, and takes the oldest of those first."""
    (directory / "seed").write_bytes(b"a.example\n")
    for number in range(30_000):
        os.link(directory / "seed", directory / f"{number:06d}")
    box.scan()
    tracemalloc.start()
    box.scan()
    began = time.process_time()
    assert box.scan().ready == 1000
    assert time.process_time() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert box.status().waiting == 30_001


def test_all_of_many_files_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than one scan gives or remembers, and than may be held at once: each is taken once."""
    monkeypatch.setattr(inbox_module, "_MAX_READY", 10)
    monkeypatch.setattr(inbox_module, "_MAX_TRACKED", 30)
    with Inbox(tmp_path, run_id="run-1", max_claimed=7) as box:
        for number in range(100):
            (tmp_path / f"{number:04d}").write_bytes(b"host%d.example\n" % number)
        names: list[str] = []
        while box.status().waiting:
            names += [receipt.file for receipt in finished(box)]
    assert sorted(names) == [f"{number:04d}" for number in range(100)]


def test_no_more_files_are_held_than_allowed(tmp_path: Path) -> None:
    """With `max_claimed` files in work no more are taken, until one is put away."""
    with Inbox(tmp_path, run_id="run-1", max_claimed=2) as box:
        for number in range(4):
            (tmp_path / str(number)).write_bytes(b"a.example\n")
        first, _ = claims(box)
        assert box.claim_next() is None
        work(first)
        assert len(box.settle().receipts) == 1
        assert box.claim_next() is not None
        assert box.claim_next() is None


def test_older_files_come_first(box: Inbox, directory: Path) -> None:
    """Among those that are ready, the one that was written first is taken first."""
    for age, name in enumerate(("new", "middle", "old")):
        (directory / name).write_bytes(b"a.example\n")
        os.utime(directory / name, (1_700_000_000 - age * 60,) * 2)
    assert [file.name for file in claims(box)] == ["old", "middle", "new"]


# --- where files end ---------------------------------------------------------------------------------------------


def test_files_of_the_same_name_do_not_overwrite_each_other(box: Inbox, directory: Path) -> None:
    """The same name three times, and a receipt dropped as a file: every file and every receipt is there."""
    for content in (b"a.example\n", b"b.example\n", b"c.example\n"):
        (directory / "list").write_bytes(content)
        finished(box)
    (directory / "list.receipt.json").write_bytes(b"d.example\n")
    finished(box)
    assert len(receipts(directory)) == 4
    contents = sorted(path.read_bytes() for path in (directory / "done").iterdir() if path.stat().st_size == 10)
    assert contents == [b"a.example\n", b"b.example\n", b"c.example\n", b"d.example\n"]
    names = [receipt["file"] for receipt in receipts(directory)]
    assert "list" in names
    assert all(name.startswith("list") for name in names)


def _rubbish() -> bytes:
    return b"".join(bytes(range(256)) for _ in range(400))


@pytest.mark.parametrize(
    ("content", "reason", "accepted", "lines_read"),
    [
        (_rubbish(), "no_hosts", 0, 801),
        (b"bad_$\n# only that\n", "no_hosts", 0, 2),
        (gzip.compress(listing(domain_files.hosts(5000)))[:-3000], "truncated", 1, 1),
        (gzip.compress(b"a.example\n") + b"\x1f\x8brubbish", "corrupt", 1, 1),
        (gzip.compress(listing(domain_files.hosts(20_000)) + b"\0" * (16 << 20)), "too_large", 5000, 5000),
        (b"a.example\n" * 200_000, "too_large", 0, 0),
    ],
)
def test_what_cannot_be_read_ends_in_failed(
    tmp_path: Path, content: bytes, reason: str, accepted: int, lines_read: int
) -> None:
    """The receipt says why; what was read before was probed, and adds up."""
    with Inbox(tmp_path / "inbox", run_id="run-1", max_bytes=1 << 20) as box:
        (tmp_path / "inbox/list").write_bytes(content)
        finished(box)
    [receipt] = receipts(tmp_path / "inbox")
    assert (receipt["result"], receipt["reason"]) == ("failed", reason)
    assert receipt["detail"]
    assert receipt["accepted"] >= accepted
    assert receipt["lines"] >= lines_read
    assert (tmp_path / "inbox/failed/list").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing today\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_done(box: Inbox, directory: Path, content: bytes) -> None:
    """A list that says nothing is no failure: 0 hosts, and every line ignored."""
    (directory / "list").write_bytes(content)
    finished(box)
    [receipt] = receipts(directory)
    assert (receipt["result"], receipt["accepted"], receipt["ignored"]) == ("done", 0, receipt["lines"])


def test_a_gigabyte_of_zeros_costs_seconds(tmp_path: Path) -> None:
    """Beyond the limit it is not read; within it, it is one bad line. Neither takes memory."""
    for max_bytes, reason in ((1 << 20, "too_large"), (2 << 30, "no_hosts")):
        inbox = tmp_path / reason
        with Inbox(inbox, run_id="run-1", max_bytes=max_bytes) as box:
            with (inbox / "zeros").open("wb") as file:
                file.truncate(256 << 20)
            tracemalloc.start()
            began = time.process_time()
            finished(box)
            assert time.process_time() - began < 10
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
            tracemalloc.stop()
        [receipt] = receipts(inbox)
        assert receipt["reason"] == reason


@pytest.mark.parametrize("change", ["append", "overwrite", "truncate"])
def test_a_change_through_an_old_descriptor_is_found(
    box: Inbox, directory: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes to the file after it was taken gets it back from failed/; what was read adds up."""
    monkeypatch.setattr(inbox_module, "_is_being_written", lambda _fd: False)
    with (directory / "list").open("wb+") as old:
        old.write(listing(domain_files.hosts(20_000)))
        old.flush()
        [file] = claims(box)
        work(file, limit=10)
        assert file.lines == 20_000
        if change == "append":
            old.write(b"one.more.example\n")
        elif change == "overwrite":
            old.seek(300_000)
            old.write(b"X")
        else:
            old.truncate(250_000)
        old.flush()
        work(file)
        [receipt] = box.settle().receipts
    assert (receipt.place, receipt.reason) == ("failed", "changed")
    receipts(directory)


def test_a_file_that_a_restart_finds_changed_fails(tmp_path: Path) -> None:
    """The checksum of what is read in the second life must be that of what was taken in the first."""
    (tmp_path / "list").write_bytes(listing(domain_files.hosts(100)))
    with Inbox(tmp_path, run_id="run-1") as box:
        [file] = claims(box)
        work(file, limit=50)
    [data] = tmp_path.glob(".claimed/*/data")
    data.write_bytes(listing(domain_files.hosts(20)))
    with Inbox(tmp_path, run_id="run-2") as box:
        [file] = box.resume()
        work(file)
        assert [receipt.reason for receipt in box.settle().receipts] == ["changed"]
    receipts(tmp_path)


# --- restarts and others -----------------------------------------------------------------------------------------


def test_two_inboxes_share_a_directory(tmp_path: Path) -> None:
    """What one holds the other does not get; what it lets go, the other takes up."""
    for number in range(6):
        (tmp_path / f"{number}").write_bytes(listing(domain_files.hosts(10)))
    with Inbox(tmp_path, run_id="run-1", max_claimed=3) as one, Inbox(tmp_path, run_id="run-2") as other:
        mine = claims(one)
        assert len(mine) == 3
        assert other.resume() == []
        theirs = claims(other)
        assert len(theirs) == 3
        work(mine[0], limit=5)
        one.close()
        taken_up = other.resume()
        assert sorted(file.name for file in taken_up) == sorted(file.name for file in mine)
        assert sorted(len(work(file)) for file in [*theirs, *taken_up]) == [5, 10, 10, 10, 10, 10]
        assert len(other.settle().receipts) == 6
    assert [receipt["accepted"] for receipt in receipts(tmp_path)] == [10] * 6


def test_while_another_puts_away_settle_waits_its_turn(tmp_path: Path) -> None:
    """Names in done/ are chosen by one process at a time; the other does it at its next turn."""
    (tmp_path / "list").write_bytes(b"a.example\n")
    with Inbox(tmp_path, run_id="run-1") as box:
        [file] = claims(box)
        work(file)
        with box._opened() as (root, claimed), inbox_module._finishing(root, claimed):
            assert box.settle().receipts == ()
        assert len(box.settle().receipts) == 1


@pytest.mark.parametrize("state", ["empty", "locked", "with meta"])
def test_an_empty_claim_is_removed(tmp_path: Path, state: str) -> None:
    """What a process left that died before it had the file is rubbish, and does not stay."""
    claim = tmp_path / ".claimed/20260101T000000.000000Z-00000000"
    claim.mkdir(parents=True)
    if state != "empty":
        (claim / ".lock").touch()
    if state == "with meta":
        (claim / "meta.json").write_text("{}")
    with Inbox(tmp_path, run_id="run-1") as box:
        assert box.resume() == []
    assert not claim.exists()


def test_what_is_not_ours_in_claimed_is_left_alone(tmp_path: Path) -> None:
    """Other names below .claimed are neither read nor removed."""
    with Inbox(tmp_path, run_id="run-1") as box:
        (tmp_path / ".claimed/notes").mkdir()
        (tmp_path / ".claimed/20260101T000000.000000Z-0000000a").symlink_to("/etc")
        (tmp_path / ".claimed/20260101T000000.000000Z-0000000b").touch()
        assert box.resume() == []
    assert len(list((tmp_path / ".claimed").iterdir())) == 3


def test_a_claim_without_its_data_is_lost_and_no_more(box: Inbox, directory: Path) -> None:
    """Somebody removed the file below .claimed: it is named as lost, and the rest goes on."""
    (directory / "list").write_bytes(b"a.example\n")
    (directory / "other").write_bytes(b"b.example\n")
    one, other = claims(box)
    next(directory.glob(f".claimed/{one.claim_id}/data")).unlink()
    with pytest.raises(ClaimLost):
        next(one)
    work(other)
    settled = box.settle()
    assert ([receipt.file for receipt in settled.receipts], settled.lost) == (["other"], ("list",))


def test_stop_ends_every_iteration(box: Inbox, directory: Path) -> None:
    """After `stop` the iterations end, nothing more is taken, and what was not given out comes after a restart."""
    (directory / "list").write_bytes(listing(domain_files.hosts(100)))
    (directory / "next").write_bytes(listing(domain_files.hosts(100)))
    assert found(box) == 2
    file = box.claim_next()
    assert file is not None
    given = work(file, limit=3)
    box.stop()
    box.stop()
    assert list(file) == []
    assert not file.is_over
    assert box.claim_next() is None
    assert box.close() == 1
    with Inbox(directory, run_id="run-2") as after:
        [file] = after.resume()
        assert given + work(file) == domain_files.hosts(100)


def test_stop_ends_the_reading_of_a_large_file(tmp_path: Path) -> None:
    """An iteration that is reading a file through gives up at once, and the next start goes on."""
    with Inbox(tmp_path, run_id="run-1") as box:
        with (tmp_path / "zeros").open("wb") as file:
            file.truncate(3 << 30)
        [taken] = claims(box)
        thread = started(lambda: list(taken))
        wait_until(lambda: taken._reading is None and thread.is_alive())
        began = time.monotonic()
        box.stop()
        thread.join(20)
        assert time.monotonic() - began < 5
        assert box.close() == 1
    assert len(list(tmp_path.glob(".claimed/*/data"))) == 1


# --- status and submit -------------------------------------------------------------------------------------------


def test_status_says_what_waits_is_worked_on_and_is_done(tmp_path: Path) -> None:
    """In the process and from another one: counts, and for each file n of m, a rate, and the time left."""
    now = [100.0]
    with Inbox(tmp_path, run_id="run-1", clock=lambda: now[0], max_claimed=1) as box:
        (tmp_path / "a\nb").write_bytes(listing(domain_files.hosts(100)))
        (tmp_path / "later").write_bytes(b"a.example\n")
        os.utime(tmp_path / "a\nb", (1, 1))
        [file] = claims(box)
        now[0] += 2
        work(file, limit=40)
        file.checkpoint(now=True)
        for status in (box.status(), read_status(tmp_path)):
            assert (status.waiting, status.done, status.failed) == (1, 0, 0)
            [working] = status.working
            assert (working.name, working.lines_done, working.lines) == ("a\\nb", 40, 100)
            assert working.rate_per_s == 20.0
            assert working.left_s == 3.0
        work(file)
        box.settle()
        finished(box)
        (tmp_path / "bad").write_bytes(b"bad_$\n")
        finished(box)
        for status in (box.status(), read_status(tmp_path)):
            assert status == inbox_module.InboxStatus(0, (), 2, 1)


def test_status_of_a_directory_that_is_no_inbox(tmp_path: Path) -> None:
    """Where nothing was ever taken, nothing is worked on; where there is nothing, it says so. Nothing is made."""
    (tmp_path / "list").touch()
    assert read_status(tmp_path) == inbox_module.InboxStatus(1, (), 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["list"]
    with pytest.raises(DurableError, match="No such file"):
        read_status(tmp_path / "nowhere")


def test_submit_puts_a_file_in_whole(box: Inbox, directory: Path) -> None:
    """What is submitted is taken up like any other file, readable for a daemon of another user."""
    assert box.submit(io.BytesIO(b"a.example\n"), "list.txt") == "list.txt"
    assert stat.S_IMODE((directory / "list.txt").stat().st_mode) == 0o644
    assert [receipt.lines for receipt in finished(box)] == [1]


def test_submit_overwrites_nothing(directory: Path) -> None:
    """A file of that name that waits is left alone, and the new one gets digits; a unique name always has them."""
    names = [submit(directory, io.BytesIO(b"%d" % number), "list") for number in range(3)]
    names.append(submit(directory, io.BytesIO(b"3"), "fresh", is_unique=True))
    assert names[0] == "list"
    assert [name.rpartition("-")[0] for name in names[1:]] == ["list", "list", "fresh"]
    assert [(directory / name).read_bytes() for name in names] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.part", "x.tmp", "done", "failed", "a/b", "/etc/x", "a\0b"])
def test_submit_refuses_names_that_would_not_be_taken(directory: Path, name: str) -> None:
    """A name that waits for ever, or leads elsewhere, is an error."""
    with pytest.raises(ValueError, match="not a name"):
        submit(directory, io.BytesIO(b"a.example\n"), name)


def test_submit_leaves_nothing_behind_when_it_fails(directory: Path) -> None:
    """Too much, or a stream that breaks: the inbox is as it was."""

    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise OSError("gone")

    before = sorted(directory.iterdir())
    with pytest.raises(TooLarge):
        submit(directory, io.BytesIO(b"x" * 100), "list", max_bytes=99)
    with pytest.raises(OSError, match="gone"):
        submit(directory, Broken(), "list")
    assert sorted(directory.iterdir()) == before


# --- hosts that bring the process down ---------------------------------------------------------------------------

_VICTIM = """
import os, queue, sys, threading
from pathlib import Path
from spyder.intake.inbox import Inbox
from tests.intake.domain_files import claims, outcome
box = Inbox(Path(sys.argv[1]), run_id="run", calm_s=0.0)
tickets = queue.Queue(1)
def worker():
    while ticket := tickets.get():
        ticket.begin()
        if ticket.host.startswith("killer"):
            os.kill(os.getpid(), 9)
        ticket.done(outcome(ticket.host))
threads = [threading.Thread(target=worker) for _ in range(4)]
for thread in threads:
    thread.start()
for file in box.resume() or claims(box):
    for ticket in file:
        tickets.put(ticket)
for _ in threads:
    tickets.put(None)
for thread in threads:
    thread.join()
box.settle()
"""


def test_a_host_that_brings_the_process_down_is_set_aside(tmp_path: Path) -> None:
    """It dies with others twice, alone twice, and is then named in the receipt; all others have their outcome."""
    hosts = domain_files.hosts(40)
    hosts.insert(20, "killer.example.com")
    (tmp_path / "list").write_bytes(listing(hosts))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    lives: list[int] = []
    while not lives or lives[-1] != 0:
        done = subprocess.run([sys.executable, "-c", _VICTIM, str(tmp_path)], cwd=ROOT, env=environment, check=False)
        lives.append(done.returncode)
        assert len(lives) < 10
    assert lives == [-9, -9, -9, -9, 0]
    [receipt] = receipts(tmp_path)
    assert receipt["accepted"] == 40
    assert receipt["set_aside_lines"] == [{"line": 21, "host": "killer.example.com"}]


def test_kills_from_outside_set_nobody_aside(tmp_path: Path) -> None:
    """However often a process dies with the same hosts out, they are only probed alone, and finish."""
    (tmp_path / "list").write_bytes(listing(domain_files.hosts(8)))
    for life in range(12):
        box = Inbox(tmp_path, run_id="run-1", calm_s=3600.0)
        [file] = box.resume() if life else claims(box)
        given = [next(file) for _ in range(8 if life < 2 else 0)]
        for ticket in given:
            ticket.begin()
        _die(box, file)
    with Inbox(tmp_path, run_id="run-1", calm_s=0.0) as box:
        [file] = box.resume()
        assert sorted(work(file)) == sorted(domain_files.hosts(8))
        box.settle()
    [receipt] = receipts(tmp_path)
    assert (receipt["accepted"], receipt["set_aside"]) == (8, 0)


def _die(box: Inbox, file: ClaimedFile) -> None:
    """Leave everything as it is, as a killed process does, except the locks, which the kernel frees."""
    box._claims.clear()
    file._lock.close()


def test_hosts_that_were_out_at_an_orderly_end_are_no_suspects(tmp_path: Path) -> None:
    """A worker that hangs when the daemon stops accuses nobody."""
    (tmp_path / "list").write_bytes(b"a.example\nb.example\n")
    for life in range(4):
        with Inbox(tmp_path, run_id="run-1", calm_s=3600.0) as box:
            [file] = box.resume() if life else claims(box)
            tickets = list(file)
            assert [ticket.host for ticket in tickets] == ["a.example", "b.example"]
            for ticket in tickets:
                ticket.begin()


def test_a_suspect_is_alone(tmp_path: Path) -> None:
    """It is given out when all others are back, and nothing of any file is given out until it is."""
    (tmp_path / "list").write_bytes(b"a.example\nb.example\n")
    for life in range(2):
        box = Inbox(tmp_path, run_id="run-1", calm_s=0.0)
        [file] = box.resume() if life else claims(box)
        ticket = next(file)
        ticket.begin()
        _die(box, file)
    (tmp_path / "other").write_bytes(b"c.example\nd.example\n")
    with Inbox(tmp_path, run_id="run-1", calm_s=0.0) as box:
        [file], [other] = box.resume(), claims(box)
        first = next(file)
        assert first.host == "b.example"
        events: list[str] = []
        c = next(other)
        suspect = started(lambda: events.extend(ticket.host for ticket in itertools.islice(file, 1)))
        first.done(outcome("b.example"))
        suspect.join(0.1)
        assert events == []
        c.end()
        suspect.join(10)
        assert events == ["a.example"]
        waiting = started(lambda: events.extend(ticket.host for ticket in other))
        waiting.join(0.1)
        assert waiting.is_alive()
        box.stop()
        waiting.join(10)
        assert events == ["a.example"]


def test_a_suspect_waits_until_it_is_calm(tmp_path: Path) -> None:
    """Before the process has lived for a while it is not given out; `stop` ends the wait."""
    (tmp_path / "list").write_bytes(b"a.example\n")
    for life in range(2):
        box = Inbox(tmp_path, run_id="run-1")
        [file] = box.resume() if life else claims(box)
        next(file).begin()
        _die(box, file)
    with Inbox(tmp_path, run_id="run-1", calm_s=3600.0) as box:
        [file] = box.resume()
        given: list[str] = []
        thread = started(lambda: given.extend(work(file)))
        thread.join(0.05)
        assert thread.is_alive()
        box.stop()
        thread.join(10)
        assert given == []


# --- how much it holds, and how fast it is -----------------------------------------------------------------------


class Endless(io.RawIOBase):
    """So many hosts as a stream, made as they are read."""

    def __init__(self, count: int) -> None:
        self._blocks = (
            listing(f"host{number}.example.com" for number in range(start, start + 1000))
            for start in range(0, count, 1000)
        )

    def read(self, _size: int | None = -1, /) -> bytes:
        """Return the next block."""
        return next(self._blocks, b"")


@pytest.mark.parametrize("count", [100_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_memory_is_flat_over_a_long_file(tmp_path: Path, count: int) -> None:
    """Between the 50,000th line and the last the process grows by nothing that counts lines."""
    with Inbox(tmp_path, run_id="run-1", remembered_hosts=1 << 16) as box:
        box.submit(Endless(count), "list")  # type: ignore[arg-type]
        [file] = claims(box)
        began, at_first = time.perf_counter(), 0
        for number, ticket in enumerate(file):
            if number == 50_000:
                tracemalloc.start()
                at_first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if number == 60_000:
                assert tracemalloc.get_traced_memory()[1] < 4 << 20
                tracemalloc.stop()
            ticket.done(outcome(ticket.host))
        rate = count / (time.perf_counter() - began)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_first
        assert grown_kib < 8 << 10, f"{count} lines, {rate:.0f} lines/s"
        assert rate > 5_000
        [receipt] = box.settle().receipts
    assert (receipt.lines, receipt.fields()["accepted"]) == (count, count)


def test_many_threads_finish_one_file(box: Inbox, directory: Path) -> None:
    """Tickets that are begun, ended and done by many threads at once are each counted once."""
    (directory / "list").write_bytes(listing(domain_files.hosts(4000)))
    [file] = claims(box)
    lock = threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                ticket = next(file, None)
            if ticket is None:
                return
            ticket.begin()
            ticket.end()
            ticket.done(outcome(ticket.host))
            ticket.done(outcome(ticket.host))

    for thread in [started(worker) for _ in range(8)]:
        thread.join(30)
    assert file.is_over
    assert box.settle().receipts[0].fields()["accepted"] == 4000


def test_every_reason_is_documented() -> None:
    """docs/inbox.md names every reason for failed/, and every fate."""
    text = (ROOT / "docs/inbox.md").read_text()
    assert {each for each in (*REASONS, *domain_files.FATES) if f"`{each}`" not in text} == set()
