"""Reports made by hand, for tests of what becomes of them."""

from collections.abc import Iterable

from spyder.model.outcomes import Status
from spyder.model.records import Edge, EdgeType, NodeCert, NodeDomain, NodeIP, Outcome, Report, Task

MOMENT = "2026-01-01T00:00:00.000000Z"


def domain(host: str) -> NodeDomain:
    """Return the node of a host name."""
    return NodeDomain(host, host, MOMENT, MOMENT)


def edge(source: str, target: str, kind: EdgeType = EdgeType.LINKS_TO) -> Edge:
    """Return an edge."""
    return Edge(kind, source, target, MOMENT, "probe", "run")


def certificate(spki: str) -> NodeCert:
    """Return the node of a certificate."""
    return NodeCert(spki, "cn", "issuer", MOMENT, MOMENT, ("a.test",), "01", "00" * 32, "sha256", True, None)


def report(host: str, links: Iterable[str] = (), *, ip: str | None = None, spki: str | None = None) -> Report:
    """Return the report of a host that links to others."""
    links = list(links)
    return Report(
        Task(host),
        Outcome(host, MOMENT, Status.OK, Status.OK, Status.OK, Status.OK),
        [domain(name) for name in (host, *links)],
        [NodeIP(ip, MOMENT, MOMENT)] if ip else [],
        [certificate(spki)] if spki else [],
        [edge(host, link) for link in links],
    )
