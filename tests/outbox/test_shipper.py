"""The shipper: every verdict, order, backoff, circuit, poison, halves, damage, and who holds what."""

import errno
import json
import math
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spyder.outbox.destinations.delivery import Delivery
from spyder.outbox.payload import decode
from spyder.outbox.shipper import Ended, Fate, Shipper
from spyder.outbox.spool import Name, Place, Spool
from spyder.runtime.backoff import CircuitState
from spyder.runtime.durable import SYSTEM_CALLS
from tests.outbox.ingest_peers import batch_id_of, batch_of
from tests.outbox.shipping import (
    BAD,
    BUSY,
    DELIVERED,
    DENIED,
    DOWN,
    LARGE,
    Clock,
    FakeDestination,
    at,
    fill,
    shipping,
)
from tests.waiting import started, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool."""
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def _ids(numbers: range) -> list[str]:
    return [batch_id_of(number) for number in numbers]


# --- delivery


def test_what_is_delivered_leaves_the_disk_oldest_first(spool: Spool, clock: Clock) -> None:
    """Each batch is sent once, in order, with its bytes, and its file is gone."""
    fill(spool, 20)
    destination = FakeDestination()
    with shipping(spool, destination, clock) as shipper:
        result = shipper.run_pass()
        assert (result.ended, dict(result.fates)) == (Ended.DONE, {Fate.DELIVERED: 20})
        counted = shipper.statistics()
    assert destination.sent == _ids(range(20))
    assert destination.payloads[batch_id_of(7)] == batch_of(7)[1]
    assert (spool.ready(limit=9), spool.usage().files) == ([], 0)
    assert counted.delivered_bytes == sum(len(batch_of(number)[1]) for number in range(20))
    assert counted.last_delivery_at == 1_767_269_800.0


def test_a_file_is_removed_after_the_answer_only(spool: Spool, clock: Clock) -> None:
    """While the destination has not answered, the batch is on the disk."""
    fill(spool, 3)
    seen: list[int] = []

    def script(*_: object) -> Delivery:
        seen.append(len(spool.ready(limit=9)))
        return DELIVERED

    with shipping(spool, FakeDestination(script), clock) as shipper:
        shipper.run_pass()
    assert seen == [3, 2, 1]


def test_the_removals_of_a_pass_are_synced_once(tmp_path: Path, clock: Clock) -> None:
    """One sync of the directory for a whole pass, and none where nothing was removed."""
    syncs: list[int] = []

    def fsync(fd: int) -> None:
        syncs.append(fd)
        SYSTEM_CALLS.fsync(fd)

    calls = replace(SYSTEM_CALLS, fsync=fsync)
    with Spool(tmp_path / "s", reserve_bytes=0, reserve_files=0, calls=calls) as spool:
        fill(spool, 30)
        with shipping(spool, FakeDestination(), clock) as shipper:
            syncs.clear()
            shipper.run_pass()
            shipper.run_pass()
            assert len(syncs) == 1


def test_several_are_in_flight_and_never_more_than_allowed(spool: Spool, clock: Clock) -> None:
    """With four senders four batches are under way at once."""
    fill(spool, 40)

    def script(*_: object) -> Delivery:
        time.sleep(0.005)
        return DELIVERED

    destination = FakeDestination(script)
    with shipping(spool, destination, clock, concurrency=4) as shipper:
        shipper.run_pass()
    assert destination.most_at_once == 4
    assert sorted(destination.sent) == _ids(range(40))


def test_a_wake_ships_without_a_tick(spool: Spool, clock: Clock) -> None:
    """A batch that was promised is shipped when the shipper is woken, without anybody running a pass."""
    destination = FakeDestination()
    with shipping(spool, destination, clock) as shipper:
        for number in range(5):
            spool.write(*batch_of(number))
            shipper.wake()
            wait_until(lambda expected=number + 1: len(destination.sent) == expected)  # type: ignore[misc]
        assert shipper.alive


def test_a_pass_takes_what_comes_meanwhile(spool: Spool, clock: Clock) -> None:
    """A batch that is promised while the last ones are being sent goes with the same pass."""
    fill(spool, 1)
    destination = FakeDestination()
    with shipping(spool, destination, clock, concurrency=2) as shipper:

        def script(batch_id: str, *_: object) -> Delivery:
            if batch_id == batch_id_of(0):
                spool.write(*batch_of(1))
                shipper.wake()
                wait_until(lambda: len(destination.sent) == 2)
            return DELIVERED

        destination.script = script
        assert shipper.run_pass().fates[Fate.DELIVERED] == 2


def test_one_pass_at_a_time(spool: Spool, clock: Clock) -> None:
    """A second pass says so and does nothing."""
    fill(spool, 1)
    go_on = threading.Event()
    with shipping(spool, FakeDestination(lambda *_: DELIVERED if go_on.wait(10) else DOWN), clock) as shipper:
        first = started(shipper.run_pass)
        wait_until(lambda: shipper.statistics().in_flight)
        assert shipper.run_pass().ended is Ended.BUSY
        go_on.set()
        first.join(5)


def test_a_rate_is_kept(spool: Spool) -> None:
    """No more batches a second than allowed."""
    fill(spool, 11)
    moments: list[float] = []

    def script(*_: object) -> Delivery:
        moments.append(time.monotonic())
        return DELIVERED

    with shipping(spool, FakeDestination(script), time.monotonic, rate_per_s=50.0) as shipper:
        shipper.run_pass()
    assert moments[-1] - moments[0] >= 0.19


# --- try later


def test_one_failure_does_not_end_a_pass(spool: Spool, clock: Clock) -> None:
    """With every twentieth sending failing, one pass delivers all others; the rest follow when they are due."""
    fill(spool, 100)
    failing = set(_ids(range(0, 100, 20)))
    destination = FakeDestination(lambda batch_id, _, before: DOWN if batch_id in failing and not before else DELIVERED)
    with shipping(spool, destination, clock) as shipper:
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 95, Fate.LATER: 5}
        assert shipper.run_pass().fates == {}
        clock.now += 1.0
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 5}


def test_five_failures_in_a_row_end_a_pass_and_open_the_circuit(spool: Spool, clock: Clock) -> None:
    """Then nothing is sent until the wait is over; then one; with its success all goes on."""
    fill(spool, 20)
    lines: list[str] = []
    destination = FakeDestination(lambda *_: DOWN)
    with shipping(spool, destination, clock, on_event=lines.append) as shipper:
        assert shipper.run_pass().ended is Ended.WAITING
        assert destination.sent == _ids(range(5))
        assert shipper.statistics().circuit is CircuitState.OPEN
        assert shipper.run_pass().fates == {}
        for opening in range(1, 5):
            clock.now += 2.0 ** (opening - 1)
            assert shipper.run_pass().ended is Ended.WAITING
            assert len(destination.sent) == 5 + opening
        destination.script = lambda *_: DELIVERED
        clock.now += 300
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 20}
        assert shipper.statistics().circuit is CircuitState.CLOSED
    assert [line.split(",")[0] for line in lines] == ["shipping waits", "shipping goes on"]
    assert "Connection refused" in lines[0]


def test_half_open_sends_one_although_there_are_many_senders(spool: Spool, clock: Clock) -> None:
    """While the one that was let through is under way the other senders wait; its success lets them go on."""
    fill(spool, 30)
    destination = FakeDestination(lambda *_: DOWN)
    with shipping(spool, destination, clock, concurrency=4) as shipper:
        shipper.run_pass()
        sent = len(destination.sent)
        assert 5 <= sent <= 8
        clock.now += 1.0
        go_on = threading.Event()
        destination.script = lambda *_: DELIVERED if go_on.wait(10) else DOWN
        thread = started(shipper.run_pass)
        wait_until(lambda: len(destination.sent) == sent + 1)
        assert shipper.statistics().in_flight == 1
        assert shipper.statistics().circuit is CircuitState.HALF_OPEN
        go_on.set()
        thread.join(10)
        assert len(destination.sent) > sent + 20


def test_a_batch_that_fails_alone_does_not_stop_the_others(spool: Spool, clock: Clock) -> None:
    """Batches that always get 500 at the head of the queue wait longer and longer, and new ones are delivered."""
    fill(spool, 4)
    poison = set(_ids(range(4)))
    destination = FakeDestination(lambda batch_id, *_: BUSY if batch_id in poison else DELIVERED)
    with shipping(spool, destination, clock) as shipper:
        for number in range(4, 204):
            spool.write(*batch_of(number))
            shipper.run_pass()
            clock.now += 5
        assert spool.usage().files == 4
        tries = Counter(destination.sent)
        assert all(tries[each] <= 12 for each in poison)
        assert dict(shipper.statistics().retried) == {"http_503": sum(tries[each] for each in poison)}


def test_the_backoff_is_spread_and_bounded(spool: Spool, clock: Clock) -> None:
    """Over many batches the n-th wait is even from 0 to min(300, 2**n): mean and extremes fit."""
    fill(spool, 300)
    delays: dict[int, list[float]] = {}
    generator = random.Random(7)

    def uniform(least: float, most: float) -> float:
        drawn = generator.uniform(least, most)
        delays.setdefault(round(most), []).append(drawn)
        return drawn

    # 409: the batch alone waits, so that no circuit stands between
    destination = FakeDestination(lambda *_: replace(BUSY, http_status=409))
    with shipping(spool, destination, clock, uniform=uniform, concurrency=4) as shipper:
        for _ in range(40):
            shipper.run_pass()
            clock.now += 1
    for most in (1, 2, 4, 8):
        assert len(delays[most]) == 300
        assert abs(statistics.mean(delays[most]) - most / 2) < most * 0.06
        assert 0 <= min(delays[most]) < most * 0.03
        assert most * 0.97 < max(delays[most]) <= most


@pytest.mark.parametrize(
    ("asked", "waits"),
    [(2.0, 2.0), (3600.0, 3600.0), (1e9, 3600.0), (math.inf, 3600.0), (-1.0, 0.0), (math.nan, 0.0), (0.0, 0.0)],
)
def test_retry_after_is_obeyed_and_clamped(spool: Spool, clock: Clock, asked: float, waits: float) -> None:
    """The whole destination is left alone for as long as it asks, an hour at most; nonsense is no wait."""
    fill(spool, 3)
    destination = FakeDestination(lambda *_: replace(BUSY, http_status=429, retry_after_s=asked))
    with shipping(spool, destination, clock) as shipper:
        ended = shipper.run_pass().ended
        assert ended is (Ended.WAITING if waits else Ended.DONE)
        assert len(destination.sent) == (1 if waits else 3)
        assert shipper.statistics().wait_s == waits
        destination.script = lambda *_: DELIVERED
        if waits > 1:
            clock.now += waits - 0.5
            assert shipper.run_pass().fates == {}
        clock.now += 10
        shipper.run_pass()
        assert spool.usage().files == 0


def test_a_stop_ends_a_pass_whatever_it_waits_for(spool: Spool, clock: Clock) -> None:
    """With the destination stalling, a stop ends the pass at once; what is in flight is counted, and not lost."""
    fill(spool, 10)
    go_on = threading.Event()
    destination = FakeDestination(lambda *_: DOWN if go_on.wait(20) else BUSY)
    shipper = Shipper(spool, destination, concurrency=2, clock=clock)
    shipper.start()
    ended: list[Ended] = []
    thread = started(lambda: ended.append(shipper.run_pass().ended))
    wait_until(lambda: len(destination.sent) == 2)
    begun = time.monotonic()
    shipper.stop()
    shipper.stop()
    thread.join(5)
    assert time.monotonic() - begun < 1
    assert ended == [Ended.STOPPED]
    assert shipper.join(0.05) == 2
    go_on.set()
    assert shipper.join(5) == 0
    assert spool.usage().files == 10
    assert shipper.run_pass().ended is Ended.STOPPED


def test_a_stopped_shipper_leaves_the_source_alone(spool: Spool, clock: Clock) -> None:
    """`join` waits for a pass that another thread runs too: afterwards the spool may be closed."""
    listing, go_on = threading.Event(), threading.Event()

    class Slow:
        """A spool that is slow to list."""

        claim, sync, usage = spool.claim, spool.sync, spool.usage

        def ready(self, *, limit: int, after: Name | None = None) -> list[Name]:
            listing.set()
            go_on.wait(20)
            return spool.ready(limit=limit, after=after)

    shipper = Shipper(Slow(), FakeDestination(), clock=clock)
    shipper.start()
    thread = started(shipper.run_pass)
    listing.wait(20)
    shipper.stop()
    waking = threading.Timer(0.2, go_on.set)
    waking.start()
    assert shipper.join(10) == 0
    assert go_on.is_set()
    waking.join(5)
    thread.join(5)


def test_a_conflict_is_the_batch_s_own(spool: Spool, clock: Clock) -> None:
    """409 (an earlier try is still at work there) makes this batch wait, and never opens the circuit."""
    fill(spool, 10)
    destination = FakeDestination(lambda *_: replace(BUSY, http_status=409))
    with shipping(spool, destination, clock) as shipper:
        assert dict(shipper.run_pass().fates) == {Fate.LATER: 10}
        assert shipper.statistics().circuit is CircuitState.CLOSED


# --- hold


def test_wrong_settings_hold_everything_and_park_nothing(spool: Spool, clock: Clock) -> None:
    """After a 401 nothing is sent but one batch a minute; one line says what to do; a reload goes on at once."""
    fill(spool, 50)
    lines: list[str] = []
    destination = FakeDestination(lambda *_: DENIED)
    with shipping(spool, destination, clock, concurrency=4, on_event=lines.append) as shipper:
        result = shipper.run_pass()
        assert result.ended is Ended.WAITING
        assert 1 <= len(destination.sent) <= 4
        for _ in range(10):
            sent = len(destination.sent)
            clock.now += 59
            shipper.run_pass()
            assert len(destination.sent) == sent
            clock.now += 1.5
            shipper.run_pass()
            assert len(destination.sent) == sent + 1
        counted = shipper.statistics()
        assert (counted.held, "401" in counted.reason) == (True, True)
        assert len(lines) == 1
        assert "Mend it and reload" in lines[0]
        assert (spool.usage().files, spool.usage().dead) == (50, 0)
        mended = FakeDestination()
        assert shipper.redirect(mended) is destination
        wait_until(lambda: len(mended.sent) == 50)
        wait_until(lambda: not shipper.statistics().held)
    assert lines[1:] == ["shipping goes on"]


def test_a_hold_is_told_anew_when_its_reason_changes(spool: Spool, clock: Clock) -> None:
    """401 and then 404 are two lines; 404 again is none; failures in a row instead are one."""
    fill(spool, 9)
    lines: list[str] = []
    missing = replace(DENIED, detail="HTTP 404: there is no such path")
    answers = iter([DENIED, missing, missing, DOWN, DOWN])
    with shipping(spool, FakeDestination(lambda *_: next(answers)), clock, on_event=lines.append) as shipper:
        for _ in range(5):
            shipper.run_pass()
            clock.now += 61
    assert [("401" in line, "404" in line, "in a row" in line) for line in lines] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


# --- refused


def test_poison_is_parked_after_three_tries_over_ten_minutes(spool: Spool, clock: Clock) -> None:
    """Not sooner; with status, excerpt, time and attempts beside it; the others flow on."""
    fill(spool, 10)
    poison = batch_id_of(3)
    destination = FakeDestination(lambda batch_id, *_: BAD if batch_id == poison else DELIVERED)
    with shipping(spool, destination, clock) as shipper:
        begun = clock.now
        while spool.usage().dead == 0:
            shipper.run_pass()
            clock.now += 7
        assert clock.now - 7 - begun >= 600
        assert destination.sent.count(poison) == 3
        assert dict(shipper.statistics().fates) == {Fate.DELIVERED: 9, Fate.REFUSED: 2, Fate.BURIED: 1}
    [name] = spool.names(Place.DEAD, limit=9)
    why = json.loads(spool.why(name))
    assert (name.batch_id, why["http_status"], why["excerpt"], why["attempts"]) == (poison, 400, BAD.excerpt, 3)
    assert why["parked_at"].startswith("2026-01-01T12:")
    assert spool.usage().files == 0


def test_reloads_do_not_hurry_a_batch_into_its_grave(spool: Spool, clock: Clock) -> None:
    """However often it is tried at a person's word, ten minutes must have passed."""
    fill(spool, 1)
    destination = FakeDestination(lambda *_: BAD)
    with shipping(spool, destination, clock) as shipper:
        for _ in range(9):
            shipper.retry_now()
            wait_until(lambda: shipper.run_pass().ended is Ended.DONE)
            clock.now += 60
        assert len(destination.sent) >= 9
        assert spool.usage().dead == 0


def test_a_requeued_batch_begins_anew(spool: Spool, clock: Clock) -> None:
    """After a person has put a dead batch back it has three tries again."""
    fill(spool, 1)
    destination = FakeDestination(lambda *_: BAD)
    with shipping(spool, destination, clock) as shipper:
        for _ in range(3):
            shipper.run_pass()
            clock.now += 300
        [name] = spool.names(Place.DEAD, limit=9)
        spool.requeue(name)
        shipper.run_pass()
        assert (spool.usage().dead, len(destination.sent)) == (0, 4)


def test_many_refusals_open_the_circuit_instead(spool: Spool, clock: Clock) -> None:
    """With every third batch refused, five are parked; then it is the receiver's fault, and everything is held."""
    lines: list[str] = []
    destination = FakeDestination(lambda batch_id, *_: BAD if int(batch_id[8:16], 16) % 3 == 0 else DELIVERED)
    with shipping(spool, destination, clock, on_event=lines.append) as shipper:
        for minute in range(60):
            for number in range(3):
                spool.write(*batch_of(3 * minute + number))
            shipper.run_pass()
            clock.now += 60
        assert spool.usage().dead == 5
        assert any("refuses so many" in line for line in lines)
        destination.script = lambda *_: DELIVERED
        for _ in range(20):
            clock.now += 300
            shipper.run_pass()
        assert (spool.usage().files, spool.usage().dead) == (0, 5)


def test_a_receiver_that_refuses_everything_parks_nothing(spool: Spool, clock: Clock) -> None:
    """400 for all: held after twenty, long before one is parked; one a minute is tried, not always the same."""
    fill(spool, 500)
    destination = FakeDestination(lambda *_: BAD)
    with shipping(spool, destination, clock) as shipper:
        shipper.run_pass()
        assert len(destination.sent) == 20
        assert shipper.statistics().held
        for _ in range(200):
            clock.now += 60
            shipper.run_pass()
        assert len(destination.sent) == 220
        assert (spool.usage().files, spool.usage().dead) == (500, 0)
        destination.script = lambda *_: DELIVERED
        for _ in range(10):
            clock.now += 300
            shipper.run_pass()
        assert spool.usage().files == 0


# --- too large


def _records(payload: bytes) -> list[str]:
    batch = decode(payload)
    return [
        json.dumps(record, sort_keys=True)
        for records in ("nodes_domain", "nodes_ip", "nodes_cert", "edges", "outcomes")
        for record in batch[records]
    ]


def test_too_large_a_batch_is_halved_until_it_fits(spool: Spool, clock: Clock) -> None:
    """The parts name their parents, hold every record once, and come in the parent's place before younger batches."""
    spool.write(*batch_of(0, edges=50))
    fill_after = spool.write(*batch_of(1))
    destination = FakeDestination(lambda _, payload, __: LARGE if len(payload) > 1500 else DELIVERED)
    with shipping(spool, destination, clock) as shipper:
        shipper.run_pass()
    assert spool.usage().files == spool.usage().dead == 0
    taken = [each for each in destination.sent if len(destination.payloads[each]) <= 1500]
    parts = [each for each in taken if each.startswith(batch_id_of(0))]
    assert len(parts) >= 8
    assert all(decode(destination.payloads[each])["batch_id"] == each for each in parts)
    found = [record for each in sorted(parts) for record in _records(destination.payloads[each])]
    assert sorted(found) == sorted(_records(batch_of(0, edges=50)[1]))
    assert fill_after.batch_id in taken


def test_a_single_record_too_large_is_parked(spool: Spool, clock: Clock) -> None:
    """Halved down to single records, those that are still too large go to dead/, the others are delivered."""
    spool.write(*batch_of(0, edges=2))  # five records: a domain, an address, two edges, an outcome
    destination = FakeDestination(lambda _, payload, __: LARGE if b"elapsed_ms" in payload else DELIVERED)
    with shipping(spool, destination, clock) as shipper:
        shipper.run_pass()
    [name] = spool.names(Place.DEAD, limit=9)
    assert [len(decode(spool.read(name, Place.DEAD))[each]) for each in ("edges", "outcomes")] == [0, 1]
    assert "single record" in json.loads(spool.why(name))["reason"]
    assert spool.usage().files == 0


def test_everything_too_large_is_a_receiver_s_fault(spool: Spool, clock: Clock) -> None:
    """413 for all: a handful of single records is parked, and the rest is held."""
    fill(spool, 20, edges=3)
    with shipping(spool, FakeDestination(lambda *_: LARGE), clock) as shipper:
        for _ in range(100):
            shipper.run_pass()
            clock.now += 60
        assert spool.usage().dead == 5
        assert shipper.statistics().held


# --- the disk


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[tuple[Spool, list[bool]]]:
    """A spool from which nothing can be removed while the list is not empty."""
    fails = [True]

    def unlink(name: str, **where: int) -> None:
        if fails and name.endswith(".json"):
            raise OSError(errno.EPERM, "Operation not permitted")
        SYSTEM_CALLS.unlink(name, **where)

    calls = replace(SYSTEM_CALLS, unlink=unlink)
    with Spool(tmp_path / "stuck", reserve_bytes=0, reserve_files=0, calls=calls) as opened:
        yield opened, fails


def test_what_was_delivered_and_cannot_be_removed_is_not_sent_again(
    stuck: tuple[Spool, list[bool]], clock: Clock
) -> None:
    """It is remembered, and removed when that is possible."""
    spool, fails = stuck
    fill(spool, 5)
    destination = FakeDestination()
    with shipping(spool, destination, clock) as shipper:
        result = shipper.run_pass()
        assert dict(result.fates) == {Fate.DELIVERED: 5, Fate.STUCK: 5}
        for _ in range(10):
            clock.now += 60
            shipper.run_pass()
        assert shipper.statistics().stuck == 5
        fails.clear()
        clock.now += 60
        shipper.run_pass()
        assert (shipper.statistics().stuck, spool.usage().files) == (0, 0)
    assert destination.sent == _ids(range(5))


def test_damaged_files_go_to_bad_and_the_pass_goes_on(spool: Spool, tmp_path: Path, clock: Clock) -> None:
    """A truncated file and a directory by a batch's name are moved and counted; the others are delivered."""
    names = fill(spool, 6)
    (tmp_path / "spool" / str(names[1])).write_bytes(b'{"batch_id"')
    (tmp_path / "spool" / str(names[3])).unlink()
    (tmp_path / "spool" / str(names[3])).mkdir()
    fates: list[tuple[Name, Fate, str]] = []
    with shipping(
        spool, FakeDestination(), clock, on_fate=lambda name, fate, detail, _: fates.append((name, fate, detail))
    ) as shipper:
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 4, Fate.BAD: 2}
    assert sorted(each.name for each in (tmp_path / "spool" / "bad").iterdir()) == [str(names[1]), str(names[3])]
    assert all("bad/" in detail for _, fate, detail in fates if fate is Fate.BAD)


def test_a_spool_that_cannot_be_listed_is_told_and_outlived(spool: Spool, clock: Clock) -> None:
    """The pass ends with the reason, told once; when it can be listed again all goes on."""

    class Moody:
        fails = True

        def ready(self, *, limit: int, after: Name | None = None) -> list[Name]:
            if self.fails:
                raise OSError(errno.EIO, "Input/output error")
            return spool.ready(limit=limit, after=after)

        def __getattr__(self, name: str) -> object:
            return getattr(spool, name)

    fill(spool, 2)
    lines: list[str] = []
    source = Moody()
    with shipping(source, FakeDestination(), clock, on_event=lines.append) as shipper:  # type: ignore[arg-type]
        assert [shipper.run_pass().ended for _ in range(3)] == [Ended.DISK] * 3
        assert len(lines) == 1
        source.fails = False
        assert shipper.run_pass().fates[Fate.DELIVERED] == 2
        assert shipper.statistics().listing_failures == 3


def test_a_destination_that_raises_costs_no_thread_and_no_batch(spool: Spool, clock: Clock) -> None:
    """A fault of our own is counted and told; the batch stays and is tried again, the others go on."""
    fill(spool, 4)

    def script(batch_id: str, _: bytes, before: int) -> Delivery:
        if batch_id == batch_id_of(1) and not before:
            raise RuntimeError("fault")
        return DELIVERED

    lines: list[str] = []
    with shipping(spool, FakeDestination(script), clock, on_event=lines.append) as shipper:
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 3, Fate.FAULT: 1}
        assert shipper.alive
        clock.now += 2
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 1}
    assert "fault of our own" in lines[0]


def test_who_looks_on_cannot_hinder(spool: Spool, clock: Clock) -> None:
    """Callbacks that raise change nothing."""
    fill(spool, 8)

    def bomb(*_: object) -> None:
        raise RuntimeError("log is full")

    with shipping(spool, FakeDestination(lambda *_: DENIED), clock, on_event=bomb, on_fate=bomb) as shipper:
        shipper.run_pass()
        assert shipper.alive


# --- keep, leave


def test_kept_batches_are_sent_once_and_stay(spool: Spool, clock: Clock) -> None:
    """With `keep` a delivered batch stays on the disk, and is not sent again by this shipper."""
    fill(spool, 5)
    destination = FakeDestination()
    with shipping(spool, destination, clock, keep=True) as shipper:
        shipper.run_pass()
        shipper.run_pass()
    assert destination.sent == _ids(range(5))
    assert spool.usage().files == 5


def test_without_parking_the_refused_are_left(spool: Spool, clock: Clock) -> None:
    """With `park` off a refused batch is tried once, and stays where it is."""
    fill(spool, 5)
    destination = FakeDestination(lambda batch_id, *_: BAD if batch_id == batch_id_of(2) else DELIVERED)
    with shipping(spool, destination, clock, park=False) as shipper:
        shipper.run_pass()
        clock.now += 10_000
        shipper.run_pass()
    assert destination.sent.count(batch_id_of(2)) == 1
    assert at(spool.ready(limit=9)) == [batch_id_of(2)]


# --- who holds what


def test_what_another_holds_is_left_to_it(spool: Spool, clock: Clock) -> None:
    """A batch that is claimed elsewhere is passed over, and taken when it is free."""
    names = fill(spool, 3)
    claim = spool.claim(names[1])
    assert claim is not None
    destination = FakeDestination()
    with shipping(spool, destination, clock) as shipper:
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 2, Fate.ELSEWHERE: 1}
        claim.release()
        assert dict(shipper.run_pass().fates) == {Fate.DELIVERED: 1}


def test_two_shippers_in_two_processes_send_each_batch_once(spool: Spool, tmp_path: Path) -> None:
    """Over 500 files, each is sent by one of two processes with four senders each."""
    fill(spool, 500)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.outbox.shipping", str(tmp_path / "spool"), str(log)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    assert [each.communicate(timeout=60)[0].strip() for each in running] == [b"done", b"done"]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(batch_id for batch_id, _ in lines) == _ids(range(500))
    assert len({pid for _, pid in lines}) == 2
    assert list((tmp_path / "spool").glob("*.json")) == []


@pytest.mark.slow
def test_a_hundred_thousand_batches_in_steady_memory(tmp_path: Path) -> None:
    """They are shipped oldest first, with no more memory for the last than for the first."""
    count = 100_000
    Spool(tmp_path / "spool").close()
    for number in range(count):
        batch_id = batch_id_of(number)
        payload = b'{"batch_id":"%s","edges":[]}' % batch_id.encode()
        with os.fdopen(
            os.open(tmp_path / "spool" / str(Name.of(batch_id, payload)), os.O_CREAT | os.O_WRONLY), "wb"
        ) as file:
            file.write(payload)
    last = -1
    out_of_order = sent = 0
    resident: list[int] = []

    class Counting:
        def send(self, batch_id: str, _payload: bytes) -> Delivery:
            nonlocal last, out_of_order, sent
            number = int(batch_id[8:16], 16)
            sent += 1
            out_of_order += number < last
            last = number
            if sent % 10_000 == 0:
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
            return DELIVERED

        def close(self) -> None:
            pass

    with Spool(tmp_path / "spool") as spool:
        shipper = Shipper(spool, Counting(), concurrency=1)
        shipper.start()
        begun = time.monotonic()
        result = shipper.run_pass()
        elapsed = time.monotonic() - begun
        shipper.stop()
        shipper.join(10)
        assert result.fates == {Fate.DELIVERED: count}
        assert spool.usage().files == 0
    assert out_of_order == 0
    assert max(resident) - resident[0] < 16 << 20
    assert elapsed < 100
