"""What is said about robots.txt between who fetches it and who judges it (RFC 9309)."""

from dataclasses import dataclass

from spyder.model.outcomes import Status


@dataclass(frozen=True, slots=True)
class RobotsFile:
    """What came of asking for robots.txt, redirects followed.

    `status` is the last HTTP status, None where no whole answer came (no connection, no TLS, timeout, a body cut
    short). `body` holds the decoded body and may be cut at a cap: one byte more than the judge will read, so that
    the cut is seen and the line it goes through is dropped.
    """

    status: int | None
    body: bytes = b""
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class RobotsDecision:
    """Whether we may ask for one path of one host, and why.

    `status` is `ok`, `robots_denied` (a rule says no) or `robots_unreachable` (no rules could be had; `allowed` then
    follows the settings). `line` is the rule that decided, or what went wrong, for people. `crawl_delay_s` as the site
    asks, in seconds and unbounded.
    """

    allowed: bool
    status: Status
    line: str | None
    crawl_delay_s: float | None
