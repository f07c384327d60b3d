"""What one visit found: each node and edge once, with the moment at which it was observed."""

from collections.abc import Callable

from spyder.model.outcomes import Status
from spyder.model.records import EdgeType, Outcome, Report, Task
from spyder.probe.findings import Findings
from tests.reports import certificate


def findings(host: str = "www.a.test", clock: Callable[[], float] = lambda: 0.0) -> Findings:
    """Return the findings of a visit that has just begun."""
    return Findings(host, probe_id="probe", run_id="run", wall_clock=clock)


def report(found: Findings) -> Report:
    """Return the report of what was found."""
    return found.report(Task(found.host), Outcome(found.host, "", Status.OK))


def edges(found: Findings) -> list[tuple[str, str, str]]:
    """Return the edges as source, type, target."""
    return [(edge.source, str(edge.type), edge.target) for edge in report(found).edges]


def test_the_host_itself_is_a_node_before_anything_is_found() -> None:
    """With its registrable domain."""
    (node,) = report(findings()).nodes_domain
    assert (node.host, node.apex) == ("www.a.test", "a.test")


def test_what_is_found_twice_is_kept_once() -> None:
    """Names, addresses, certificates and edges alike."""
    found = findings()
    for _ in range(2):
        found.add_names(EdgeType.USES_NS, ["ns.b.test"])
        found.add_addresses(["192.0.2.1"])
        found.add_certificate(certificate("key"))
    told = report(found)
    assert (len(told.nodes_domain), len(told.nodes_ip), len(told.nodes_cert), len(told.edges)) == (2, 1, 1, 3)


def test_there_is_no_edge_to_itself_and_none_to_nothing() -> None:
    """A host is not its own exchanger, and the root is no name."""
    found = findings()
    found.add_names(EdgeType.USES_MX, ["www.a.test", ""])
    assert edges(found) == []
    assert len(report(found).nodes_domain) == 1


def test_every_hop_of_a_chain_is_an_edge_and_a_node() -> None:
    """From each name to the next."""
    found = findings()
    found.add_chain(["b.test", "c.test"])
    assert edges(found) == [("www.a.test", "ALIAS_OF", "b.test"), ("b.test", "ALIAS_OF", "c.test")]
    assert [node.host for node in report(found).nodes_domain] == ["www.a.test", "b.test", "c.test"]


def test_a_chain_that_stays_where_it_is_gives_no_edge() -> None:
    """An alias of itself is left out; the rest of the chain is kept."""
    found = findings()
    found.add_chain(["www.a.test", "b.test", "b.test"])
    assert edges(found) == [("www.a.test", "ALIAS_OF", "b.test")]


def test_an_edge_may_be_another_names() -> None:
    """The name servers of the apex are recorded for the apex, which becomes a node."""
    found = findings()
    found.add_names(EdgeType.USES_NS, ["ns.b.test"], source="a.test")
    assert edges(found) == [("a.test", "USES_NS", "ns.b.test")]
    assert "a.test" in [node.host for node in report(found).nodes_domain]


def test_things_have_the_moment_at_which_they_were_observed() -> None:
    """The moment moves when it is told to, and stays for what was added before."""
    now_s = [0.0]
    found = findings(clock=lambda: now_s[0])
    found.add_addresses(["192.0.2.1"])
    now_s[0] = 1.5
    assert found.observe_now() == "1970-01-01T00:00:01.500000Z"
    found.add_addresses(["192.0.2.1", "192.0.2.2"])
    assert [node.first_seen for node in report(found).nodes_ip] == [
        "1970-01-01T00:00:00.000000Z",
        "1970-01-01T00:00:01.500000Z",
    ]
    assert {(edge.probe_id, edge.run_id) for edge in report(found).edges} == {("probe", "run")}
