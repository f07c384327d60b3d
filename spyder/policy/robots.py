"""What robots.txt lets us do: one fetch a host, kept for a day.

Place on the path: asked by a worker before it requests a page, and again for each redirect. Called by every worker;
no thread of its own, no sockets: the caller hands over the fetch.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spyder.model.outcomes import Status
from spyder.model.robots import RobotsDecision, RobotsFile
from spyder.net import robots
from spyder.runtime.ttl_cache import CacheStats, SingleFlightCache, WaitTimeout

CACHE_TTL_S = 24 * 3600.0
"""RFC 9309 section 2.4: not longer than 24 hours."""
FAILURE_TTL_S = 300.0

_KIB = 1024


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is kept of a host: its rules, and the reason where they are not from a file of its own."""

    rules: robots.AgentRules
    why: str | None
    reachable: bool


_NO_RULES = _Answer(robots.ALLOW_ALL, None, reachable=True)
"""One object for the many hosts whose file says nothing to us."""


class RobotsPolicy:
    """Verdicts by host, thread-safe.

    `max_entries` bounds the memory: a host counts as one entry, and as one more for every whole KiB of rules that
    hold for us (514 bytes on average in 400 real files, 21 KiB at most), so that hostile files push out others
    rather than grow the cache. At 65,536 that is 64 MiB of rules at worst, and 0.5 KiB beside each entry.
    """

    def __init__(
        self,
        *,
        product_token: str,
        on_error: Literal["deny", "allow"] = "deny",
        cache_ttl_s: float = CACHE_TTL_S,
        failure_ttl_s: float = FAILURE_TTL_S,
        max_entries: int = 65536,
        clock: Callable[[], float],
    ) -> None:
        self._product_token = product_token
        self._allow_on_error = on_error == "allow"
        self._cache_ttl_s = cache_ttl_s
        self._failure_ttl_s = failure_ttl_s
        self._answers: SingleFlightCache[str, _Answer] = SingleFlightCache(
            max_entries, clock=clock, weigh=lambda answer: 1 + len(answer.rules.rules) // _KIB
        )

    def decide(self, host: str, path: str, fetch: Callable[[], RobotsFile], *, timeout_s: float) -> RobotsDecision:
        """Return whether `path` (or a URL) of `host` may be asked for.

        `host` is the key of the cache, any string that stands for scheme and authority (RFC 9309 section 2.3: rules
        hold for those alone). `fetch` runs in this thread if nothing is known of the host and no other thread is
        asking; else this blocks until that thread has the answer, `timeout_s` seconds at most. One who waits in vain
        is denied, whatever `on_error` says: the site has not failed, it has not been heard.

        What `fetch` raises is raised here, and the next thread that waits asks for itself.
        """
        try:
            answer = self._answers.get_or_make(host, lambda: self._ask(fetch), timeout_s=timeout_s)
        except WaitTimeout:
            why = f"robots.txt still awaited after {timeout_s:g} s"
            return RobotsDecision(allowed=False, status=Status.ROBOTS_UNREACHABLE, line=why, crawl_delay_s=None)
        if not answer.reachable:
            return RobotsDecision(self._allow_on_error, Status.ROBOTS_UNREACHABLE, answer.why, None)
        verdict = answer.rules.verdict(path)
        status = Status.OK if verdict.allowed else Status.ROBOTS_DENIED
        return RobotsDecision(verdict.allowed, status, verdict.line or answer.why, verdict.crawl_delay_s)

    def forget(self) -> None:
        """Drop every answer, so that each host is asked again."""
        self._answers.clear()

    def stats(self) -> CacheStats:
        """Return how the cache did: hosts kept, hits, misses (fetches), waits for another's fetch."""
        return self._answers.stats()

    def _ask(self, fetch: Callable[[], RobotsFile]) -> tuple[_Answer, float]:
        answer = _read(fetch(), self._product_token)
        return answer, self._cache_ttl_s if answer.reachable else self._failure_ttl_s


def _read(found: RobotsFile, product_token: str) -> _Answer:
    """Say what a response means (RFC 9309 section 2.3.1).

    429 allows, as every 4xx does by section 2.3.1.3; Google takes it for a server error. A redirect that is left over
    is one beyond the fifth, and counts as no file (section 2.3.1.2).
    """
    status = found.status
    if status is None:
        return _unreachable("robots.txt: no answer")
    if 300 <= status < 500:
        return _no_file(status)
    if not 200 <= status < 300:
        return _unreachable(f"robots.txt: HTTP {status}")
    if robots.looks_like_html(found.body, found.content_type):
        return _unreachable("robots.txt: an HTML page in its place")
    rules = robots.parse(found.body).for_agent(product_token)
    return _NO_RULES if rules is robots.ALLOW_ALL else _Answer(rules, None, reachable=True)


@functools.cache
def _no_file(status: int) -> _Answer:
    """Return the one answer that all hosts with this status (200 at most) share."""
    return _Answer(robots.ALLOW_ALL, f"robots.txt: HTTP {status}", reachable=True)


def _unreachable(why: str) -> _Answer:
    return _Answer(robots.DENY_ALL, why, reachable=False)
