"""What every destination is, and what it answers. Pure; any thread."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

DETAIL_CHARS = 300
EXCERPT_CHARS = 500


class ConfigurationError(Exception):
    """A destination cannot be made of these settings; the message names the setting."""


class Verdict(StrEnum):
    """What has become of a batch that was sent. Only `DELIVERED` lets it leave the disk."""

    DELIVERED = "delivered"
    """The destination has it."""
    TRY_LATER = "try_later"
    """It may have it or not: send it again, under the same id, after a while."""
    HOLD = "hold"
    """Our settings are wrong, or the place is: no batch will fare better until a person acts. Park none for it."""
    TOO_LARGE = "too_large"
    """Split it."""
    REFUSED = "refused"
    """This batch was refused for what it is: perhaps poison."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What has become of one sending."""

    verdict: Verdict
    detail: str
    """One printable line for people, at most `DETAIL_CHARS`."""
    http_status: int | None = None
    """Status code of an ingest service's answer (RFC 9110, section 15); None where there was none."""
    retry_after_s: float | None = None
    """How long the other side asks us to wait, 0 to 3600 seconds; None where it does not say."""
    excerpt: str = ""
    """The beginning of the answer's body, printable, at most `EXCERPT_CHARS`; header values of ours are masked."""


class Destination(Protocol):
    """Where batches go. One test suite runs against every kind (`tests/outbox/test_destinations.py`)."""

    def send(self, batch_id: str, payload: bytes) -> Delivery:
        """Send one batch, the JSON object in `payload`, and say what has become of it.

        Blocks, at most for the destination's time limits; standard output alone is waited for as long as its reader
        takes. Thread-safe. Whatever the other side does is a `Delivery`, never an exception. A batch that was sent
        before may be sent again: it keeps its `batch_id`, by which the second copy is dropped.
        """

    def close(self) -> None:
        """Let go of everything. A `send` that still blocks ends at once with `TRY_LATER`; may be called twice."""


def printable(text: str, limit_chars: int) -> str:
    """Return text as one line that is safe in a terminal and a log: control characters are escaped."""
    short = text[: limit_chars + 1]
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in short)
    return line if len(line) <= limit_chars else line[: limit_chars - 1] + "…"


def delivery(verdict: Verdict, detail: str) -> Delivery:
    """Return a verdict of our own, for which there was no answer."""
    return Delivery(verdict, printable(detail, DETAIL_CHARS))
