"""The pool of workers: N tasks in, N reports out, whatever a probe does."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from spyder.daemon.workers import WorkerFault, WorkerPool
from spyder.model.outcomes import Status
from spyder.model.records import Report, Task
from spyder.runtime.bounded_queue import BoundedQueue, Closed
from tests.reports import report
from tests.waiting import started, wait_until


class Pool:
    """A pool over a probe of the test's own."""

    def __init__(self, probe: Callable[[Task], Report], workers: int = 4, capacity: int = 8) -> None:
        self.tasks: BoundedQueue[Task] = BoundedQueue(capacity)
        self.reports: list[Report] = []
        self.faults: list[WorkerFault] = []
        self.put: Callable[[Report], None] = self.reports.append
        self.on_fault: Callable[[WorkerFault], None] = self.faults.append
        self.workers = WorkerPool(
            workers,
            tasks=self.tasks,
            probe=probe,
            put=lambda found: self.put(found),  # noqa: PLW0108 - it may be replaced later
            on_fault=lambda fault: self.on_fault(fault),  # noqa: PLW0108 - it may be replaced later
        )

    def feed(self, hosts: list[str]) -> None:
        """Put a task for every host, and close."""
        for host in hosts:
            self.tasks.put(Task(host))
        self.tasks.close()


@contextmanager
def running(probe: Callable[[Task], Report], workers: int = 4) -> Iterator[Pool]:
    """Run a pool, and end it."""
    interval_s = sys.getswitchinterval()
    pool = Pool(probe, workers)
    pool.workers.start()
    try:
        yield pool
    finally:
        pool.tasks.close(discard=True)
        pool.workers.join(10)
        sys.setswitchinterval(interval_s)


def put_all(tasks: BoundedQueue[Task], count: int) -> None:
    """Put so many tasks."""
    for number in range(count):
        tasks.put(Task(f"host{number}.test"))


def healthy(task: Task) -> Report:
    """Return a report."""
    return report(task.host)


def test_every_task_has_a_report() -> None:
    """A thousand in, a thousand out, each once."""
    hosts = [f"host{number}.test" for number in range(1000)]
    with running(healthy, workers=16) as pool:
        pool.feed(hosts)
        assert pool.workers.join(30) == 0
    assert sorted(found.task.host for found in pool.reports) == sorted(hosts)


@pytest.mark.parametrize(
    "error", [ValueError("odd"), SystemExit(1), KeyboardInterrupt(), MemoryError(), GeneratorExit()]
)
def test_a_probe_that_raises_is_an_outcome(error: BaseException) -> None:
    """Whatever it raises: `internal_error` at every stage, the fault counted and handed on with its trace."""

    def probe(task: Task) -> Report:
        if task.host == "bad.test":
            raise error
        return report(task.host)

    with running(probe) as pool:
        pool.feed(["a.test", "bad.test", "b.test"])
        assert pool.workers.join(10) == 0
    outcomes = {found.outcome.host: found.outcome for found in pool.reports}
    bad = outcomes["bad.test"]
    assert {bad.dns, bad.robots, bad.http, bad.tls} == {Status.INTERNAL_ERROR}
    assert bad.detail is not None
    assert type(error).__name__ in bad.detail
    assert outcomes["a.test"].dns is outcomes["b.test"].dns is Status.OK
    assert pool.workers.faults == 1
    assert [fault.host for fault in pool.faults] == ["bad.test"]
    assert "in probe" in pool.faults[0].trace


def test_workers_that_raise_are_as_many_as_before() -> None:
    """A thousand faults later all four workers still work side by side, and not one report is missing."""
    barrier = threading.Barrier(4, timeout=10)

    def probe(task: Task) -> Report:
        if task.host.startswith("bad"):
            raise RuntimeError(task.host)
        barrier.wait()  # passes only when four workers are here
        return report(task.host)

    with running(probe) as pool:
        pool.feed([*(f"bad{number}.test" for number in range(1000)), *(f"good{number}.test" for number in range(4))])
        assert pool.workers.join(30) == 0
    assert len(pool.reports) == 1004
    assert pool.workers.faults == 1000
    assert sum(found.outcome.dns is Status.OK for found in pool.reports) == 4


def test_a_log_that_fails_costs_no_outcome() -> None:
    """The fault of a fault's log is swallowed; the host still has its outcome."""

    def probe(_task: Task) -> Report:
        raise ValueError("odd")

    def refuse(_fault: WorkerFault) -> None:
        raise OSError("no log")

    with running(probe) as pool:
        pool.on_fault = refuse
        pool.feed(["a.test", "b.test"])
        assert pool.workers.join(10) == 0
    assert sorted(found.outcome.host for found in pool.reports) == ["a.test", "b.test"]


def test_a_put_that_fails_stops_all() -> None:
    """Reports that lead nowhere are not made: the workers end, and nothing more can be put."""
    with running(healthy) as pool:

        def refuse(_report: Report) -> None:
            raise OSError("outbox")

        pool.put = refuse
        with pytest.raises(Closed):
            put_all(pool.tasks, 10_000)
        assert pool.workers.join(10) == 0
    assert isinstance(pool.workers.failure, OSError)
    assert pool.workers.faults == 0


def test_a_put_that_fails_for_a_faulted_host_stops_all_too() -> None:
    """Also when the report is that of a fault."""

    def probe(_task: Task) -> Report:
        raise ValueError("odd")

    def refuse(_report: Report) -> None:
        raise OSError("outbox")

    with running(probe, workers=2) as pool:
        pool.put = refuse
        pool.tasks.put(Task("a.test"))
        assert pool.workers.join(10) == 0
    assert isinstance(pool.workers.failure, OSError)


def test_join_keeps_to_its_budget_and_says_who_is_left() -> None:
    """A worker that is stuck is counted, and can be waited for again."""
    release = threading.Event()

    def probe(task: Task) -> Report:
        if task.host == "stuck.test":
            assert release.wait(30)
        return report(task.host)

    with running(probe) as pool:
        pool.feed(["stuck.test", "a.test"])
        begun = time.monotonic()
        wait_until(lambda: pool.workers.join(0.05) == 1)
        assert time.monotonic() - begun < 10
        release.set()
        assert pool.workers.join(10) == 0
    assert len(pool.reports) == 2


def test_tasks_that_wait_are_done_before_the_end() -> None:
    """Closing the queue loses nothing that was put."""
    gate = threading.Event()

    def probe(task: Task) -> Report:
        assert gate.wait(30)
        return report(task.host)

    with running(probe, workers=1) as pool:
        feeder = started(lambda: pool.feed([f"host{number}.test" for number in range(8)]))
        feeder.join(10)
        gate.set()
        assert pool.workers.join(10) == 0
    assert len(pool.reports) == 8


def test_join_without_start_is_no_wait() -> None:
    """Nothing runs, nothing is left."""
    assert Pool(healthy).workers.join(1) == 0
