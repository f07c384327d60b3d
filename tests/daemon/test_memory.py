"""Memory is bounded by settings, not by how long a run is; and a report costs little to batch."""

import json
import subprocess
import sys
import time

import pytest

from spyder.daemon.workers import WorkerPool
from spyder.model.outcomes import Status
from spyder.model.records import Batch, EdgeType, Outcome, Report, Task
from spyder.outbox.batcher import Batcher, BatchLimits
from spyder.outbox.dedup import Dedup
from spyder.outbox.formats import as_json
from spyder.policy.pacing import Pacer
from spyder.probe.findings import Findings
from spyder.runtime.bounded_queue import BoundedQueue
from spyder.runtime.seen_table import SeenTable
from tests.cli.spyderctl import ROOT, environment

HOSTS = 300_000
EARLY = 10_000
KIB = 1024


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - read often
        return int(statm.read().split()[1]) * 4 * KIB


def names_that_do_not_exist() -> dict[str, int]:
    """Run hosts whose probe finds nothing through workers and outbox; return what memory was at two moments.

    All that grows with hosts is there: the list's own memory of what was seen, pacing, dedup, batches.
    """
    tasks: BoundedQueue[Task] = BoundedQueue(64)
    pacer = Pacer(rate_per_host=1, burst=1)
    stored = [0]

    def store(batch: Batch) -> None:
        as_json(batch)
        stored[0] += len(batch.outcomes)

    def probe(task: Task) -> Report:
        pacer.wait(task.host, time.monotonic() + 10)
        findings = Findings(task.host, probe_id="probe", run_id="run")
        findings.add_names(EdgeType.USES_NS, ["ns1.nic.test", f"ns.{task.host}"])
        ended = Status.SKIPPED
        return findings.report(task, Outcome(task.host, "", Status.NXDOMAIN, ended, ended, ended))

    batcher = Batcher(
        probe_id="probe",
        run_id="run",
        limits=BatchLimits(),
        dedup=Dedup(max_entries=1_000_000, ttl_s=86400),
        store=store,
        new_batch_id=lambda: "0" * 32,
    )
    workers = WorkerPool(32, tasks=tasks, probe=probe, put=batcher.put, on_fault=print)
    batcher.start()
    workers.start()
    seen = SeenTable(1 << 20, ttl_s=float("inf"))
    early = 0
    for number in range(HOSTS):
        host = f"host-{number}.example-{number % 977}.test"
        assert not seen.contains(host, 0.0)
        seen.add((host,), 0.0)
        tasks.put(Task(host))
        if number == EARLY:
            early = resident_bytes()
    tasks.close()
    assert workers.join(60) == 0
    batcher.stop()
    assert batcher.join(60) == 0
    return {"early": early, "late": resident_bytes(), "stored": stored[0]}


@pytest.mark.slow
def test_memory_is_flat_over_300_000_hosts() -> None:
    """Between the 10,000th and the last host only the two fixed tables fill, 24 MiB in all, and batches."""
    code = "import json; from tests.daemon import test_memory as t; print(json.dumps(t.names_that_do_not_exist()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["stored"] == HOSTS
    assert measured["late"] - measured["early"] < 45 << 20, measured
    assert measured["late"] < 120 << 20, measured


def test_a_report_costs_little_to_batch() -> None:
    """25 records: some 60 us of CPU for dedup and batcher together; four times that is a fault."""
    reports = []
    for number in range(3000):
        findings = Findings(f"host{number}.test", probe_id="probe", run_id="run")
        findings.add_names(EdgeType.LINKS_TO, [f"link{n}.of{number if n % 2 else 0}.test" for n in range(12)])
        reports.append(findings.report(Task(findings.host), Outcome(findings.host, "")))
    batcher = Batcher(
        probe_id="probe",
        run_id="run",
        limits=BatchLimits(),
        dedup=Dedup(max_entries=1_000_000, ttl_s=86400),
        store=lambda _batch: None,
        new_batch_id=lambda: "0" * 32,
    )
    batcher.start()
    begun = time.process_time()
    for report in reports:
        batcher.put(report)
    batcher.stop()
    batcher.join(30)
    assert (time.process_time() - begun) / len(reports) < 250e-6
