"""The store: it returns when the batch is promised, waits where it must, and can be told to stop waiting."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from spyder.model.records import Batch, Edge, EdgeType, NodeDomain, Outcome
from spyder.outbox.batcher import Batcher, BatchLimits
from spyder.outbox.dedup import Dedup
from spyder.outbox.payload import decode, encode
from spyder.outbox.spool import Name, PayloadTooLarge, Place, Spool, SpoolFull, half_ids, new_batch_id
from spyder.outbox.store import Store, StoreInterrupted, StoreState
from spyder.runtime.durable import SYSTEM_CALLS, DiskSuspect, Unavailable
from tests.reports import report
from tests.waiting import started, wait_until

_SEEN = "2026-01-01T00:00:00.000000Z"


def _batch(edges: int = 3, nodes: int = 2) -> Batch:
    return Batch(
        batch_id=new_batch_id(1_767_268_800.0),
        timestamp=_SEEN,
        probe_id="local-1",
        run_id="run-1",
        nodes_domain=[NodeDomain(f"h{each}.example", "example", _SEEN, _SEEN) for each in range(nodes)],
        edges=[Edge(EdgeType.USES_MX, "h0.example", f"mx{each}.example", _SEEN, "p", "r") for each in range(edges)],
        outcomes=[Outcome(f"h{each}.example", _SEEN) for each in range(nodes)],
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool."""
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0) as opened:
        yield opened


class Unwilling:
    """A spool that fails so often before it writes."""

    def __init__(self, spool: Spool, failures: Sequence[Exception]) -> None:
        self._spool = spool
        self._failures = list(failures)
        self.attempts: list[str] = []

    def write(self, batch_id: str, payload: bytes) -> Name:
        """See `Spool.write`."""
        self.attempts.append(batch_id)
        if self._failures:
            raise self._failures.pop(0)
        return self._spool.write(batch_id, payload)


def _waits_of(interrupt_after: int | None = None) -> tuple[list[float], Callable[[float], bool]]:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return interrupt_after is not None and len(waits) >= interrupt_after

    return waits, wait


_FULL = SpoolFull(errno.ENOSPC, "the spool is full: 10 bytes are spooled", "/spool")
_READ_ONLY = Unavailable(errno.EROFS, "open: Read-only file system", "/spool")
_BROKEN = DiskSuspect(errno.EIO, "fsync: Input/output error", "/spool/x")


def test_a_stored_batch_is_in_the_spool(spool: Spool) -> None:
    """When it returns, the batch is a ready file, and whoever ships it has been woken."""
    woken: list[int] = []
    store = Store(spool, on_stored=lambda: woken.append(spool.usage().files))
    batch = _batch()
    store(batch)
    [name] = spool.ready(limit=9)
    assert spool.read(name) == encode(batch).payload
    assert woken == [1]
    assert (store.state().stored, store.state().bytes) == (1, len(encode(batch).payload))


def test_no_room_is_waited_for(spool: Spool) -> None:
    """Refusals are waited out with doubling waits up to 5 s; one line at the beginning, one at the end."""
    lines: list[str] = []
    waits, wait = _waits_of()
    spooled = Unwilling(spool, [_FULL] * 4 + [_READ_ONLY] * 5)
    store = Store(spooled, on_event=lines.append, wait=wait, clock=lambda: 50.0)
    store(_batch())
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert len(set(spooled.attempts)) == 1
    assert [line.split(",")[0].split(" after")[0] for line in lines] == ["intake waits", "intake goes on"]
    assert "the spool is full" in lines[0]
    assert (store.state().waits, store.state().waiting_since, store.state().reason) == (1, None, "")


def test_a_wait_shows_since_when_and_why(spool: Spool) -> None:
    """While it waits the state says so, for health and metrics."""
    seen: list[StoreState] = []

    def wait(_seconds: float) -> bool:
        seen.append(store.state())
        return False

    store = Store(Unwilling(spool, [_FULL]), wait=wait, clock=lambda: 50.0)
    store(_batch())
    assert [(state.waiting_since, "the spool is full" in state.reason) for state in seen] == [(50.0, True)]


def test_a_stop_breaks_the_wait(spool: Spool) -> None:
    """`stop` ends a real wait at once; the batch counts as not stored."""
    store = Store(Unwilling(spool, [_FULL] * 100))
    ended: list[BaseException] = []

    def work() -> None:
        try:
            store(_batch())
        except StoreInterrupted as error:
            ended.append(error)

    thread = started(work)
    wait_until(lambda: store.state().waits)
    store.stop()
    thread.join(2)
    assert not thread.is_alive()
    assert "the spool is full" in str(ended[0])
    assert spool.usage().files == 0


def test_a_stopped_store_still_stores_where_there_is_room(spool: Spool) -> None:
    """A stop ends waits, not writes: the last batches of a drain are kept."""
    store = Store(spool)
    store.stop()
    store(_batch())
    assert spool.usage().files == 1
    with pytest.raises(StoreInterrupted):
        Store(Unwilling(spool, [_FULL]), wait=lambda _s: True)(_batch())


def test_a_failing_disk_gets_three_attempts(spool: Spool) -> None:
    """A failure is answered with a new attempt under the same name; the third is raised, and intake stops."""
    waits, wait = _waits_of()
    store = Store(Unwilling(spool, [_BROKEN, _BROKEN]), wait=wait)
    store(_batch())
    assert spool.usage().files == 1
    lines: list[str] = []
    store = Store(Unwilling(spool, [_BROKEN] * 3), wait=wait, on_event=lines.append)
    with pytest.raises(DiskSuspect):
        store(_batch())
    assert store.state().disk_failures == 3
    assert "intake stops" in lines[-1]
    assert waits == [0.1, 0.2, 0.1, 0.2]


def test_no_descriptor_is_synced_twice(tmp_path: Path) -> None:
    """After a failed fsync of the file the next attempt has a new file, and the first is gone."""
    synced: list[int] = []
    failures = iter([OSError(errno.EIO, "Input/output error")])
    armed = False

    def fsync(fd: int) -> None:
        inode = os.fstat(fd).st_ino
        synced.append(inode)
        if armed and (failure := next(failures, None)):
            raise failure
        SYSTEM_CALLS.fsync(fd)

    calls = replace(SYSTEM_CALLS, fsync=fsync)
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0, calls=calls) as spool:
        armed = True
        synced.clear()
        store = Store(spool, wait=lambda _s: False)
        store(_batch())
        assert store.state().disk_failures == 1
        assert spool.usage().files == 1
        assert len([each for each in (tmp_path / "spool").iterdir() if each.name.endswith(".tmp")]) == 0


def test_too_large_a_batch_is_halved(tmp_path: Path) -> None:
    """It becomes parts whose ids name their parents, with every record once, in order."""
    batch = _batch(edges=40, nodes=9)
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0, max_batch_bytes=2500) as spool:
        store = Store(spool)
        store(batch)
        found = [decode(spool.read(name)) for name in spool.ready(limit=99)]
    assert len(found) == store.state().stored > 2
    assert all(len(orjson.dumps(each)) <= 2500 for each in found)
    assert found[0]["batch_id"].startswith(half_ids(batch.batch_id)[0])
    whole = decode(encode(batch).payload)
    for records in ("nodes_domain", "nodes_ip", "edges", "outcomes"):
        assert [each for part in found for each in part[records]] == whole[records]


def test_a_single_record_too_large_is_an_error(tmp_path: Path) -> None:
    """What cannot be halved is raised, not dropped."""
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0, max_batch_bytes=200) as spool:
        with pytest.raises(PayloadTooLarge):
            Store(spool)(_batch(edges=1, nodes=0))
        assert spool.usage().files == 0


def test_a_full_spool_slows_the_intake_and_all_goes_on(tmp_path: Path) -> None:
    """With a cap that is reached, `put` blocks; when batches leave, everything arrives, and nothing was dropped."""
    promised: list[str] = []
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0, max_bytes=3000) as spool:
        store = Store(spool)
        batcher = Batcher(
            probe_id="p",
            run_id="r",
            limits=BatchLimits(max_edges=1, flush_interval_s=0.01),
            dedup=Dedup(max_entries=10_000, ttl_s=1000),
            store=store,
            on_promised=lambda tasks: promised.extend(task.host for task in tasks),
            new_batch_id=lambda: new_batch_id(1_767_268_800.0),
        )
        batcher.start()
        hosts = [f"h{each}.example" for each in range(60)]

        def feed() -> None:
            for host in hosts:
                batcher.put(report(host))

        feeder = started(feed)
        wait_until(lambda: store.state().waiting_since)
        assert len(promised) < 20
        delivered: list[str] = []

        def deliver() -> bool:
            for name in spool.ready(limit=99):
                claim = spool.claim(name)
                assert claim is not None
                with claim:
                    delivered.extend(each["host"] for each in decode(claim.read())["outcomes"])
                    claim.remove()
            return len(delivered) == len(hosts)

        wait_until(deliver)
        feeder.join(5)
        batcher.stop()
        assert batcher.join(5) == 0
    assert delivered == promised == hosts


def test_a_stop_leaves_the_batch_counted_as_not_stored(spool: Spool) -> None:
    """When the wait is broken off, the batcher counts the reports, and their tasks are not done."""
    promised: list[object] = []
    store = Store(Unwilling(spool, [_FULL] * 1000))
    batcher = Batcher(
        probe_id="p",
        run_id="r",
        limits=BatchLimits(flush_interval_s=0.01),
        dedup=Dedup(max_entries=100, ttl_s=1000),
        store=store,
        on_promised=promised.extend,
        new_batch_id=lambda: new_batch_id(1_767_268_800.0),
    )
    batcher.start()
    batcher.put(report("a.example"))
    wait_until(lambda: store.state().waits)
    batcher.stop()
    assert batcher.join(0.05) == 1
    store.stop()
    assert batcher.join(5) == 1
    assert isinstance(batcher.failure, StoreInterrupted)
    assert promised == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """On a real file system without room the batch waits in memory, and is stored when there is some."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "spool", small], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with Spool(small / "spool", reserve_bytes=0, reserve_files=0) as spool:
            (small / "ballast").write_bytes(b"x" * 200_000)
            store = Store(spool)
            batch = _batch(edges=600)
            thread = threading.Thread(target=store, args=(batch,))
            thread.start()
            wait_until(lambda: store.state().waiting_since)
            assert [each for each in (small / "spool").iterdir() if each.suffix == ".json"] == []
            (small / "ballast").unlink()
            thread.join(10)
            assert [name.batch_id for name in spool.names(Place.READY, limit=9)] == [batch.batch_id]
    finally:
        subprocess.run(["umount", small], check=True)
