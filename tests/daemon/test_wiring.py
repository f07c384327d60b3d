"""The path as a whole: it starts, drains, and stops within its time, whatever is stuck."""

import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from spyder.daemon.wiring import Path, build_path
from spyder.daemon.workers import WorkerFault
from spyder.model.records import Batch, Report, Task
from spyder.settings import load
from tests.waiting import wait_until


class Outside:
    """What stands around the path: the store, the observer, the log, the ledger."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.observed: list[Report] = []
        self.faults: list[WorkerFault] = []
        self.promised: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.observe: Callable[[Report], None] = self.observed.append

    def store(self, batch: Batch) -> None:
        """Keep a batch, when it is allowed to."""
        assert self.open.wait(60)
        self.batches.append(batch)

    @property
    def hosts(self) -> list[str]:
        """The outcomes that were stored."""
        return [outcome.host for batch in self.batches for outcome in batch.outcomes]


@contextmanager
def running(outside: Outside, *overrides: str, servers: int = 1) -> Iterator[Path]:
    """Run a path whose name server never says anything, and stop it."""
    interval_s = sys.getswitchinterval()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        name_servers = ", ".join([f'"127.0.0.1:{silent.getsockname()[1]}"'] * servers)
        settings = load(
            None,
            overrides=[
                f"dns.nameservers=[{name_servers}]",
                "dns.timeout=100ms",
                "dns.retries=0",
                "crawling.concurrency=4",
                *overrides,
            ],
        ).settings
        path = build_path(
            settings,
            store=outside.store,
            on_promised=lambda tasks: outside.promised.extend(task.host for task in tasks),
            observe=lambda report: outside.observe(report),  # noqa: PLW0108 - it may be replaced later
            on_fault=outside.faults.append,
        )
        path.start()
        try:
            yield path
        finally:
            outside.open.set()
            path.stop()
            sys.setswitchinterval(interval_s)


def test_a_path_without_tasks_ends_at_once() -> None:
    """Nothing is stored, nothing is left."""
    outside = Outside()
    with running(outside) as path:
        assert path.drain(10) == 0
        assert path.stop() == 0
    assert outside.batches == []


def test_what_was_put_is_done_stored_and_promised() -> None:
    """Twenty hosts of a silent name server: twenty outcomes, each observed and promised once."""
    outside = Outside()
    hosts = [f"host{number}.test" for number in range(20)]
    with running(outside) as path:
        for host in hosts:
            path.tasks.put(Task(host))
        assert path.drain(30) == 0
    assert sorted(outside.hosts) == sorted(outside.promised) == sorted(hosts)
    assert sorted(report.task.host for report in outside.observed) == sorted(hosts)
    assert {outcome.dns for batch in outside.batches for outcome in batch.outcomes} == {"timeout"}


def test_drain_may_be_asked_again() -> None:
    """Who waits in small steps, to look for signals between them, loses nothing."""
    outside = Outside()
    with running(outside) as path:
        for number in range(8):
            path.tasks.put(Task(f"host{number}.test"))
        steps = 0
        while path.drain(0.01):
            steps += 1
        assert steps > 1
        assert len(outside.hosts) == 8


def test_abandon_gives_back_what_was_not_begun() -> None:
    """What was begun is finished."""
    outside = Outside()
    with running(outside, "dns.timeout=500ms") as path:
        for number in range(12):
            path.tasks.put(Task(f"host{number}.test"))
        wait_until(lambda: len(path.tasks) == 8)
        assert len(path.abandon()) == 8
        assert path.drain(30) == 0
    assert len(outside.hosts) == 4


@pytest.mark.slow
def test_a_store_that_hangs_does_not_hold_the_stop() -> None:
    """The stop is bounded, and says what it left undone."""
    outside = Outside()
    outside.open.clear()
    with running(outside, "batch.max_nodes=1") as path:
        for number in range(3):
            path.tasks.put(Task(f"host{number}.test"))
        wait_until(lambda: len(outside.observed) == 3)
        assert path.drain(0.1) > 0
        begun = time.monotonic()
        assert path.stop() >= 1
        assert time.monotonic() - begun < 8
        outside.open.set()
        wait_until(lambda: path.workers.join(0) == 0)
    assert len(outside.hosts) >= 1


def test_a_worker_that_is_stuck_costs_its_own_report_only() -> None:
    """The others' are handed on before the end."""
    outside = Outside()
    release = threading.Event()

    def observe(report: Report) -> None:
        if report.task.host == "stuck.test":
            assert release.wait(60)
        outside.observed.append(report)

    outside.observe = observe
    with running(outside) as path:
        for host in ("stuck.test", "a.test", "b.test"):
            path.tasks.put(Task(host))
        wait_until(lambda: len(outside.observed) == 2)
        assert path.drain(0.1) == 1
        assert path.stop() == 1
        assert sorted(outside.hosts) == ["a.test", "b.test"]
        release.set()
        wait_until(lambda: path.workers.join(0) == 0)


def test_an_observer_that_fails_stops_the_path() -> None:
    """It is part of handing a report on; the failure can be read."""
    outside = Outside()

    def refuse(_report: Report) -> None:
        raise ValueError("counter")

    outside.observe = refuse
    with running(outside) as path:
        path.tasks.put(Task("a.test"))
        wait_until(lambda: path.failure is not None)
        assert isinstance(path.failure, ValueError)
        assert path.drain(10) == 0


def test_hurry_ends_when_the_workers_have() -> None:
    """It blocks its own thread until then, and not longer."""
    outside = Outside()
    with running(outside, "dns.timeout=300ms") as path:
        path.tasks.put(Task("a.test"))
        wait_until(lambda: len(path.tasks) == 0)
        path.abandon()
        path.hurry()
        assert path.workers.join(0) == 0
    assert outside.hosts == ["a.test"]


def test_all_descriptors_that_we_may_have_are_taken() -> None:
    """A shell's 1024 would not do for a thousand workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        with running(Outside()):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
