"""One check for the whole outbox, from report to answer, and every mutant that it must catch.

An outbox lives once, in a fixed order, over a disk whose every change is recorded. Then every state is looked at in
which a power cut or a kill may leave the disk, after every step: whatever was acknowledged by then must be in a whole
file, or at the destination.

The mutants of the single steps are caught beside those (`test_spool_faults.py`), and with real kills by the harness
(`test_kill_harness.py`); here all of them meet the same check.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from spyder.model.records import Task
from spyder.outbox.batcher import Batcher, BatchLimits, OutboxFailed
from spyder.outbox.dedup import Dedup
from spyder.outbox.destinations.delivery import Delivery
from spyder.outbox.payload import decode
from spyder.outbox.spool import Name, Place, Spool, new_batch_id
from spyder.outbox.store import Store, Writer
from spyder.runtime.durable import Calls, DiskSuspect
from tests.outbox.numbered import GROUP, Found, report_of
from tests.outbox.outbox_mutants import MUTANTS
from tests.outbox.shipping import DELIVERED, DOWN, Clock, FakeDestination, shipping
from tests.runtime import disk_faults

_DELIVERED_AT_ONCE = (0, 1)
_DELIVERED_LATER = (GROUP, GROUP + 1)
_LOST_AND_REDONE = (2 * GROUP, 2 * GROUP + 1)
_WAITING = (3 * GROUP, 3 * GROUP + 1)


class _BrokenDisk:
    """A spool on a disk that fails whatever is tried."""

    def write(self, _batch_id: str, _payload: bytes) -> Name:
        """Fail."""
        raise DiskSuspect(errno.EIO, os.strerror(errno.EIO))


class _Life:
    """One outbox, and what it said to the world."""

    def __init__(self, spool: Spool, note: Callable[..., None]) -> None:
        self._spool = spool
        self._note = note
        self._dedup = Dedup(max_entries=1000, ttl_s=1e9)  # lives longer than a batcher that failed
        self._number = 0
        self.delivered: dict[str, bytes] = {}
        self._destination = FakeDestination(self._answer)

    def run(self) -> None:
        """Deliver a batch, deliver one at the second try, lose one before its promise and do it anew, keep one."""
        self._put(self._spool, *_DELIVERED_AT_ONCE)
        self._put(self._spool, *_DELIVERED_LATER)
        self._ship()
        with pytest.raises(OutboxFailed):
            self._put(_BrokenDisk(), *_LOST_AND_REDONE)
        self._put(self._spool, *_LOST_AND_REDONE)
        self._ship()
        self._put(self._spool, *_WAITING)

    def _put(self, writer: Writer, *numbers: int) -> None:
        batcher = Batcher(
            probe_id="probe",
            run_id="run",
            limits=BatchLimits(flush_interval_s=1000),
            dedup=self._dedup,
            store=Store(writer, wait=lambda _seconds: False),
            on_promised=self._acknowledge,
            new_batch_id=self._new_batch_id,
        )
        batcher.start()
        for number in numbers:
            batcher.put(report_of(number))
        batcher.stop()
        if batcher.join(10):
            raise OutboxFailed from batcher.failure

    def _acknowledge(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._note("acknowledged", str(task.origin))

    def _new_batch_id(self) -> str:
        self._number += 1
        return new_batch_id(1_767_268_800.0 + self._number)

    def _ship(self) -> None:
        with shipping(self._spool, self._destination, Clock()) as shipper:
            shipper.run_pass()

    def _answer(self, batch_id: str, payload: bytes, before: int) -> Delivery:
        numbers = {outcome["host"] for outcome in decode(payload)["outcomes"]}
        if not before and f"n{_DELIVERED_LATER[0]}.test" in numbers:
            return DOWN
        self.delivered[batch_id] = payload
        self._note("delivered", batch_id)
        return DELIVERED


def _losses(directory: Path, mutant: Callable[[Calls], Calls] = lambda calls: calls) -> Iterator[list[int]]:
    """Live once; yield for every state of the disk the numbers that were acknowledged and are nowhere."""
    with Spool(directory, reserve_bytes=0, reserve_files=0):
        kept = {directory.joinpath(place).stat().st_ino for place in (Place.READY, Place.DEAD)}
    recorder = disk_faults.Recorder()
    calls = mutant(recorder.calls())
    with Spool(directory, reserve_bytes=0, reserve_files=0, calls=calls) as spool:
        life = _Life(spool, recorder.note)
        life.run()
    for remains in recorder.crashes():
        found = Found()
        for (inode, text), payload in remains.files.items():
            name = Name.parse(text)
            if name and inode in kept and name == _name_of(name, payload):
                found.add(decode(payload))
        for words in remains.notes:
            if words[0] == "delivered":
                found.add(decode(life.delivered[words[1]]))
        yield found.missing(int(words[1]) for words in remains.notes if words[0] == "acknowledged")


def _name_of(name: Name, payload: bytes) -> Name:
    return Name.of(name.batch_id, payload)


def test_nothing_that_was_acknowledged_is_ever_lost(tmp_path: Path) -> None:
    """In every state that a kill or a power cut may leave, after every step of a whole outbox."""
    losses = list(_losses(tmp_path / "spool"))
    assert len(losses) > 200
    assert not any(losses)


@pytest.mark.parametrize("wrong", MUTANTS)
def test_a_step_in_the_wrong_place_is_caught(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a task acknowledged, or dedup marked, before the promise, or with the file unlinked before the answer."""
    monkeypatch.setattr(*MUTANTS[wrong])
    assert any(_losses(tmp_path / "spool"))


@pytest.mark.parametrize("mutant", [disk_faults.without_file_sync, disk_faults.without_directory_sync])
def test_a_sync_left_out_is_caught(mutant: Callable[[Calls], Calls], tmp_path: Path) -> None:
    """Without the sync of the file, or of the directory."""
    assert any(_losses(tmp_path / "spool", mutant))
