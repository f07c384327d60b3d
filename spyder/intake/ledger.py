"""The ledger of a domain file: which places of it are done, in bounded memory.

Place: between the file that is read and the tasks that are out. The feeder opens places, whoever hears of promises
closes them: thread-safe. No I/O; what `snapshot` returns is written and read back by `spyder.intake.claim`.

A *place* is an `Entry.end`, an offset in the unpacked stream: one line, or one item of a line of more than 64 KiB.
It is done when all that it says is: rejected, a duplicate, or promised in the spool. Offsets, and not ordinal numbers,
because they still mean the same after an upgrade that reads lines differently.

Kept are the places that are open, as ranges, and how far was read: all else before that is done. That is as much as
is in flight, however large the file. Counts are those of the places that are done, and of no others; both are taken
under one lock, so what a restart finds adds up: a place is counted with its last host, or it is open and comes again.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

Range = tuple[int, int, int]
"""First and last open place, and how many there are; no place between them is done."""


class Place:
    """A place that is open. Belongs to its ledger."""

    __slots__ = ("end", "number", "tally", "waiting")

    def __init__(self, end: int, number: int, waiting: int, tally: list[str]) -> None:
        self.end = end
        self.number = number
        self.waiting = waiting
        self.tally = tally


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file has come."""

    read_to: int
    """All places up to here were read; those that are not open are done."""
    line: int
    """The number of the line at `read_to`."""
    open: tuple[Range, ...]
    counts: Mapping[str, int]

    @property
    def low_water(self) -> int:
        """Every place up to this offset is done."""
        return self.open[0][0] - 1 if self.open else self.read_to

    @property
    def lines_done(self) -> int:
        """The number of lines that are done, within a few where lines are longer than 64 KiB."""
        return max(0, self.line - sum(places for _, _, places in self.open))

    def is_done(self, end: int) -> bool:
        """Tell whether a place is done."""
        return end <= self.read_to and not any(first <= end <= last for first, last, _ in self.open)

    def fields(self) -> dict[str, Any]:
        """Return the progress as it is written."""
        return {
            "low_water": self.low_water,
            "read_to": self.read_to,
            "line": self.line,
            "open": self.open,
            "counts": self.counts,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the progress that was written; raise `KeyError`, `TypeError` or `ValueError` for anything else."""
        ranges = tuple((int(first), int(last), int(places)) for first, last, places in fields["open"])
        if any(first > last for first, last, _ in ranges) or sorted(ranges) != list(ranges):
            raise ValueError("the open ranges are not in order")
        counts = {str(key): int(number) for key, number in fields["counts"].items()}
        return cls(int(fields["read_to"]), int(fields["line"]), ranges, counts)


START = Progress(-1, 0, (), {})


class Ledger:
    """Which places are open, and what those that are done count. Thread-safe."""

    def __init__(self, progress: Progress = START) -> None:
        """Go on from there. The file is then read from its beginning, and `is_done` asked of every place."""
        self._lock = threading.Lock()
        self._before = progress
        self._to_reopen = deque(progress.open)
        self._open: dict[int, Place] = {}
        self._counts = Counter(progress.counts)
        self._read_to = -1
        self._line = 0
        self._number = 0
        self._changes = 0

    def is_done(self, end: int) -> bool:
        """Tell whether a place was done before this ledger began. Asked in the order of the file; cheap."""
        if end > self._before.read_to:
            return False
        while self._to_reopen and self._to_reopen[0][1] < end:
            with self._lock:
                self._to_reopen.popleft()
        return not (self._to_reopen and self._to_reopen[0][0] <= end)

    def pass_by(self) -> None:
        """Say that a place which was done was read."""
        self._number += 1

    def open(self, end: int, line: int, *, waiting: int, tally: list[str]) -> Place:
        """Open a place for which so many hosts are out.

        `tally`: what it counts already, under which names. A place that waits for nothing is done at once.
        """
        with self._lock:
            self._number += 1
            self._read_to = end
            self._line = line
            self._changes += 1
            self._reopened(end)
            place = Place(end, self._number, waiting, tally)
            if waiting:
                self._open[end] = place
            else:
                self._counts.update(tally)
        return place

    def _reopened(self, end: int) -> None:
        if self._to_reopen and self._to_reopen[0][0] <= end:
            _, last, places = self._to_reopen[0]
            if end >= last:
                self._to_reopen.popleft()
            else:
                self._to_reopen[0] = end + 1, last, max(places - 1, 1)

    def done(self, place: Place, counted: Iterable[str]) -> None:
        """Say that one host of a place is done."""
        with self._lock:
            place.tally.extend(counted)
            place.waiting -= 1
            if not place.waiting:
                del self._open[place.end]
                self._counts.update(place.tally)
                self._changes += 1

    def end_reading(self) -> None:
        """Say that the file is at its end: what was to be read again and did not come is no more."""
        with self._lock:
            self._to_reopen.clear()

    @property
    def is_empty(self) -> bool:
        """Whether no place is open, nor still to be read again."""
        with self._lock:
            return not self._open and not self._to_reopen

    @property
    def changes(self) -> int:
        """A number that grows with every change."""
        return self._changes

    def snapshot(self) -> Progress:
        """Return how far the file has come at this moment."""
        with self._lock:
            places = [(place.end, place.number) for place in self._open.values()]
            again = tuple(self._to_reopen)
            counts = dict(self._counts)
            read_to = max(self._read_to, self._before.read_to)
            line = max(self._line, self._before.line)
        return Progress(read_to, line, (*_ranges(places), *again), counts)


def _ranges(places: Iterable[tuple[int, int]]) -> list[Range]:
    """Join places that follow one another in the file."""
    ranges: list[Range] = []
    next_number = -1
    for end, number in places:
        if number == next_number:
            ranges[-1] = ranges[-1][0], end, ranges[-1][2] + 1
        else:
            ranges.append((end, end, 1))
        next_number = number + 1
    return ranges
