"""What is said about robots.txt between who fetches it and who judges it (RFC 9309)."""

from dataclasses import dataclass

from spyder.model.outcomes import Status


@dataclass(frozen=True, slots=True)
class RobotsFile:
    """What a fetch of robots.txt brought."""

    status: int | None
    """The HTTP status after redirects; None where no answer could be had."""
    body: bytes = b""
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class RobotsDecision:
    """Whether a path may be fetched, and why."""

    allowed: bool
    status: Status
    """`ok`, `robots_denied` or `robots_unreachable`."""
    line: str | None = None
    """The line of the file that decided, for people; None where no rule matched."""
    crawl_delay_s: float | None = None
