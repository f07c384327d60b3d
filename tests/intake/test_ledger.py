"""The ledger: what is done is known exactly after any crash, in memory that does not grow with the file."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spyder.intake.inbox import Inbox
from spyder.intake.ledger import START, Ledger, Place, Progress
from tests.intake import domain_files


def opened(ledger: Ledger, count: int) -> list[Place]:
    """Open so many places, ten bytes each, with one host each."""
    return [
        ledger.open(10 * number, number, waiting=1, tally=["lines"])
        for number in range(1, count + 1)
        if not ledger.is_done(10 * number)
    ]


def test_a_place_is_counted_when_its_last_host_is_done() -> None:
    """Of a line with three hosts nothing counts while one is out; then everything does."""
    ledger = Ledger()
    place = ledger.open(30, 1, waiting=3, tally=["lines", "rejected"])
    ledger.done(place, ["accepted"])
    ledger.done(place, ["accepted"])
    assert ledger.snapshot().counts == {}
    ledger.done(place, ["excluded"])
    assert ledger.snapshot().counts == {"lines": 1, "rejected": 1, "accepted": 2, "excluded": 1}
    assert ledger.is_empty


def test_a_place_without_a_host_is_done_at_once() -> None:
    """A rejected line needs no promise."""
    ledger = Ledger()
    ledger.open(10, 1, waiting=0, tally=["lines", "rejected"])
    assert ledger.is_empty
    assert ledger.snapshot() == Progress(10, 1, (), {"lines": 1, "rejected": 1})


def test_what_is_open_is_kept_as_ranges() -> None:
    """Places that follow one another make one range; one that is done between them parts it."""
    ledger = Ledger()
    places = opened(ledger, 9)
    for number in (1, 2, 5):
        ledger.done(places[number - 1], ["accepted"])
    progress = ledger.snapshot()
    assert progress.open == ((30, 40, 2), (60, 90, 4))
    assert progress.low_water == 29
    assert progress.lines_done == 3
    assert [number for number in range(1, 10) if progress.is_done(10 * number)] == [1, 2, 5]


def test_places_that_are_done_take_no_memory() -> None:
    """While one place stays open, 200,000 behind it are done: the ledger holds one range."""
    ledger = Ledger()
    first = ledger.open(5, 1, waiting=1, tally=[])
    for number in range(2, 200_000):
        ledger.done(ledger.open(5 * number, number, waiting=1, tally=["lines"]), ["accepted"])
    assert ledger.snapshot().open == ((5, 5, 1),)
    assert len(ledger._open) == 1
    ledger.done(first, [])
    assert ledger.is_empty


def test_what_a_restart_has_not_reached_stays_open() -> None:
    """A snapshot that is taken while the file is being read again keeps what still waits to be read again."""
    ledger = Ledger(Progress(100, 10, ((20, 40, 3), (70, 70, 1)), {"lines": 6}))
    assert ledger.is_done(10)
    assert not ledger.is_done(20)
    ledger.done(ledger.open(20, 2, waiting=1, tally=["lines"]), [])
    assert ledger.snapshot() == Progress(100, 10, ((21, 40, 2), (70, 70, 1)), {"lines": 7})
    assert not ledger.is_empty


def test_what_does_not_come_again_is_no_more_waited_for() -> None:
    """Where the file ends before a place that was open, somebody changed it: the ledger is empty then."""
    ledger = Ledger(Progress(100, 10, ((20, 40, 3),), {}))
    assert not ledger.is_empty
    ledger.end_reading()
    assert ledger.is_empty


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"read_to": 1, "line": 1, "open": [[1, 2]], "counts": {}},
        {"read_to": 1, "line": 1, "open": [[2, 1, 1]], "counts": {}},
        {"read_to": 1, "line": 1, "open": [[5, 6, 1], [1, 2, 1]], "counts": {}},
        {"read_to": None, "line": 1, "open": [], "counts": {}},
        {"read_to": 1, "line": 1, "open": [], "counts": []},
        {"read_to": 1, "line": 1, "open": [], "counts": {"a": "b"}},
    ],
)
def test_damaged_progress_is_refused(fields: dict[str, object]) -> None:
    """Whatever is wrong with it, it raises what a reader expects."""
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Progress.from_fields(fields)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 6))
def test_nothing_is_lost_or_counted_twice_over_crashes(seed: int, lines: int, crashes: int) -> None:
    """Over any number of crashes and any order of completion, counts are exact, and only what was open comes again."""
    chance = random.Random(seed)
    hosts_of = [chance.choice((0, 1, 1, 1, 3)) for _ in range(lines)]
    progress, worked = START, Counter[int]()
    for life in range(crashes + 1):
        is_last = life == crashes
        ledger = Ledger(progress)
        may_come = {end for end in range(10, 10 * lines + 1, 10) if not progress.is_done(end)}
        out: list[Place] = []
        for number in range(1, lines + 1):
            if not is_last and chance.random() < 0.02:
                break
            end = 10 * number
            if ledger.is_done(end):
                ledger.pass_by()
                continue
            assert end in may_come
            worked[number] += 1
            hosts = hosts_of[number - 1]
            place = ledger.open(end, number, waiting=hosts, tally=["lines"])
            out += [place] * hosts
            while out and (is_last or chance.random() < 0.5):
                ledger.done(out.pop(chance.randrange(len(out))), ["accepted"])
            if chance.random() < 0.3:
                text = json.dumps(ledger.snapshot().fields())
                progress = Progress.from_fields(json.loads(text))
        final = ledger.snapshot()
    assert final.counts.get("lines", 0) == lines
    assert final.counts.get("accepted", 0) == sum(hosts_of)
    assert final.open == ()
    assert set(worked) == set(range(1, lines + 1))


# --- on disk -----------------------------------------------------------------------------------------------------


def progress_of(inbox: Path) -> dict[str, object]:
    """Return the one checkpoint that there is."""
    [path] = inbox.glob(".claimed/*/progress.json")
    progress: dict[str, object] = json.loads(path.read_bytes())
    return progress


def test_a_checkpoint_holds_what_was_promised_and_no_more(tmp_path: Path) -> None:
    """Hosts that are out are open in the checkpoint, with the low-water mark before the first of them."""
    (tmp_path / "list").write_bytes(domain_files.listing(domain_files.hosts(10)))
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = domain_files.claims(inbox)
        tickets = list(file)
        for number in (0, 1, 3):
            tickets[number].done(domain_files.outcome(tickets[number].host))
        file.checkpoint(now=True)
        progress = progress_of(tmp_path)
        assert progress["open"] == [[54, 54, 1], [90, 180, 6]]
        assert progress["low_water"] == 53
        assert progress["counts"] == {
            "lines": 3,
            "accepted": 3,
            "dns.ok": 3,
            "robots.ok": 3,
            "http.ok": 3,
            "tls.ok": 3,
        }


def test_checkpoints_are_a_second_apart(tmp_path: Path) -> None:
    """However often it is asked for, a checkpoint is written once a second, and only when there is news."""
    now = [0.0]
    (tmp_path / "list").write_bytes(domain_files.listing(domain_files.hosts(10)))
    with Inbox(tmp_path, run_id="run-1", clock=lambda: now[0]) as inbox:
        [file] = domain_files.claims(inbox)
        written: list[int] = []
        for tick in range(40):
            now[0] = tick / 10
            domain_files.work(file, limit=1 if tick % 2 and tick < 20 else 0)
            file.checkpoint()
            checkpoints = list(tmp_path.glob(".claimed/*/progress.json"))
            if checkpoints and (number := checkpoints[0].stat().st_ino) not in written[-1:]:
                written.append(number)
    assert len(written) == 2


def test_a_restart_gives_out_only_what_was_not_promised(tmp_path: Path) -> None:
    """The next process gets the hosts that were out, in their order, and then the rest."""
    hosts = domain_files.hosts(10)
    (tmp_path / "list").write_bytes(domain_files.listing(hosts))
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = domain_files.claims(inbox)
        tickets = [next(file) for _ in range(6)]
        for number in (0, 2, 3):
            tickets[number].done(domain_files.outcome(tickets[number].host))
    with Inbox(tmp_path, run_id="run-2") as inbox:
        [file] = inbox.resume()
        assert domain_files.work(file) == [hosts[number] for number in (1, 4, 5, 6, 7, 8, 9)]
        [receipt] = inbox.settle().receipts
    assert receipt.run_ids == ("run-1", "run-2")
    assert receipt.fields()["accepted"] == 10


def test_duplicates_are_still_known_after_a_restart(tmp_path: Path) -> None:
    """A host that was done before the crash is a duplicate after it."""
    (tmp_path / "list").write_bytes(b"a.example\nb.example\nbad_$\na.example\nc.example\n")
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = domain_files.claims(inbox)
        domain_files.work(file, limit=2)
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = inbox.resume()
        assert domain_files.work(file) == ["c.example"]
        inbox.settle()
    [receipt] = domain_files.receipts(tmp_path)
    assert (receipt["accepted"], receipt["duplicates"], receipt["rejected"]) == (3, 1, 1)
    assert [each["line"] for each in receipt["rejected_lines"]] == [3]


def test_one_line_of_many_hosts_goes_on_in_the_middle(tmp_path: Path) -> None:
    """A line of 300 KB is taken up again at the item where it stood, not at its beginning."""
    hosts = domain_files.hosts(15_000)
    (tmp_path / "list").write_bytes(",".join(hosts).encode())
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = domain_files.claims(inbox)
        first = domain_files.work(file, limit=5000)
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = inbox.resume()
        assert first + domain_files.work(file) == hosts
        inbox.settle()
    [receipt] = domain_files.receipts(tmp_path)
    assert (receipt["lines"], receipt["accepted"], receipt["further_hosts"]) == (1, 15_000, 14_999)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\0" * 300, b'{"sha256": 1}', b'{"open": [[1]]}'])
@pytest.mark.parametrize("name", ["progress.json", "meta.json", "suspects.json", "begun"])
def test_damaged_state_costs_work_and_no_host(tmp_path: Path, name: str, damage: bytes) -> None:
    """Whatever stands in a file of the claim, the work is begun anew at worst; the receipt is sound."""
    (tmp_path / "list").write_bytes(domain_files.listing(domain_files.hosts(10)))
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = domain_files.claims(inbox)
        domain_files.work(file, limit=5)
    [claim] = tmp_path.glob(".claimed/2*")
    (claim / name).write_bytes(damage)
    with Inbox(tmp_path, run_id="run-2") as inbox:
        [file] = inbox.resume()
        domain_files.work(file)
        assert len(inbox.settle().receipts) == 1
    [receipt] = domain_files.receipts(tmp_path)
    assert receipt["accepted"] == 10
    assert receipt["name"] == ("list" if name != "meta.json" else f"unnamed-{claim.name}")


def test_progress_of_another_file_is_not_believed(tmp_path: Path) -> None:
    """A checkpoint whose checksum is not that of the file begins at 0."""
    (tmp_path / "list").write_bytes(domain_files.listing(domain_files.hosts(10)))
    with Inbox(tmp_path, run_id="run-1") as inbox:
        [file] = domain_files.claims(inbox)
        domain_files.work(file, limit=5)
    [path] = tmp_path.glob(".claimed/*/progress.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "0" * 64}))
    with Inbox(tmp_path, run_id="run-2") as inbox:
        [file] = inbox.resume()
        assert len(domain_files.work(file)) == 10
