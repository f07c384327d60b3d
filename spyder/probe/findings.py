"""What one visit has found so far: nodes and edges, each once, with the time at which it was observed.

Owned by the worker that probes the host. Whether something was found before by another visit is not known here:
that is the outbox's business.
"""

import time
from collections.abc import Callable, Iterable
from itertools import pairwise

from spyder.model.names import apex
from spyder.model.records import Edge, EdgeType, NodeCert, NodeDomain, NodeIP, Outcome, Report, Task, rfc3339


class Findings:
    """Collects the nodes and edges of one host."""

    def __init__(self, host: str, *, probe_id: str, run_id: str, wall_clock: Callable[[], float] = time.time) -> None:
        self.host = host
        self._probe_id = probe_id
        self._run_id = run_id
        self._wall_clock = wall_clock
        self._now = ""
        self._domains: dict[str, NodeDomain] = {}
        self._ips: dict[str, NodeIP] = {}
        self._certs: dict[str, NodeCert] = {}
        self._edges: dict[tuple[str, str, str], Edge] = {}
        self.observe_now()
        self._add_domain(host)

    def observe_now(self) -> str:
        """Take the present moment as the time of what is added from here on, and return it."""
        self._now = rfc3339(self._wall_clock())
        return self._now

    def add_names(self, edge: EdgeType, names: Iterable[str], *, source: str | None = None) -> None:
        """Add an edge from the source (the host itself by default) to each name, and the names' nodes."""
        origin = source or self.host
        for name in names:
            if name and name != origin:
                self._add_domain(origin)
                self._add_domain(name)
                self._add_edge(edge, origin, name)

    def add_chain(self, hops: Iterable[str]) -> None:
        """Add the aliases of the host, one edge a hop."""
        for alias, canonical in pairwise((self.host, *hops)):
            self.add_names(EdgeType.ALIAS_OF, (canonical,), source=alias)

    def add_addresses(self, addresses: Iterable[str]) -> None:
        """Add the host's addresses."""
        for address in addresses:
            self._ips.setdefault(address, NodeIP(address, self._now, self._now))
            self._add_edge(EdgeType.RESOLVES_TO, self.host, address)

    def add_certificate(self, certificate: NodeCert) -> None:
        """Add the host's leaf certificate."""
        self._certs[certificate.spki_sha256] = certificate
        self._add_edge(EdgeType.USES_CERT, self.host, certificate.spki_sha256)

    def report(self, task: Task, outcome: Outcome) -> Report:
        """Return everything, with the outcome."""
        return Report(
            task,
            outcome,
            tuple(self._domains.values()),
            tuple(self._ips.values()),
            tuple(self._certs.values()),
            tuple(self._edges.values()),
        )

    def _add_domain(self, host: str) -> None:
        if host not in self._domains:
            self._domains[host] = NodeDomain(host, apex(host), self._now, self._now)

    def _add_edge(self, kind: EdgeType, source: str, target: str) -> None:
        key = (kind, source, target)
        if key not in self._edges:
            self._edges[key] = Edge(kind, source, target, self._now, self._probe_id, self._run_id)
