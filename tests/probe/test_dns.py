"""The DNS collector, over answers made by hand: what they say becomes edges, a status and errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from spyder.model.outcomes import Status
from spyder.model.records import Outcome, Task
from spyder.net.dns.wire import Answer, Question, RdataType
from spyder.probe.dns import DnsFindings, collect_dns
from spyder.probe.findings import Findings

Key = tuple[str, str]


@dataclass
class Table:
    """Answers by name and type; what is not here is `default`."""

    answers: dict[Key, Answer] = field(default_factory=dict)
    default: Status = Status.NODATA
    asked: list[Key] = field(default_factory=list)
    calls: int = 0

    def say(
        self,
        name: str,
        kind: str,
        *records: str,
        status: Status | None = None,
        aliases: Sequence[str] = (),
        detail: str | None = None,
    ) -> None:
        """Give an answer."""
        question = Question(name, RdataType[kind])
        status = status or (Status.OK if records else Status.NODATA)
        self.answers[name, kind] = Answer(question, status, records, tuple(aliases), detail=detail)

    def __call__(self, questions: Sequence[Question], *, deadline: float) -> list[Answer]:
        """Answer all questions."""
        assert deadline == 9.0
        self.calls += 1
        keys = [(question.name, question.rdtype.name) for question in questions]
        self.asked += keys
        return [
            self.answers.get(key, Answer(question, self.default)) for key, question in zip(keys, questions, strict=True)
        ]


@dataclass
class Seen:
    """What the collector made of it."""

    dns: DnsFindings
    edges: set[tuple[str, str, str]]
    nodes: set[str]


def collect(table: Table, host: str = "www.a.test") -> Seen:
    """Run the collector."""
    findings = Findings(host, probe_id="probe", run_id="run")
    dns = collect_dns(host, table, findings, deadline=9.0)
    report = findings.report(Task(host), Outcome(host, ""))
    edges = {(edge.source, str(edge.type), edge.target) for edge in report.edges}
    return Seen(dns, edges, {node.host for node in report.nodes_domain})


def test_all_questions_are_asked_at_once() -> None:
    """Five types of the host and the name servers of its registrable domain, in one call."""
    table = Table()
    collect(table)
    assert table.calls == 1
    of_the_host = [("www.a.test", kind) for kind in ("A", "AAAA", "NS", "MX", "TXT")]
    assert table.asked == [*of_the_host, ("a.test", "NS")]


def test_an_apex_is_not_asked_twice() -> None:
    """Where the host is its registrable domain, five questions do."""
    table = Table()
    collect(table, "a.test")
    assert len(table.asked) == 5


def test_addresses_become_edges_ipv4_first() -> None:
    """In the order in which they are dialled."""
    table = Table()
    table.say("www.a.test", "AAAA", "2001:db8::1")
    table.say("www.a.test", "A", "192.0.2.1", "192.0.2.2")
    seen = collect(table)
    assert seen.dns.addresses == ("192.0.2.1", "192.0.2.2", "2001:db8::1")
    assert seen.edges == {("www.a.test", "RESOLVES_TO", each) for each in seen.dns.addresses}


def test_name_servers_of_the_exact_name_are_the_hosts() -> None:
    """And then those of its apex are left out."""
    table = Table()
    table.say("www.a.test", "NS", "ns1.b.test")
    table.say("a.test", "NS", "ns2.b.test")
    assert collect(table).edges == {("www.a.test", "USES_NS", "ns1.b.test")}


def test_name_servers_of_the_apex_are_recorded_for_the_apex() -> None:
    """Where the host has none of its own."""
    table = Table()
    table.say("a.test", "NS", "ns1.b.test", "ns2.b.test")
    seen = collect(table)
    assert seen.edges == {("a.test", "USES_NS", "ns1.b.test"), ("a.test", "USES_NS", "ns2.b.test")}
    assert seen.nodes == {"www.a.test", "a.test", "ns1.b.test", "ns2.b.test"}


def test_name_servers_found_through_an_alias_are_not_the_hosts() -> None:
    """They are those of where the alias leads; the apex's count."""
    table = Table()
    table.say("www.a.test", "NS", "ns.cdn.test", aliases=["cdn.test"])
    table.say("a.test", "NS", "ns1.b.test")
    assert collect(table).edges == {
        ("www.a.test", "ALIAS_OF", "cdn.test"),
        ("a.test", "USES_NS", "ns1.b.test"),
    }


def test_name_servers_of_an_apex_that_is_an_alias_are_left_out() -> None:
    """They are another zone's."""
    table = Table()
    table.say("a.test", "NS", "ns.cdn.test", aliases=["cdn.test"])
    assert collect(table).edges == set()


def test_exchangers_become_edges_also_through_an_alias() -> None:
    """Mail to the alias goes where the alias leads (RFC 5321, section 5.1)."""
    table = Table()
    table.say("www.a.test", "MX", "mx1.b.test", "mx2.b.test", aliases=["b.test"])
    assert collect(table).edges == {
        ("www.a.test", "ALIAS_OF", "b.test"),
        ("www.a.test", "USES_MX", "mx1.b.test"),
        ("www.a.test", "USES_MX", "mx2.b.test"),
    }


def test_a_null_mx_gives_nothing() -> None:
    """The root as exchanger says that there is no mail (RFC 7505)."""
    table = Table()
    table.say("www.a.test", "MX", "")
    seen = collect(table)
    assert seen.edges == set()
    assert seen.nodes == {"www.a.test"}


def test_a_dangling_alias_counts() -> None:
    """Every hop is an edge though the last name does not exist, and the status says so."""
    table = Table()
    for kind in ("A", "AAAA", "NS", "MX", "TXT"):
        table.say("www.a.test", kind, status=Status.NXDOMAIN, aliases=["b.test", "gone.test"])
    seen = collect(table)
    assert seen.dns.status is Status.NXDOMAIN
    assert seen.edges == {("www.a.test", "ALIAS_OF", "b.test"), ("b.test", "ALIAS_OF", "gone.test")}


def test_the_chain_is_taken_from_whichever_answer_has_it() -> None:
    """One type that answered is enough."""
    table = Table(default=Status.TIMEOUT)
    table.say("www.a.test", "TXT", "x", aliases=["b.test"])
    assert ("www.a.test", "ALIAS_OF", "b.test") in collect(table).edges


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "status"),
    [
        (Status.NODATA, Status.NODATA, Status.NODATA),
        (Status.NXDOMAIN, Status.NXDOMAIN, Status.NXDOMAIN),
        (Status.NXDOMAIN, Status.NODATA, Status.NXDOMAIN),
        (Status.NODATA, Status.TIMEOUT, Status.TIMEOUT),
        (Status.SERVFAIL, Status.NODATA, Status.SERVFAIL),
        (Status.REFUSED, Status.TIMEOUT, Status.REFUSED),
        (Status.ALIAS_LOOP, Status.ALIAS_LOOP, Status.ALIAS_LOOP),
    ],
)
def test_without_an_address_a_failure_is_told_before_an_honest_no(ipv4: Status, ipv6: Status, status: Status) -> None:
    """Who did not answer may have had an address."""
    table = Table()
    table.say("www.a.test", "A", status=ipv4)
    table.say("www.a.test", "AAAA", status=ipv6)
    assert collect(table).dns.status is status


def test_one_address_is_enough() -> None:
    """The stage is fine though the other family failed, which is told apart."""
    table = Table()
    table.say("www.a.test", "A", "192.0.2.1")
    table.say("www.a.test", "AAAA", status=Status.SERVFAIL)
    table.say("www.a.test", "MX", status=Status.TIMEOUT)
    seen = collect(table)
    assert seen.dns.status is Status.OK
    assert dict(seen.dns.errors) == {"AAAA": "servfail", "MX": "timeout"}


def test_what_the_whole_stage_says_is_not_repeated_as_an_error() -> None:
    """All types time out: one status, no list."""
    assert dict(collect(Table(default=Status.TIMEOUT)).dns.errors) == {}


def test_name_servers_that_could_not_be_had_are_an_error() -> None:
    """Also where it is the apex's that failed, since the host has none of its own."""
    table = Table()
    table.say("www.a.test", "A", "192.0.2.1")
    table.say("a.test", "NS", status=Status.SERVFAIL)
    assert dict(collect(table).dns.errors) == {"NS": "servfail"}


def test_name_servers_of_the_apex_that_are_not_needed_are_no_error() -> None:
    """The host has its own."""
    table = Table()
    table.say("www.a.test", "A", "192.0.2.1")
    table.say("www.a.test", "NS", "ns1.b.test")
    table.say("a.test", "NS", status=Status.SERVFAIL)
    assert dict(collect(table).dns.errors) == {}


def test_the_detail_is_that_of_the_failure_that_counts() -> None:
    """Not that of another type, nor of a family that failed otherwise."""
    table = Table()
    table.say("www.a.test", "A", status=Status.SERVFAIL, detail="rcode 2")
    table.say("www.a.test", "AAAA", status=Status.TIMEOUT, detail="too slow")
    table.say("www.a.test", "MX", status=Status.SERVFAIL, detail="of the exchanger")
    assert collect(table).dns.detail == "rcode 2"


def test_there_is_no_detail_where_all_is_well() -> None:
    """A failed family says nothing about a stage that is fine."""
    table = Table()
    table.say("www.a.test", "A", "192.0.2.1")
    table.say("www.a.test", "AAAA", status=Status.SERVFAIL, detail="rcode 2")
    assert collect(table).dns.detail is None


def test_odd_names_of_dns_are_kept() -> None:
    """Underscores and escapes stand as they are."""
    table = Table()
    table.say("www.a.test", "NS", "_x.b.test", "a\\032b.test")
    assert {target for _, _, target in collect(table).edges} == {"_x.b.test", "a\\032b.test"}
