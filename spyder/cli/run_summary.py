"""What a run came to: counted by the workers, shown as progress and as a summary at the end."""

import threading
import time
from collections import Counter
from collections.abc import Callable

from spyder.model.records import Report

_STAGES = ("dns", "robots", "http", "tls")


class RunSummary:
    """Counts reports and lines. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._outcomes: dict[str, Counter[str]] = {stage: Counter() for stage in _STAGES}
        self._edges: Counter[str] = Counter()
        self._hosts = 0
        self.rejected = 0
        self.duplicates = 0

    def note(self, report: Report) -> None:
        """Count one report."""
        outcome = report.outcome
        with self._lock:
            self._hosts += 1
            for stage, counter in self._outcomes.items():
                counter[getattr(outcome, stage)] += 1
            self._edges.update(edge.type for edge in report.edges)

    @property
    def hosts(self) -> int:
        """Hosts that have an outcome."""
        return self._hosts

    @property
    def left_out(self) -> int:
        """Lines that made no task."""
        return self.rejected + self.duplicates

    def rate(self) -> float:
        """Return hosts per second since the start."""
        return self._hosts / max(self._clock() - self._started, 1e-9)

    def text(self) -> str:
        """Return the summary for people, a few lines."""
        with self._lock:
            elapsed_s = max(self._clock() - self._started, 1e-9)
            lines = [f"{self._hosts:,} hosts in {elapsed_s:.1f} s, {self._hosts / elapsed_s:.1f} a second"]
            if self.left_out:
                lines.append(f"lines left out: {self.rejected:,} rejected, {self.duplicates:,} duplicates")
            for stage, counter in self._outcomes.items():
                lines.append(f"{stage + ':':8}" + _listed(counter))
            lines.append("edges:  " + (_listed(self._edges) or "none"))
        return "\n".join(lines)


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())
