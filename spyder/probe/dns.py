"""The DNS collector: all record types of a host asked at once, one wait, and what they say turned into edges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from spyder.model.names import apex
from spyder.model.outcomes import Status
from spyder.model.records import EdgeType
from spyder.net.dns.wire import Answer, Question, RdataType
from spyder.probe.findings import Findings

_OF_THE_HOST: Final = (RdataType.A, RdataType.AAAA, RdataType.NS, RdataType.MX, RdataType.TXT)
_FAILURES: Final = frozenset({Status.TIMEOUT, Status.SERVFAIL, Status.REFUSED, Status.ALIAS_LOOP})


class Resolving(Protocol):
    """What answers the questions; see `spyder.net.dns.resolver.Resolver.resolve`."""

    def __call__(self, questions: Sequence[Question], *, deadline: float) -> list[Answer]:
        """Ask all questions at once; answers in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class DnsFindings:
    """What the rest of the visit needs to know of the answers."""

    status: Status
    addresses: tuple[str, ...]
    """In the order in which they are tried: IPv4 before IPv6."""
    errors: Mapping[str, str]
    """Record types whose query failed, where the stage as a whole did not fail in the same way."""
    detail: str | None


def collect_dns(host: str, resolve: Resolving, findings: Findings, *, deadline: float) -> DnsFindings:
    """Ask for A, AAAA, NS, MX and TXT of a host, and for NS of its registrable domain, all in flight at once.

    The name servers of the registrable domain are recorded, for it, only where the host has none of its own:
    they are those of its zone, unless a zone is cut in between.
    """
    questions = [Question(host, rdtype) for rdtype in _OF_THE_HOST]
    parent = apex(host)
    if parent != host:
        questions.append(Question(parent, RdataType.NS))
    answers = resolve(questions, deadline=deadline)
    findings.observe_now()
    ipv4, ipv6, name_servers, exchangers, *_ = answers
    findings.add_chain(_longest([answer.aliases for answer in answers[:5]]))
    addresses = ipv4.records + ipv6.records
    findings.add_addresses(addresses)
    own_name_servers = () if name_servers.aliases else name_servers.records
    findings.add_names(EdgeType.USES_NS, own_name_servers)
    if parent != host and not own_name_servers and not answers[5].aliases:
        findings.add_names(EdgeType.USES_NS, answers[5].records, source=parent)
    findings.add_names(EdgeType.USES_MX, exchangers.records)
    status = _stage_status(ipv4, ipv6)
    errors = {
        answer.question.rdtype.name: answer.status.value
        for answer in (answers[:5] if own_name_servers else reversed(answers))  # the host's own beat its apex's
        if answer.status in _FAILURES and answer.status is not status
    }
    detail = next((answer.detail for answer in (ipv4, ipv6) if answer.detail and answer.status is status), None)
    return DnsFindings(status, addresses, errors, detail)


def _longest(chains: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the longest of the chains: an answer that failed has none."""
    return max(chains, key=len)


def _stage_status(ipv4: Answer, ipv6: Answer) -> Status:
    """Return `ok` where there is an address, else a failure before an honest no."""
    if ipv4.records or ipv6.records:
        return Status.OK
    for answer in (ipv4, ipv6):
        if answer.status in _FAILURES:
            return answer.status
    return Status.NXDOMAIN if Status.NXDOMAIN in (ipv4.status, ipv6.status) else Status.NODATA
