"""One visit: what is done to one host, in the order of `docs/architecture.md`; one report comes out of it.

Runs on a worker thread, blocks it for at most the host's budget, and raises only for faults of our own.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spyder.model.outcomes import Status
from spyder.model.records import EdgeType, Outcome, Report, Task
from spyder.net.dns.wire import Question, RdataType
from spyder.net.http import Dialer, Response, TransportError, VerificationError
from spyder.probe.certificate import certificate_node
from spyder.probe.dns import Resolving, collect_dns
from spyder.probe.findings import Findings
from spyder.probe.page import is_html, outside_hosts
from spyder.probe.web import Refused, Rules, Site, WebClient, WebLimits


@dataclass(frozen=True, slots=True)
class Identity:
    """Who observes: both end up in every edge."""

    probe_id: str
    run_id: str


class Prober:
    """Probes hosts. Thread-safe: holds only what all visits share."""

    def __init__(
        self,
        *,
        identity: Identity,
        resolve: Resolving,
        dialer: Dialer,
        rules: Rules,
        limits: WebLimits,
        dns_budget_s: float,
        host_budget_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._resolve = resolve
        self._dialer = dialer
        self._rules = rules
        self._limits = limits
        self._dns_budget_s = dns_budget_s
        self._host_budget_s = host_budget_s
        self._clock = clock
        self._wall_clock = wall_clock

    def probe(self, task: Task) -> Report:
        """Visit one host and return all that it yielded."""
        started = self._clock()
        deadline = started + self._host_budget_s
        findings = Findings(
            task.host,
            probe_id=self._identity.probe_id,
            run_id=self._identity.run_id,
            wall_clock=self._wall_clock,
        )
        dns = collect_dns(task.host, self._resolve, findings, deadline=min(deadline, started + self._dns_budget_s))
        resolved = self._clock()
        stages = _Stages(dns=dns.status, detail=dns.detail)
        verdict = self._rules.in_scope(task.host)
        if verdict is not Status.OK:
            stages.end_all(verdict)
        elif dns.addresses:
            self._visit_web(task.host, dns.addresses, findings, stages, deadline)
        outcome = Outcome(
            host=task.host,
            observed_at=findings.observe_now(),
            dns=stages.dns,
            robots=stages.robots,
            http=stages.http,
            tls=stages.tls,
            elapsed_ms=round((self._clock() - started) * 1000),
            dns_ms=round((resolved - started) * 1000),
            robots_ms=stages.robots_ms,
            http_ms=stages.http_ms,
            tls_ms=stages.tls_ms,
            http_status=stages.http_status,
            redirect_to=stages.redirect_to,
            dns_errors=dict(dns.errors),
            detail=stages.detail,
        )
        return findings.report(task, outcome)

    def _visit_web(
        self, host: str, addresses: Iterable[str], findings: Findings, stages: "_Stages", deadline: float
    ) -> None:
        client = WebClient(
            self._dialer,
            self._rules,
            self._limits,
            resolve_addresses=self._resolve_addresses,
            deadline=deadline,
            clock=self._clock,
        )
        try:
            site = client.site(host, addresses)
        except Refused as refusal:
            stages.end_all(refusal.status, refusal.detail)
            return
        try:
            self._visit_site(client, site, findings, stages)
        finally:
            stages.tls_ms = site.connect_ms
            client.close()

    def _visit_site(self, client: WebClient, site: Site, findings: Findings, stages: "_Stages") -> None:
        asked = self._clock()
        try:
            decision = client.may_fetch(site, "/")
        except (TransportError, Refused) as error:
            stages.robots, stages.detail = error.status, error.detail
            return
        finally:
            stages.robots_ms = round((self._clock() - asked) * 1000)
        stages.robots = decision.status
        if not decision.allowed:
            stages.detail = decision.line or (str(site.fault) if site.fault else None)
            # the handshake that failed for the certificate said nothing about robots.txt, and asks for no resource
            if decision.status is Status.ROBOTS_DENIED or not isinstance(site.fault, VerificationError):
                return
        try:
            der = client.secure(site).certificate
        except VerificationError as error:
            self._keep_unverified(client, site, error.detail, findings, stages)
        except (TransportError, Refused) as error:
            stages.http = stages.tls = error.status
            stages.detail = error.detail
        else:
            stages.tls = Status.OK
            self._keep_certificate(der, None, findings, stages)
            self._read_page(client, site, findings, stages)

    def _keep_unverified(
        self, client: WebClient, site: Site, reason: str, findings: Findings, stages: "_Stages"
    ) -> None:
        """Keep a certificate that did not verify, and why; the page of such a host is not read."""
        stages.http = stages.tls = Status.TLS_FAILED
        stages.detail = reason
        try:
            self._keep_certificate(client.unverified_certificate(site), reason, findings, stages)
        except (TransportError, Refused) as error:
            stages.detail = f"{reason}; without verification: {error.detail}"

    def _keep_certificate(
        self, der: bytes | None, verify_error: str | None, findings: Findings, stages: "_Stages"
    ) -> None:
        node = certificate_node(der, verify_error=verify_error) if der else None
        if node is None:
            stages.detail = "the certificate holds no public key that can be found"
            return
        findings.observe_now()
        findings.add_certificate(node)

    def _read_page(self, client: WebClient, site: Site, findings: Findings, stages: "_Stages") -> None:
        started = self._clock()
        try:
            response, url = client.page(site)
        except TransportError as error:
            stages.http, stages.detail = error.status, error.detail
        except Refused as refusal:
            stages.http, stages.detail, stages.redirect_to = refusal.status, refusal.detail, refusal.redirect_to
        else:
            stages.http_status = response.status
            stages.http = _page_status(response)
            if stages.http is Status.OK:
                findings.observe_now()
                findings.add_names(EdgeType.LINKS_TO, outside_hosts(response, host=site.host, page_url=url))
        stages.http_ms = round((self._clock() - started) * 1000)

    def _resolve_addresses(self, host: str, deadline: float) -> list[str]:
        """Resolve the host of a redirect."""
        questions = [Question(host, RdataType.A), Question(host, RdataType.AAAA)]
        answers = self._resolve(questions, deadline=min(deadline, self._clock() + self._dns_budget_s))
        return [address for answer in answers for address in answer.records]


@dataclass(slots=True)
class _Stages:
    """How far the visit has come: what the outcome is made of."""

    dns: Status
    robots: Status = Status.SKIPPED
    http: Status = Status.SKIPPED
    tls: Status = Status.SKIPPED
    robots_ms: int = 0
    http_ms: int = 0
    tls_ms: int = 0
    http_status: int | None = None
    redirect_to: str | None = None
    detail: str | None = None

    def end_all(self, status: Status, detail: str | None = None) -> None:
        """End every stage after DNS for one reason."""
        self.robots = self.http = self.tls = status
        self.detail = detail or self.detail


def _page_status(response: Response) -> Status:
    if not 200 <= response.status < 300:
        return Status.HTTP_ERROR
    return Status.OK if is_html(response) else Status.NOT_HTML
