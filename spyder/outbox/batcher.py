"""Gathers reports into batches. The first room of the outbox.

Workers put reports; one thread, `batcher`, hands full batches on. A batch is closed for one of three reasons: size
(edges or nodes), time, or drain. Its tasks are done and its dedup keys committed only when `store` has returned,
which is the promise that the batch will not be lost. While a batch is being stored the next one fills; when that is
full as well, `put` blocks, and so the workers, and so the intake.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spyder.model.records import Batch, Edge, NodeCert, NodeDomain, NodeIP, Outcome, Report, Task, rfc3339
from spyder.outbox.dedup import Dedup


class OutboxFailed(Exception):
    """A batch could not be stored, and its tasks are not done; nothing more is taken."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is closed."""

    max_edges: int = 10_000
    max_nodes: int = 5_000
    flush_interval_s: float = 2.0


@dataclass(slots=True)
class _Open:
    """The batch that is being filled."""

    nodes_domain: list[NodeDomain] = field(default_factory=list)
    nodes_ip: list[NodeIP] = field(default_factory=list)
    nodes_cert: list[NodeCert] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    since: float = 0.0

    def is_full(self, limits: BatchLimits) -> bool:
        # outcomes count as nodes, so that a list of hosts that do not exist makes batches too
        nodes = max(len(self.nodes_domain) + len(self.nodes_ip) + len(self.nodes_cert), len(self.outcomes))
        return len(self.edges) >= limits.max_edges or nodes >= limits.max_nodes


class Batcher:
    """Turns reports into stored batches."""

    def __init__(
        self,
        *,
        probe_id: str,
        run_id: str,
        limits: BatchLimits,
        dedup: Dedup,
        store: Callable[[Batch], None],
        on_promised: Callable[[Sequence[Task]], None] = lambda _tasks: None,
        new_batch_id: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._probe_id = probe_id
        self._run_id = run_id
        self._limits = limits
        self._dedup = dedup
        self._store = store
        self._on_promised = on_promised
        self._new_batch_id = new_batch_id
        self._clock = clock
        self._wall_clock = wall_clock
        lock = threading.Lock()
        self._wake = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._open = _Open()
        self._flush_now = False
        self._stopping = False
        self._ended = False
        self._handing_on = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    @property
    def failure(self) -> BaseException | None:
        """Why the outbox failed, if it did."""
        return self._failure

    def start(self) -> None:
        """Begin to hand batches on."""
        self._thread.start()

    def put(self, report: Report) -> None:
        """Add a report; blocks while the open batch is full.

        Raises:
            OutboxFailed: a batch could not be stored, or the batcher has ended.
        """
        (domains, ips, certs, edges), keys = self._dedup.claim(
            report.nodes_domain, report.nodes_ip, report.nodes_cert, report.edges
        )
        with self._room:
            while self._open.is_full(self._limits) and not self._ended:
                self._room.wait()
            if self._ended:
                self._dedup.release(keys)
                raise OutboxFailed(str(self._failure or "stopped")) from self._failure
            batch = self._open
            if not batch.outcomes:
                batch.since = self._clock()
                self._wake.notify()
            batch.nodes_domain += domains
            batch.nodes_ip += ips
            batch.nodes_cert += certs
            batch.edges += edges
            batch.outcomes.append(report.outcome)
            batch.tasks.append(report.task)
            batch.keys += keys
            if batch.is_full(self._limits):
                self._wake.notify()

    def flush(self) -> None:
        """Close the open batch now, whatever its size; returns at once."""
        with self._wake:
            self._flush_now = True
            self._wake.notify()

    def stop(self) -> None:
        """Hand on what there is and end; returns at once, may be called twice. Nothing may be put afterwards."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def join(self, budget_s: float | None = None) -> int:
        """Wait for the end; return the number of reports that were not stored."""
        self._thread.join(budget_s)
        with self._wake:
            return self._handing_on + len(self._open.outcomes)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._is_due():
                    self._wake.wait(self._until_due_s())
                self._flush_now = False
                if not self._open.outcomes:
                    self._ended = True  # due without a report: stopping, and all is handed on
                    return
                full, self._open = self._open, _Open()
                self._handing_on = len(full.outcomes)
                self._room.notify_all()
            try:
                self._hand_on(full)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the tasks of this batch are not done
                self._fail(full, error)
                return

    def _hand_on(self, full: _Open) -> None:
        self._store(self._sealed(full))
        self._dedup.commit(full.keys)
        self._on_promised(full.tasks)
        with self._wake:
            self._handing_on = 0

    def _is_due(self) -> bool:
        if not self._open.outcomes:
            self._flush_now = False
            return self._stopping
        return (
            self._stopping
            or self._flush_now
            or self._open.is_full(self._limits)
            or self._clock() - self._open.since >= self._limits.flush_interval_s
        )

    def _until_due_s(self) -> float | None:
        if not self._open.outcomes:
            return None
        return max(self._open.since + self._limits.flush_interval_s - self._clock(), 0.0)

    def _sealed(self, full: _Open) -> Batch:
        return Batch(
            batch_id=self._new_batch_id(),
            timestamp=rfc3339(self._wall_clock()),
            probe_id=self._probe_id,
            run_id=self._run_id,
            nodes_domain=full.nodes_domain,
            nodes_ip=full.nodes_ip,
            nodes_cert=full.nodes_cert,
            edges=full.edges,
            outcomes=full.outcomes,
        )

    def _fail(self, lost: _Open, error: BaseException) -> None:
        """Take nothing more; the reports of the lost batch stay counted as not stored."""
        with self._room:
            self._failure, self._ended = error, True
            keys = lost.keys + self._open.keys
            self._room.notify_all()
        self._dedup.release(keys)
