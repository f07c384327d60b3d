"""Numbered reports, and which numbers are in a batch: how the long tests know whether anything is lost.

Each number is a host of its own (one outcome, one edge), and shares its edge's target, a node that dedup lets through
once, with the 49 others of its group. A number is there when its outcome, its edge and its group's node are.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from spyder.model.outcomes import Status
from spyder.model.records import Edge, EdgeType, NodeDomain, Outcome, Report, Task

GROUP = 50
_SEEN = "2026-01-01T00:00:00.000000Z"


def report_of(number: int) -> Report:
    """Return the report of a number; its task's origin is the number."""
    host, group = f"n{number}.test", f"g{number // GROUP}.test"
    return Report(
        Task(host, number),
        Outcome(host, _SEEN, Status.OK, Status.OK, Status.OK, Status.OK),
        nodes_domain=(NodeDomain(group, group, _SEEN, _SEEN),),
        edges=(Edge(EdgeType.USES_MX, host, group, _SEEN, "probe", "run"),),
    )


class Found:
    """What has arrived, over all batches."""

    def __init__(self) -> None:
        self._outcomes = bytearray()
        self._edges = bytearray()
        self._groups: set[str] = set()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Take in a batch, decoded."""
        for outcome in batch["outcomes"]:
            _mark(self._outcomes, outcome["host"])
        for edge in batch["edges"]:
            _mark(self._edges, edge["source"])
        self._groups.update(node["host"] for node in batch["nodes_domain"])

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return those of the numbers of which anything is missing."""
        return [
            number
            for number in numbers
            if not (
                _marked(self._outcomes, number)
                and _marked(self._edges, number)
                and f"g{number // GROUP}.test" in self._groups
            )
        ]


def _mark(marks: bytearray, host: str) -> None:
    number = int(host[1:].partition(".")[0])
    if number >= len(marks):
        marks.extend(bytes(number + 100_000 - len(marks)))
    marks[number] = 1


def _marked(marks: bytearray, number: int) -> bool:
    return number < len(marks) and marks[number] == 1
