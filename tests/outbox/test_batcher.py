"""Reports become batches: when, what is in them, and what happens when they cannot be stored."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from spyder.model.records import Batch, Task
from spyder.outbox.batcher import Batcher, BatchLimits, OutboxFailed
from spyder.outbox.dedup import Dedup
from tests.reports import domain, report
from tests.waiting import started, wait_until

NEVER_S = 3600.0


class Store:
    """Keeps batches; may be made to wait, or to raise."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.promised: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.error: BaseException | None = None

    def __call__(self, batch: Batch) -> None:
        """Store a batch."""
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        self.batches.append(batch)

    def promise(self, tasks: Sequence[Task]) -> None:
        """Note tasks that are done."""
        self.promised += [task.host for task in tasks]

    @property
    def hosts(self) -> list[str]:
        """The outcomes that were stored."""
        return [outcome.host for batch in self.batches for outcome in batch.outcomes]


@contextmanager
def batching(
    store: Store,
    *,
    max_edges: int = 10_000,
    max_nodes: int = 5_000,
    flush_s: float = NEVER_S,
    dedup: Dedup | None = None,
    on_promised: Callable[[Sequence[Task]], None] | None = None,
) -> Iterator[Batcher]:
    """Run a batcher, and end it."""
    numbers = itertools.count()
    batcher = Batcher(
        probe_id="probe",
        run_id="run",
        limits=BatchLimits(max_edges, max_nodes, flush_s),
        dedup=Dedup(max_entries=100_000, ttl_s=3600) if dedup is None else dedup,
        store=store,
        on_promised=on_promised or store.promise,
        new_batch_id=lambda: f"batch{next(numbers)}",
    )
    batcher.start()
    try:
        yield batcher
    finally:
        store.open.set()
        batcher.stop()
        batcher.join(10)


def test_a_batch_is_closed_when_it_has_its_edges() -> None:
    """The third edge of three closes the batch."""
    store = Store()
    with batching(store, max_edges=3) as batcher:
        batcher.put(report("a.test", ["x.test", "y.test"]))
        assert not store.batches
        batcher.put(report("b.test", ["z.test"]))
        wait_until(lambda: store.batches)
    assert [len(batch.edges) for batch in store.batches] == [3]


def test_a_batch_is_closed_when_it_has_its_nodes() -> None:
    """Nodes of all kinds count together."""
    store = Store()
    with batching(store, max_nodes=3) as batcher:
        batcher.put(report("a.test", ip="192.0.2.1"))
        assert not store.batches
        batcher.put(report("a.test", spki="key"))
        wait_until(lambda: store.batches)
    (batch,) = store.batches
    assert (len(batch.nodes_domain), len(batch.nodes_ip), len(batch.nodes_cert)) == (1, 1, 1)


def test_outcomes_alone_close_a_batch_too() -> None:
    """A list of hosts that were all seen before yields no node, and batches all the same."""
    store = Store()
    dedup = Dedup(max_entries=1000, ttl_s=3600)
    dedup.commit(dedup.claim([domain("a.test")])[1])
    with batching(store, max_nodes=4, dedup=dedup) as batcher:
        for _ in range(4):
            batcher.put(report("a.test"))
        wait_until(lambda: store.batches)
    assert [len(batch.outcomes) for batch in store.batches] == [4]
    assert store.batches[0].nodes_domain == []


def test_a_batch_is_closed_by_time() -> None:
    """The age counts from the first report; the batcher sleeps until then, and not longer."""
    store = Store()
    with batching(store, flush_s=0.05) as batcher:
        begun = time.monotonic()
        batcher.put(report("a.test"))
        wait_until(lambda: store.batches)
        assert time.monotonic() - begun >= 0.05


def test_flush_closes_at_once() -> None:
    """Whatever its size and age; an empty one is not sent, nor does it cut the next one short."""
    store = Store()
    with batching(store) as batcher:
        batcher.flush()
        batcher.put(report("a.test"))
        batcher.flush()
        wait_until(lambda: store.batches)
        batcher.put(report("b.test"))
        assert not threading.Event().wait(0.05)
        assert store.hosts == ["a.test"]
    assert store.hosts == ["a.test", "b.test"]


def test_drain_hands_on_what_there_is() -> None:
    """Stop closes the batch that is open; nothing is left behind."""
    store = Store()
    with batching(store) as batcher:
        batcher.put(report("a.test", ["x.test"]))
        batcher.stop()
        batcher.stop()
        assert batcher.join(10) == 0
    assert store.hosts == ["a.test"]


def test_an_empty_drain_sends_nothing() -> None:
    """No report, no batch."""
    store = Store()
    with batching(store):
        pass
    assert store.batches == []


def test_who_puts_after_the_end_is_told_so() -> None:
    """A worker that comes too late does not believe that its report was taken."""
    with batching(Store()) as batcher:
        batcher.stop()
        assert batcher.join(10) == 0
        with pytest.raises(OutboxFailed):
            batcher.put(report("late.test"))


def test_nothing_is_reported_twice_over_batches() -> None:
    """Nodes and edges of the first batch are left out of the second; its outcome is not."""
    store = Store()
    with batching(store) as batcher:
        for _ in range(2):
            batcher.put(report("a.test", ["x.test"], ip="192.0.2.1", spki="key"))
            batcher.flush()
            wait_until(lambda: not batcher._open.outcomes)
    first, second = store.batches
    assert (len(first.nodes_domain), len(first.nodes_ip), len(first.nodes_cert), len(first.edges)) == (2, 1, 1, 1)
    assert not [*second.nodes_domain, *second.nodes_ip, *second.nodes_cert, *second.edges]
    assert [len(batch.outcomes) for batch in store.batches] == [1, 1]
    assert len({batch.batch_id for batch in store.batches}) == 2


def test_while_a_batch_is_stored_the_next_one_fills_and_then_put_blocks() -> None:
    """Two batches of two: the fifth report waits until the first batch is stored."""
    store = Store()
    store.open.clear()
    with batching(store, max_nodes=2) as batcher:
        for number in range(2):
            batcher.put(report(f"first{number}.test"))
        wait_until(lambda: not batcher._open.outcomes)
        for number in range(2):
            batcher.put(report(f"second{number}.test"))
        putter = started(lambda: batcher.put(report("third.test")))
        putter.join(0.1)
        assert putter.is_alive()
        store.open.set()
        putter.join(10)
        assert not putter.is_alive()
    assert store.hosts == ["first0.test", "first1.test", "second0.test", "second1.test", "third.test"]


def test_tasks_are_promised_after_the_store_and_in_order() -> None:
    """Never before: a task whose batch is being stored is not done."""
    store = Store()
    store.open.clear()
    with batching(store, max_nodes=1) as batcher:
        batcher.put(report("a.test"))
        batcher.put(report("b.test"))
        assert store.promised == []
    assert store.promised == ["a.test", "b.test"]


def test_keys_are_committed_after_the_store() -> None:
    """While a batch is being stored its keys are claimed, not remembered."""
    store = Store()
    store.open.clear()
    dedup = Dedup(max_entries=1000, ttl_s=3600)
    with batching(store, max_nodes=1, dedup=dedup) as batcher:
        batcher.put(report("a.test"))
        wait_until(lambda: not batcher._open.outcomes)
        assert len(dedup._committed) == 0
        assert len(dedup) == 1
    assert len(dedup._committed) == 1
    assert not dedup._claimed


def test_a_batch_that_is_being_stored_counts_as_undone() -> None:
    """Who stops waiting while the store hangs is told what is at stake."""
    store = Store()
    store.open.clear()
    with batching(store, max_nodes=2) as batcher:
        for number in range(3):
            batcher.put(report(f"host{number}.test"))
        batcher.stop()
        assert batcher.join(0.05) == 3
        store.open.set()
        assert batcher.join(10) == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit(3)])
def test_a_store_that_raises_ends_the_batcher_and_says_so(error: BaseException) -> None:
    """Whatever it raises: the failure is kept, its reports are undone, no task is promised, keys are given back."""
    store = Store()
    store.error = error
    dedup = Dedup(max_entries=1000, ttl_s=3600)
    with batching(store, max_nodes=2, dedup=dedup) as batcher:
        batcher.put(report("a.test"))
        batcher.put(report("b.test"))
        wait_until(lambda: batcher.failure is error)
        assert batcher.join(10) == 2
        with pytest.raises(OutboxFailed):
            batcher.put(report("c.test"))
        wait_until(lambda: len(dedup) == 0)
    assert store.promised == []


def test_workers_that_are_blocked_in_put_are_set_free_when_the_store_fails() -> None:
    """None of them waits for room that never comes, and all their keys are given back."""
    store = Store()
    store.open.clear()
    store.error = OSError("gone")
    dedup = Dedup(max_entries=10_000, ttl_s=3600)
    failed: list[bool] = []

    def put(number: int) -> None:
        try:
            batcher.put(report(f"host{number}.test"))
        except OutboxFailed:
            failed.append(True)

    with batching(store, max_nodes=2, dedup=dedup) as batcher:
        threads = [started(put, number) for number in range(64)]
        wait_until(lambda: len(dedup) == 64)
        store.open.set()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        undone = batcher.join(10)
        wait_until(lambda: len(dedup) == 0)
    assert undone + len(failed) == 64
    assert undone == 4  # the batch that was lost, and the one that was filling


def test_a_promise_that_fails_is_a_failure_too() -> None:
    """A ledger that cannot be written stops the intake; it is not passed over in silence."""
    store = Store()

    def refuse(_tasks: Sequence[Task]) -> None:
        raise OSError("ledger")

    with batching(store, max_nodes=1, on_promised=refuse) as batcher:
        batcher.put(report("a.test"))
        wait_until(lambda: batcher.failure is not None)
        assert batcher.join(10) == 1
        with pytest.raises(OutboxFailed):
            batcher.put(report("b.test"))


def test_nothing_is_lost_between_64_threads() -> None:
    """Every outcome once, every edge once, every task promised once, whatever the batches are."""
    store = Store()
    with batching(store, max_edges=97, max_nodes=89, flush_s=0.01) as batcher:

        def work(name: int) -> None:
            for number in range(100):
                batcher.put(report(f"host{name}-{number}.test", [f"link{number}.test", "everybody.test"]))

        threads = [started(work, name) for name in range(64)]
        for thread in threads:
            thread.join(60)
        batcher.stop()
        assert batcher.join(30) == 0
    hosts = [f"host{name}-{number}.test" for name in range(64) for number in range(100)]
    assert sorted(store.hosts) == sorted(hosts)
    assert sorted(store.promised) == sorted(hosts)
    edges = [(edge.source, edge.target) for batch in store.batches for edge in batch.edges]
    assert len(edges) == len(set(edges)) == 2 * len(hosts)
    nodes = [node.host for batch in store.batches for node in batch.nodes_domain]
    assert sorted(nodes) == sorted([*hosts, *(f"link{number}.test" for number in range(100)), "everybody.test"])
    assert len(store.batches) > 10
