"""The web half of a visit: robots.txt, root page and certificate over one connection.

Every connection goes to an address that was resolved by us and allowed by policy at that moment; every redirect is a
new decision (scope, address, robots, pace).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from spyder.model.names import apex
from spyder.model.outcomes import Status
from spyder.model.robots import RobotsDecision, RobotsFile
from spyder.net.http import Connection, Dialer, Endpoint, Response, StaleConnection, TransportError
from spyder.probe.page import Target, redirect_target

_MAX_ADDRESSES_TRIED: Final = 4
"""Addresses of a host that are dialled before we give up: two each of two families are common."""
_ROBOTS_REDIRECTS: Final = 5
"""RFC 9309, section 2.3.1.2. Not a setting: what is beyond counts as no file, so fewer would allow more."""
_FINAL: Final = frozenset({Status.TLS_FAILED, Status.BUDGET_SPENT})
"""No other address is tried after these: the host is there and speaks, and would say the same; or there is no time."""


class RobotsDeciding(Protocol):
    """What judges; see `spyder.policy.robots.RobotsPolicy.decide`."""

    def __call__(self, host: str, path: str, fetch: Callable[[], RobotsFile], *, timeout_s: float) -> RobotsDecision:
        """Return whether a path of an authority may be fetched; calls `fetch` unless the answer is known."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What policy says, as callables handed in by the composition root."""

    in_scope: Callable[[str], Status]
    """`ok`, or why a host is left alone."""
    may_dial: Callable[[str], bool]
    """Whether an address may be dialled."""
    decide_robots: RobotsDeciding
    wait_turn: Callable[[str, float], bool]
    """Blocks until a request to a host is due; False where that is after the deadline."""


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Ports and caps."""

    port_https: int = 443
    port_http: int = 80
    max_redirects: int = 5
    body_max_bytes: int = 512 * 1024
    robots_max_bytes: int = 500 * 1024 + 1
    """One byte beyond what is judged, so that a longer file is seen to be longer."""


class Refused(Exception):
    """A stage ended before it could be tried; `status` says why."""

    def __init__(self, status: Status, detail: str | None = None, redirect_to: str | None = None) -> None:
        super().__init__(detail or status)
        self.status = status
        self.detail = detail
        self.redirect_to = redirect_to


@dataclass(slots=True)
class Site:
    """One host as this visit sees it: its addresses, and its HTTPS connection or why there is none."""

    host: str
    addresses: Sequence[str]
    connection: Connection | None = None
    fault: TransportError | Refused | None = None
    """Why HTTPS failed, once it was tried."""
    connect_ms: int = 0

    def close(self) -> None:
        """Close the connection; may be called twice."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class WebClient:
    """Fetches for one visit. Belongs to one worker; `close()` ends all that it opened."""

    def __init__(
        self,
        dialer: Dialer,
        rules: Rules,
        limits: WebLimits,
        *,
        resolve_addresses: Callable[[str, float], Iterable[str]],
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialer = dialer
        self._rules = rules
        self._limits = limits
        self._resolve_addresses = resolve_addresses
        self._deadline = deadline
        self._clock = clock
        self._sites: dict[str, Site] = {}

    def site(self, host: str, addresses: Iterable[str]) -> Site:
        """Return the site of a host with those of its addresses that may be dialled.

        Raises:
            Refused: address_blocked.
        """
        allowed = [address for address in addresses if self._rules.may_dial(address)]
        if not allowed:
            raise Refused(Status.ADDRESS_BLOCKED, f"no address of {host} may be dialled")
        site = self._sites[host] = Site(host, allowed[:_MAX_ADDRESSES_TRIED])
        return site

    def close(self) -> None:
        """Close every connection of the visit."""
        for site in self._sites.values():
            site.close()

    def may_fetch(self, site: Site, path: str, scheme: str = "https") -> RobotsDecision:
        """Ask robots.txt about a path, fetching it unless it is known.

        Raises:
            TransportError, Refused: budget_spent, which is about this visit alone, and so is not kept as an answer.
        """
        return self._rules.decide_robots(
            f"{scheme}://{site.host}",
            path,
            lambda: self._fetch_robots(site, scheme),
            timeout_s=max(self._deadline - self._clock(), 0.0),
        )

    def secure(self, site: Site) -> Connection:
        """Return the site's HTTPS connection, made now if need be.

        Raises:
            VerificationError, TransportError, Refused: as when it was first tried.
        """
        if site.connection is not None and site.connection.reusable:
            return site.connection
        if site.fault is not None:
            raise site.fault
        site.close()
        started = self._clock()
        try:
            site.connection = self._dial(site, tls=True)
        except (TransportError, Refused) as error:
            site.fault = error
            raise
        finally:
            site.connect_ms += round((self._clock() - started) * 1000)
        return site.connection

    def unverified_certificate(self, site: Site) -> bytes | None:
        """Shake hands once more without verification, only to see the certificate.

        Raises:
            TransportError, Refused: the second handshake failed as well.
        """
        connection = self._dial(site, tls=True, verify=False)
        try:
            return connection.certificate
        finally:
            connection.close()

    def page(self, site: Site) -> tuple[Response, str]:
        """Fetch the root page of a site that robots.txt allows; return the last answer and its URL.

        Redirects are followed within the registrable domain.

        Raises:
            Refused: redirected, http_error (too many redirects), or a hop's own refusal.
            TransportError: the fetch failed.
        """
        target = Target("https", site.host, None, "/")
        for left in range(self._limits.max_redirects, -1, -1):
            response = self._get(site, target, self._limits.body_max_bytes)
            hop = redirect_target(response, target.url)
            if hop is None:
                return response, target.url
            if left:
                site = self._follow(site, hop)
                target = hop
        raise Refused(Status.HTTP_ERROR, f"more than {self._limits.max_redirects} redirects")

    def _follow(self, site: Site, hop: Target) -> Site:
        """Decide on a redirect, and return the site to ask next."""
        if apex(hop.host) != apex(site.host) or hop.port not in (None, self._port(hop.scheme)):
            raise Refused(Status.REDIRECTED, f"redirects to {hop.url}", hop.host)
        if hop.host != site.host:
            site = self._sites.get(hop.host) or self._admit(hop.host)
        decision = self.may_fetch(site, hop.path, hop.scheme)
        if not decision.allowed:
            raise Refused(decision.status, f"redirects to {hop.url}: {decision.line or 'no robots.txt'}", hop.host)
        return site

    def _admit(self, host: str) -> Site:
        """Resolve and judge a host that a redirect names."""
        verdict = self._rules.in_scope(host)
        if verdict is not Status.OK:
            raise Refused(verdict, f"redirects to {host}", host)
        return self.site(host, self._resolve_addresses(host, self._deadline))

    def _get(self, site: Site, target: Target, max_body_bytes: int) -> Response:
        if target.scheme == "https":
            try:
                return self.secure(site).get(target.path, max_body_bytes=max_body_bytes, deadline=self._deadline)
            except StaleConnection:  # it was closed while it was idle: once more, on a new one
                return self.secure(site).get(target.path, max_body_bytes=max_body_bytes, deadline=self._deadline)
        connection = self._dial(site, tls=False)
        try:
            return connection.get(target.path, max_body_bytes=max_body_bytes, deadline=self._deadline)
        finally:
            connection.close()

    def _dial(self, site: Site, *, tls: bool, verify: bool = True) -> Connection:
        """Connect to the first address that answers, in its turn."""
        if not self._rules.wait_turn(site.host, self._deadline):
            raise Refused(Status.BUDGET_SPENT, "our turn at the host comes after its budget")
        port = self._limits.port_https if tls else self._limits.port_http
        failure: TransportError | None = None
        for address in site.addresses:
            try:
                return self._dialer.open(
                    site.host, Endpoint(address, port, tls), deadline=self._deadline, verify=verify
                )
            except TransportError as error:
                if error.status in _FINAL:
                    raise
                failure = error
        raise failure or Refused(Status.CONNECT_FAILED, "no address")

    def _fetch_robots(self, site: Site, scheme: str) -> RobotsFile:
        """Fetch robots.txt over HTTPS, or over HTTP where HTTPS has no answer (or was not asked for)."""
        for tried in ("https", "http") if scheme == "https" else ("http",):
            try:
                return self._robots_from(site, Target(tried, site.host, None, "/robots.txt"))
            except (TransportError, Refused) as error:
                if error.status is Status.BUDGET_SPENT:
                    raise
        return RobotsFile(None)

    def _robots_from(self, site: Site, target: Target) -> RobotsFile:
        """Fetch one robots.txt, following up to five redirects, also to other hosts (RFC 9309, 2.3.1.2)."""
        for left in range(_ROBOTS_REDIRECTS, -1, -1):
            response = self._get(site, target, self._limits.robots_max_bytes)
            hop = redirect_target(response, target.url)
            if hop is None or not left:
                break
            if hop.port not in (None, self._port(hop.scheme)):
                raise Refused(Status.REDIRECTED, f"robots.txt redirects to {hop.url}, port {hop.port}")
            site = self._sites.get(hop.host) or self._admit(hop.host)
            target = hop
        if response.truncated and len(response.body) < self._limits.robots_max_bytes:
            return RobotsFile(None)  # not cut by us: what is missing may be what forbids
        return RobotsFile(response.status, response.body, response.content_type or None)

    def _port(self, scheme: str) -> int:
        return self._limits.port_https if scheme == "https" else self._limits.port_http
