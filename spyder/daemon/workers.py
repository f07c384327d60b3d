"""The workers: threads that block, each with one host at a time.

A worker that raises costs its host an `internal_error` and itself its place: the next loop takes it. So N tasks in
are N reports out, always.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from spyder.model.outcomes import Status
from spyder.model.records import Outcome, Report, Task, rfc3339
from spyder.runtime.bounded_queue import BoundedQueue, Closed

SWITCH_INTERVAL_S: Final = 0.05
"""How long a thread may keep the interpreter lock while others want it. With hundreds of threads the default of 5 ms
forces fifty hand-overs a host; ten times that saves 10 to 20 % of the CPU (`bench/README.md`)."""


@dataclass(frozen=True, slots=True)
class WorkerFault:
    """A fault of our own, for the log."""

    host: str
    error: str
    trace: str


class WorkerPool:
    """So many loops of: take a task, probe it, hand the report on."""

    def __init__(
        self,
        workers: int,
        *,
        tasks: BoundedQueue[Task],
        probe: Callable[[Task], Report],
        put: Callable[[Report], None],
        on_fault: Callable[[WorkerFault], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._tasks = tasks
        self._probe = probe
        self._put = put
        self._on_fault = on_fault
        self._wall_clock = wall_clock
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._running = 0
        self._faults = 0
        self._idle = threading.Condition(self._lock)
        self._put_failure: BaseException | None = None

    @property
    def faults(self) -> int:
        """Faults of our own so far."""
        return self._faults

    @property
    def failure(self) -> BaseException | None:
        """Why reports could not be handed on, if so: the workers have then stopped."""
        return self._put_failure

    def start(self) -> None:
        """Start every worker."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        with self._lock:
            self._running = self._workers
        for _ in range(self._workers):
            self._launch()

    def join(self, budget_s: float | None = None) -> int:
        """Wait until all workers have ended, which they do when the tasks are closed and done.

        Returns the number of workers that are still at it.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0, budget_s)
            running = self._running
        self._executor.shutdown(wait=False)
        return running

    def _launch(self) -> None:
        self._executor.submit(self._work).add_done_callback(self._ended)

    def _work(self) -> None:
        """Probe until the tasks are over."""
        while True:
            try:
                task = self._tasks.take()
            except Closed:
                return
            try:
                report = self._probe(task)
            except BaseException as error:
                self._put_report(self._faulted(task, error))
                raise
            self._put_report(report)

    def _put_report(self, report: Report) -> None:
        try:
            self._put(report)
        except BaseException as error:
            self._put_failure = error
            self._tasks.close(discard=True)
            raise

    def _faulted(self, task: Task, error: BaseException) -> Report:
        fault = WorkerFault(task.host, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
        with self._lock:
            self._faults += 1
        self._on_fault(fault)
        ended = Status.INTERNAL_ERROR
        return Report(
            task,
            Outcome(task.host, rfc3339(self._wall_clock()), ended, ended, ended, ended, detail=fault.error),
        )

    def _ended(self, loop: Future[None]) -> None:
        """Replace a worker that raised; note one that is done."""
        if not loop.cancelled() and loop.exception() is not None and self._put_failure is None:
            try:
                self._launch()
            except RuntimeError:  # the executor is shutting down
                pass
            else:
                return
        with self._idle:
            self._running -= 1
            self._idle.notify_all()
