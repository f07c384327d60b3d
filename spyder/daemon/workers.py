"""The workers: threads that block, each with one host at a time.

A probe that raises costs its host an `internal_error`, and the worker goes on with the next task. So N tasks in are N
reports out, always. The threads are daemons: one that is stuck cannot keep the process from ending, as it would in a
`ThreadPoolExecutor`, whose threads the interpreter waits for.
"""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
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
        self._ended = threading.Condition()
        self._running = 0
        self._faults = 0
        self._failure: BaseException | None = None

    @property
    def faults(self) -> int:
        """Faults of our own so far."""
        return self._faults

    @property
    def failure(self) -> BaseException | None:
        """Why reports could not be handed on, if so: the workers then stop, and give the tasks up."""
        return self._failure

    def start(self) -> None:
        """Start every worker.

        Raises:
            RuntimeError: the system has no more threads; those that were started wait for tasks.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        for _ in range(self._workers):
            with self._ended:
                self._running += 1
            try:
                threading.Thread(target=self._run, name="worker", daemon=True).start()
            except RuntimeError:
                self._end()
                raise

    def join(self, budget_s: float | None = None) -> int:
        """Wait until all workers have ended, which they do when the tasks are closed and done.

        Returns the number of workers that are still at it. May be called again.
        """
        with self._ended:
            self._ended.wait_for(lambda: not self._running, budget_s)
            return self._running

    def _run(self) -> None:
        """Probe until the tasks are over, or the reports lead nowhere."""
        try:
            with contextlib.suppress(Closed):
                while self._failure is None:
                    task = self._tasks.take()
                    self._put_report(self._report(task))
        finally:
            self._end()

    def _report(self, task: Task) -> Report:
        try:
            return self._probe(task)
        except BaseException as error:  # noqa: BLE001 - every task has an outcome, whatever a probe raises
            return self._faulted(task, error)

    def _put_report(self, report: Report) -> None:
        try:
            self._put(report)
        except BaseException as error:  # noqa: BLE001 - kept in `failure`; whatever it is, the report is lost
            self._failure = self._failure or error
            self._tasks.close(discard=True)

    def _faulted(self, task: Task, error: BaseException) -> Report:
        fault = WorkerFault(task.host, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
        with self._ended:
            self._faults += 1
        with contextlib.suppress(Exception):  # a log that cannot be written costs no outcome
            self._on_fault(fault)
        ended = Status.INTERNAL_ERROR
        return Report(
            task,
            Outcome(task.host, rfc3339(self._wall_clock()), ended, ended, ended, ended, detail=fault.error),
        )

    def _end(self) -> None:
        with self._ended:
            self._running -= 1
            self._ended.notify_all()
