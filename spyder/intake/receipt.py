"""The receipt of a domain file: what became of every line.

The last word of the intake. Pure values; what is counted here is counted by the ledger, under the names of `Fate`.

A line says nothing (blank, a comment, a CSV header: *ignored*), or it says one thing, or several (a hosts file, a list
between commas). Each thing that a line says ends in exactly one `Fate`. So

    lines + further_hosts = ignored + accepted + duplicates + excluded + opted_out + rejected + set_aside

where `further_hosts` counts what lines say beyond their first thing; it is 0 for one host a line, and the right side
is then the number of lines.
"""

import base64
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from spyder.intake.lines import Entry
from spyder.model.outcomes import Status
from spyder.model.records import Outcome

MAX_REJECTED_LINES: Final = 1000
"""Rejected lines that a receipt names; the others are counted."""
MAX_SET_ASIDE_LINES: Final = 1000

REASONS: Final = {
    "truncated": "packed data end too soon; what came before was probed",
    "corrupt": "packed data are wrong, or want more than 128 MiB of memory; what came before was probed",
    "too_large": "more bytes than the limit: a plain file is not read at all, a packed one up to the limit",
    "unreadable": "the disk could not read it, or could not read on",
    "changed": "somebody wrote to it after it was taken; what was read was probed",
    "no_hosts": "it has lines, and not one names a host",
    "not_regular": "what was taken is a directory, a link, a pipe, a socket or a device",
}
"""Every reason for a file to end in `failed/`, and what it means."""


class Fate(StrEnum):
    """How a thing that a line says can end."""

    ACCEPTED = "accepted"
    """It was probed: it has an outcome, whatever that is."""
    DUPLICATES = "duplicates"
    """The host stands further up in the same file."""
    EXCLUDED = "excluded"
    """Its outcome says `excluded_tld`."""
    OPTED_OUT = "opted_out"
    """Its outcome says `opted_out`."""
    REJECTED = "rejected"
    """There is no host in it, for a reason out of `lines.REASONS`."""
    SET_ASIDE = "set_aside"
    """It brought the process down twice while nothing else was being probed."""


LINES: Final = "lines"
"""Under this name the ledger counts the lines that say something."""
_STAGES: Final = ("dns", "robots", "http", "tls")


def fate_of(outcome: Outcome) -> Fate:
    """Return the fate of a host that has an outcome."""
    statuses = (outcome.dns, outcome.robots, outcome.http, outcome.tls)
    if Status.OPTED_OUT in statuses:
        return Fate.OPTED_OUT
    return Fate.EXCLUDED if Status.EXCLUDED_TLD in statuses else Fate.ACCEPTED


def counted(outcome: Outcome) -> tuple[str, ...]:
    """Return the names under which an outcome is counted: its fate, and the status of every stage."""
    return (
        fate_of(outcome),
        f"dns.{outcome.dns}",
        f"robots.{outcome.robots}",
        f"http.{outcome.http}",
        f"tls.{outcome.tls}",
    )


def name_fields(key: str, name: str) -> dict[str, str]:
    """Return a file's name as JSON fields: as it is, and in base64 too where it is not UTF-8."""
    raw = os.fsencode(name)
    try:
        return {key: raw.decode("utf-8")}
    except UnicodeDecodeError:
        shown = raw.decode("utf-8", "backslashreplace")
        return {key: shown, f"{key}_base64": base64.b64encode(raw).decode("ascii")}


def name_of(key: str, fields: Mapping[str, Any]) -> str:
    """Return the name that `name_fields` was given; raise `KeyError` or `ValueError` where there is none."""
    if f"{key}_base64" in fields:
        return os.fsdecode(base64.b64decode(fields[f"{key}_base64"], validate=True))
    return os.fsdecode(fields[key].encode("utf-8"))


def shown(name: str) -> str:
    """Return a file's name for a log or a terminal: one line of printable characters."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class NamedLines:
    """The lines that a receipt names. One thread's."""

    def __init__(self) -> None:
        self.rejected: list[dict[str, object]] = []
        self.set_aside: list[dict[str, object]] = []

    def reject(self, entry: Entry) -> None:
        """Name a rejected line, while there is room."""
        if len(self.rejected) < MAX_REJECTED_LINES:
            self.rejected.append({"line": entry.line, "reason": entry.reason, "text": entry.text})

    def put_aside(self, entry: Entry) -> None:
        """Name a line that was set aside, while there is room."""
        if len(self.set_aside) < MAX_SET_ASIDE_LINES:
            self.set_aside.append({"line": entry.line, "host": entry.host})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file comes from, and which it is."""

    claim_id: str
    name: str
    """As it was called in the inbox."""
    size: int
    arrived: str
    """When it was taken. This and all other times: RFC 3339, UTC."""
    run_id: str
    """The run that took it."""
    sha256: str | None
    """Of the file as it is, packed or not, in hexadecimal; None where it could not be read, or was not."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a file and of every line in it."""

    origin: Origin
    reason: str | None
    """Why it is in `failed/` (a key of `REASONS`); None for a file in `done/`."""
    detail: str | None
    file: str
    """Its name there; the receipt stands beside it, with `.receipt.json` at the end."""
    run_ids: tuple[str, ...]
    """Every run that worked on it, in that order."""
    started: str
    finished: str
    lines: int
    counts: Mapping[str, int]
    rejected_lines: tuple[Mapping[str, object], ...]
    set_aside_lines: tuple[Mapping[str, object], ...]

    @property
    def place(self) -> str:
        """The folder beside the inbox's waiting files in which the file ends."""
        return "failed" if self.reason else "done"

    def fields(self) -> dict[str, Any]:
        """Return the receipt as it is written."""
        origin = asdict(self.origin)
        totals = {str(fate): self.counts.get(fate, 0) for fate in Fate}
        return {
            "schema_version": 1,
            **name_fields("name", origin.pop("name")),
            "result": self.place,
            "reason": self.reason,
            "detail": self.detail,
            **name_fields("file", self.file),
            **origin,
            "run_ids": self.run_ids,
            "started": self.started,
            "finished": self.finished,
            "lines": self.lines,
            "ignored": self.lines - self.counts.get(LINES, 0),
            **totals,
            "further_hosts": sum(totals.values()) - self.counts.get(LINES, 0),
            "outcomes": {stage: _under(stage, self.counts) for stage in _STAGES},
            "rejected_by_reason": _under(Fate.REJECTED, self.counts),
            "rejected_lines": self.rejected_lines,
            "set_aside_lines": self.set_aside_lines,
        }

    def to_json(self) -> bytes:
        """Return the receipt as JSON in ASCII."""
        return json.dumps(self.fields(), indent=1).encode("ascii") + b"\n"


def _under(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {key.removeprefix(f"{prefix}."): counts[key] for key in sorted(counts) if key.startswith(f"{prefix}.")}


def hosts_in(counts: Counter[str]) -> int:
    """Return how many of the things counted were hosts."""
    return sum(counts[fate] for fate in Fate if fate is not Fate.REJECTED)
