"""One visit, branch by branch, over real sockets: what is asked, of whom, in which order, and how it ends."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spyder.lab.records import CertificateKind
from spyder.model.outcomes import Status
from spyder.model.records import Report, Task
from spyder.net.http import Limits
from tests.probe.web_world import (
    ALLOW_ALL,
    BLOCKED,
    CLOSED,
    DENY_ALL,
    HERE,
    OTHER,
    World,
    answer,
    drop,
    hang,
    page,
    redirect,
    robots,
)
from tests.waiting import started


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of no hosts."""
    with World(tmp_path) as made:
        yield made


def stages(report: Report) -> tuple[str, str, str, str]:
    """Return how dns, robots, http and tls ended."""
    outcome = report.outcome
    return outcome.dns.value, outcome.robots.value, outcome.http.value, outcome.tls.value


def targets(report: Report, kind: str) -> list[str]:
    """Return what edges of a kind point to."""
    return [edge.target for edge in report.edges if edge.type == kind]


# One connection


def test_a_healthy_host_costs_one_connection(world: World) -> None:
    """robots.txt first, then the page, and the certificate, over one TCP connection and one handshake."""
    world.site("a.test", page=page("https://b.test/"), robots_txt=robots(ALLOW_ALL))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "ok", "ok")
    assert world.requests == ["https://a.test/robots.txt", "https://a.test/"]
    assert world.connections == {f"https {HERE}": 1}
    assert world.handshakes == {"a.test": 1}
    assert targets(report, "LINKS_TO") == ["b.test"]
    assert len(targets(report, "USES_CERT")) == 1
    assert report.nodes_cert[0].verified
    assert report.outcome.http_status == 200
    assert report.outcome.detail is None


def test_a_name_that_does_not_exist_is_not_visited(world: World) -> None:
    """DNS ends the visit; the other stages were not attempted."""
    report = world.probe("gone.test")
    assert stages(report) == ("nxdomain", "skipped", "skipped", "skipped")


def test_a_connection_closed_after_robots_is_made_anew(world: World) -> None:
    """Where the server says that it closes."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL, close=True))
    assert stages(world.probe("a.test")) == ("ok", "ok", "ok", "ok")
    assert world.handshakes == {"a.test": 2}


def test_a_connection_closed_without_a_word_is_made_anew(world: World) -> None:
    """A server may tire of a connection between two requests: that is no fault of the page."""

    def say_and_go(connection: socket.socket) -> None:
        connection.sendall(robots(ALLOW_ALL))

    world.site("a.test", page=page("https://b.test/"), robots_txt=say_and_go)
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "ok", "ok")
    assert targets(report, "LINKS_TO") == ["b.test"]
    assert world.handshakes == {"a.test": 2}


def test_a_server_that_always_closes_is_given_up(world: World) -> None:
    """One more try, not endless ones."""
    world.site("a.test", page=drop, robots_txt=robots(ALLOW_ALL))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "bad_response", "ok")
    assert world.requests.count("https://a.test/") <= 2


# Scope and addresses


def test_an_excluded_host_is_only_looked_up(world: World) -> None:
    """DNS is kept, and nothing is dialled."""
    world.site("x.gov", page=page())
    report = world.probe("x.gov")
    assert stages(report) == ("ok", "excluded_tld", "excluded_tld", "excluded_tld")
    assert targets(report, "RESOLVES_TO") == [HERE]
    assert not world.connections


def test_a_blocked_address_is_recorded_and_never_dialled(world: World) -> None:
    """The edge is there; the canary sees nothing."""
    world.site("a.test", page=page(), at=[BLOCKED])
    report = world.probe("a.test")
    assert stages(report) == ("ok", "address_blocked", "address_blocked", "address_blocked")
    assert targets(report, "RESOLVES_TO") == [BLOCKED]
    assert not world.connections


def test_of_several_addresses_only_the_allowed_ones_are_dialled(world: World) -> None:
    """In the order of DNS, the blocked one left out, the one where nobody listens passed over."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL), at=[BLOCKED, CLOSED, OTHER])
    assert stages(world.probe("a.test")) == ("ok", "ok", "ok", "ok")
    assert world.connections == {f"https {OTHER}": 1}


def test_no_more_than_four_addresses_are_tried(world: World) -> None:
    """A host with hundreds of dead addresses costs four."""
    world.site("a.test", page=page(), at=[CLOSED, CLOSED, CLOSED, CLOSED, HERE])
    report = world.probe("a.test")
    assert stages(report) == ("ok", "robots_unreachable", "skipped", "skipped")
    assert not world.connections


def test_a_redirect_to_a_blocked_address_is_not_followed(world: World) -> None:
    """A host of the same domain that resolves to a forbidden address: the canary sees no connection."""
    world.site("a.test", page=redirect("https://www.a.test/"), robots_txt=robots(ALLOW_ALL))
    world.site("www.a.test", page=page("https://b.test/"), robots_txt=robots(ALLOW_ALL), at=[BLOCKED])
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "address_blocked", "ok")
    assert report.outcome.redirect_to is None or report.outcome.redirect_to == "www.a.test"
    assert world.connections["blocked"] == 0
    assert targets(report, "LINKS_TO") == []


def test_a_robots_redirect_to_a_blocked_address_is_not_followed(world: World) -> None:
    """robots.txt may lie on any host, but not behind a forbidden address; without it there is no permission."""
    world.site("a.test", page=page(), robots_txt=redirect("https://inner.test/robots.txt"))
    world.site("inner.test", robots_txt=robots(ALLOW_ALL), at=[BLOCKED])
    assert stages(world.probe("a.test")) == ("ok", "robots_unreachable", "skipped", "skipped")
    assert world.connections["blocked"] == 0


def test_a_robots_redirect_to_an_excluded_host_is_not_followed(world: World) -> None:
    """Nor is its name looked up."""
    world.site("a.test", page=page(), robots_txt=redirect("https://x.gov/robots.txt"))
    world.site("x.gov", robots_txt=robots(ALLOW_ALL))
    assert stages(world.probe("a.test")) == ("ok", "robots_unreachable", "skipped", "skipped")
    assert "x.gov" not in world.resolved
    assert not [url for url in world.requests if "x.gov" in url]


def test_every_address_of_a_redirect_is_judged_anew(world: World) -> None:
    """A name that was allowed may lead elsewhere a moment later: what was resolved and judged is what is dialled."""
    world.site("a.test", page=redirect("http://a.test/x"), robots_txt=robots(ALLOW_ALL))

    def rebind(connection: socket.socket) -> None:
        world.addresses["a.test"] = [BLOCKED]
        connection.sendall(robots(ALLOW_ALL))

    world.answers["http://a.test/robots.txt"] = rebind
    world.probe("a.test")
    assert world.connections["blocked"] == 0


# robots.txt


def test_a_denial_ends_the_visit(world: World) -> None:
    """Neither page nor certificate is taken from a connection that was made for robots.txt."""
    world.site("a.test", page=page(), robots_txt=robots(DENY_ALL))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "robots_denied", "skipped", "skipped")
    assert world.requests == ["https://a.test/robots.txt"]
    assert not report.nodes_cert
    assert report.outcome.detail


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Service Unavailable", "599 Odd"])
def test_a_server_error_denies_and_is_the_answer(world: World, status: str) -> None:
    """HTTPS has answered: HTTP is not asked (RFC 9309, section 2.3.1.4)."""
    world.site("a.test", page=page())
    world.answers["https://a.test/robots.txt"] = answer(status=status)
    world.answers["http://a.test/robots.txt"] = robots(ALLOW_ALL)
    assert stages(world.probe("a.test")) == ("ok", "robots_unreachable", "skipped", "skipped")
    assert world.requests == ["https://a.test/robots.txt"]


@pytest.mark.parametrize("status", ["401 No", "403 No", "404 No", "410 No", "429 Later"])
def test_a_client_error_allows(world: World, status: str) -> None:
    """There is no robots.txt (RFC 9309, section 2.3.1.3)."""
    world.site("a.test", page=page(), robots_txt=answer(status=status))
    assert stages(world.probe("a.test")) == ("ok", "ok", "ok", "ok")


@pytest.mark.parametrize("broken", [drop, b"\x00\x01 no http\r\n\r\n"])
def test_http_is_asked_where_https_has_no_answer(world: World, broken: bytes) -> None:
    """And what it forbids holds."""
    world.site("a.test", page=page())
    world.answers["https://a.test/robots.txt"] = broken
    world.answers["http://a.test/robots.txt"] = robots(DENY_ALL)
    assert stages(world.probe("a.test")) == ("ok", "robots_denied", "skipped", "skipped")
    assert world.requests[-1] == "http://a.test/robots.txt"


def test_a_robots_file_cut_short_is_no_permission(world: World) -> None:
    """What is missing may be what forbids."""

    def cut(connection: socket.socket) -> None:
        connection.sendall(robots(ALLOW_ALL + "#" * 5000)[:-1000])

    world.site("a.test", page=page(), robots_txt=cut)
    assert stages(world.probe("a.test")) == ("ok", "robots_unreachable", "skipped", "skipped")


@pytest.mark.parametrize("hops", [1, 5])
def test_five_redirects_of_robots_are_followed(world: World, hops: int) -> None:
    """As RFC 9309, section 2.3.1.2 has it, whatever is allowed to pages."""
    world.site("a.test", page=page())
    for hop in range(hops):
        name = "robots.txt" if hop == 0 else f"r{hop}"
        world.answers[f"https://a.test/{name}"] = redirect(f"/r{hop + 1}")
    world.answers[f"https://a.test/r{hops}"] = robots(DENY_ALL)
    assert stages(world.probe("a.test", max_redirects=0)) == ("ok", "robots_denied", "skipped", "skipped")


def test_a_sixth_redirect_of_robots_counts_as_no_file(world: World) -> None:
    """Endless redirects do not forbid, and are not followed endlessly."""
    world.site("a.test", page=page(), robots_txt=redirect("/robots.txt"))
    assert stages(world.probe("a.test")) == ("ok", "ok", "ok", "ok")
    assert world.requests.count("https://a.test/robots.txt") == 6


def test_robots_is_read_once_for_many_visits(world: World) -> None:
    """A second visit of the host asks for the page alone."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL))
    prober = world.prober()
    assert stages(prober.probe(Task("a.test"))) == stages(prober.probe(Task("a.test"))) == ("ok", "ok", "ok", "ok")
    assert world.requests.count("https://a.test/robots.txt") == 1


# Certificates


@pytest.mark.parametrize("kind", ["expired", "not_yet_valid", "self_signed", "unknown_issuer", "missing_intermediate"])
def test_a_certificate_that_does_not_verify_is_kept_and_the_page_is_not_read(
    world: World, kind: CertificateKind
) -> None:
    """robots.txt over HTTP allows, one more handshake takes the certificate, and says why it is wrong."""
    world.site("a.test", page=page("https://b.test/"), robots_txt=robots(ALLOW_ALL))
    world.certificates["a.test"] = kind
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "tls_failed", "tls_failed")
    assert world.requests == ["http://a.test/robots.txt"]
    (certificate,) = report.nodes_cert
    assert not certificate.verified
    assert certificate.verify_error
    assert report.outcome.detail == certificate.verify_error
    assert targets(report, "USES_CERT") == [certificate.spki_sha256]
    assert world.connections == {f"https {HERE}": 2, f"http {HERE}": 1}


def test_a_certificate_for_another_name_is_kept_with_that_reason(world: World) -> None:
    """The name is part of what is verified."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL))
    world.names["a.test"] = "other.test"
    (certificate,) = world.probe("a.test").nodes_cert
    assert "a.test" in str(certificate.verify_error)


def test_a_denial_over_http_holds_for_a_bad_certificate(world: World) -> None:
    """Then nothing more is done, not even the handshake that would show the certificate."""
    world.site("a.test", page=page(), robots_txt=robots(DENY_ALL))
    world.certificates["a.test"] = "expired"
    report = world.probe("a.test")
    assert stages(report) == ("ok", "robots_denied", "skipped", "skipped")
    assert not report.nodes_cert
    assert world.connections[f"https {HERE}"] == 1


def test_silence_over_http_does_not_forbid_the_handshake(world: World) -> None:
    """A handshake asks for no resource (docs/decisions/0002)."""
    world.site("a.test", page=page())
    world.answers["http://a.test/robots.txt"] = answer(status="503 Busy")
    world.certificates["a.test"] = "expired"
    report = world.probe("a.test")
    assert stages(report) == ("ok", "robots_unreachable", "tls_failed", "tls_failed")
    assert len(report.nodes_cert) == 1


def test_the_robots_file_of_a_bad_certificate_is_not_read_over_https(world: World) -> None:
    """Nor that of a host to which robots.txt redirects, whose own certificate is bad."""
    world.site("a.test", page=page(), robots_txt=redirect("https://other.test/robots.txt"))
    world.site("other.test", robots_txt=robots(ALLOW_ALL))
    world.certificates["other.test"] = "self_signed"
    report = world.probe("a.test")
    assert stages(report) == ("ok", "robots_unreachable", "skipped", "skipped")
    assert "https://other.test/robots.txt" not in world.requests


# Redirects of the page


def test_a_redirect_within_the_domain_is_followed_and_its_links_are_the_hosts(world: World) -> None:
    """Each host with its own robots.txt, connection and handshake."""
    world.site("a.test", page=redirect("https://www.a.test/home"), robots_txt=robots(ALLOW_ALL))
    world.site("www.a.test", robots_txt=robots(ALLOW_ALL))
    world.answers["https://www.a.test/home"] = page("https://b.test/", "https://c.a.test/", "rel")
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "ok", "ok")
    assert [(edge.source, edge.target) for edge in report.edges if edge.type == "LINKS_TO"] == [("a.test", "b.test")]
    assert world.requests[2:] == ["https://www.a.test/robots.txt", "https://www.a.test/home"]
    assert {edge.source for edge in report.edges if edge.type == "USES_CERT"} == {"a.test"}


def test_a_redirect_on_the_same_host_uses_the_connection(world: World) -> None:
    """One handshake."""
    world.site("a.test", page=redirect("/home"), robots_txt=robots(ALLOW_ALL))
    world.answers["https://a.test/home"] = page("https://b.test/")
    assert targets(world.probe("a.test"), "LINKS_TO") == ["b.test"]
    assert world.handshakes == {"a.test": 1}


def test_a_path_that_robots_forbids_is_not_followed(world: World) -> None:
    """Each hop is a new decision, by the path that would be asked for."""
    world.site("a.test", page=redirect("/private/x"), robots_txt=robots("User-agent: *\nDisallow: /private/\n"))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "robots_denied", "ok")
    assert "https://a.test/private/x" not in world.requests
    assert report.outcome.redirect_to == "a.test"


def test_a_host_whose_robots_forbids_is_not_followed(world: World) -> None:
    """The robots.txt of the host that is redirected to."""
    world.site("a.test", page=redirect("https://www.a.test/"), robots_txt=robots(ALLOW_ALL))
    world.site("www.a.test", page=page(), robots_txt=robots(DENY_ALL))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "robots_denied", "ok")
    assert "https://www.a.test/" not in world.requests


def test_a_redirect_to_http_is_judged_by_the_robots_of_http(world: World) -> None:
    """Scheme and authority have a robots.txt of their own (RFC 9309, section 2.3)."""
    world.site("a.test", page=redirect("http://a.test/plain"), robots_txt=robots(ALLOW_ALL))
    world.answers["http://a.test/robots.txt"] = robots(DENY_ALL)
    world.answers["http://a.test/plain"] = page("https://b.test/")
    assert stages(world.probe("a.test")) == ("ok", "ok", "robots_denied", "ok")
    world.answers["http://a.test/robots.txt"] = robots(ALLOW_ALL)
    assert targets(world.probe("a.test"), "LINKS_TO") == ["b.test"]


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("https://b.test/", "b.test"),
        ("https://a.test.b.test/", "a.test.b.test"),
        ("https://a.test:1/", "a.test"),
        ("http://a.test:443/", "a.test"),
    ],
)
def test_a_redirect_out_of_domain_or_port_is_not_followed(world: World, location: str, host: str) -> None:
    """The other host did not ask for a visit: neither its name is looked up nor is it dialled."""
    world.site("a.test", page=redirect(location), robots_txt=robots(ALLOW_ALL))
    world.site(host if host != "a.test" else "unused.test", page=page())
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "redirected", "ok")
    assert report.outcome.redirect_to == host
    assert host == "a.test" or host not in world.resolved
    assert len(world.requests) == 2


def test_a_redirect_to_a_host_that_does_not_exist_ends_there(world: World) -> None:
    """It has no address that could be dialled."""
    world.site("a.test", page=redirect("https://gone.a.test/"), robots_txt=robots(ALLOW_ALL))
    assert stages(world.probe("a.test")) == ("ok", "ok", "address_blocked", "ok")


def test_redirects_have_an_end(world: World) -> None:
    """Five are followed, and what the sixth points to is not even looked up."""
    world.site("a.test", page=redirect("https://n1.a.test/"), robots_txt=robots(ALLOW_ALL))
    for number in range(1, 9):
        world.site(f"n{number}.a.test", page=redirect(f"https://n{number + 1}.a.test/"), robots_txt=robots(ALLOW_ALL))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "http_error", "ok")
    assert "https://n5.a.test/" in world.requests
    assert "n6.a.test" not in world.resolved


def test_no_redirect_is_followed_where_none_is_allowed(world: World) -> None:
    """`max_redirects: 0` asks for the root page alone."""
    world.site("a.test", page=redirect("/x"), robots_txt=robots(ALLOW_ALL))
    assert stages(world.probe("a.test", max_redirects=0)) == ("ok", "ok", "http_error", "ok")
    assert world.requests[-1] == "https://a.test/"


@pytest.mark.parametrize("location", ["https://[::1", "ftp://a.test/", "javascript:x", "https://127.0.0.66/"])
def test_a_redirect_to_nowhere_is_the_last_answer(world: World, location: str) -> None:
    """It is not 2xx."""
    world.site("a.test", page=redirect(location), robots_txt=robots(ALLOW_ALL))
    report = world.probe("a.test")
    assert stages(report) == ("ok", "ok", "http_error", "ok")
    assert report.outcome.http_status == 302
    assert world.connections["blocked"] == 0


# Failures


def test_no_https_is_told_apart_from_no_permission(world: World) -> None:
    """robots.txt over HTTP allows; the page is asked for over HTTPS only."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL))
    report = world.probe("a.test", blocked_ports=True)
    assert stages(report) == ("ok", "ok", "connect_failed", "connect_failed")
    assert report.outcome.detail
    assert world.requests == ["http://a.test/robots.txt"]


def test_the_bodies_status_and_type_are_told(world: World) -> None:
    """What is not 2xx is an error, what is not HTML is not read."""
    world.site("a.test", page=answer('<a href="https://b.test/">', "500 Oops"), robots_txt=robots(ALLOW_ALL))
    world.site("c.test", page=answer('<a href="https://b.test/">', content_type="text/plain"), robots_txt=robots(""))
    a, c = world.probe("a.test"), world.probe("c.test")
    assert (stages(a)[2], a.outcome.http_status) == ("http_error", 500)
    assert (stages(c)[2], c.outcome.http_status) == ("not_html", 200)
    assert not targets(a, "LINKS_TO")
    assert not targets(c, "LINKS_TO")


def test_a_page_that_says_nothing_is_a_timeout(world: World) -> None:
    """Of its own stage, while there is budget left."""
    world.site("a.test", page=hang, robots_txt=robots(ALLOW_ALL))
    report = world.probe("a.test", limits=Limits(1.0, 1.0, 0.3, 0.3))
    assert stages(report) == ("ok", "ok", "timeout", "ok")


def test_a_page_that_says_nothing_until_the_budget_is_over_spends_it(world: World) -> None:
    """No host holds a worker beyond its budget, and the outcome says that this was the reason."""
    world.site("a.test", page=hang, robots_txt=robots(ALLOW_ALL))
    begun = time.monotonic()
    report = world.probe("a.test", budget_s=0.5)
    assert time.monotonic() - begun < 2
    assert stages(report) == ("ok", "ok", "budget_spent", "ok")


def test_a_page_that_drips_is_cut_at_the_budget(world: World) -> None:
    """A byte now and then keeps no worker."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    world.site("a.test", page=drip, robots_txt=robots(ALLOW_ALL))
    begun = time.monotonic()
    assert stages(world.probe("a.test", budget_s=0.5))[2] == "budget_spent"
    assert time.monotonic() - begun < 2


def test_a_budget_spent_on_robots_is_told_and_is_not_the_sites_answer(world: World) -> None:
    """The next visit asks again, and is not told for minutes that robots.txt is unreachable."""
    world.site("a.test", page=page(), robots_txt=hang)
    slow = world.prober(budget_s=0.4)
    assert stages(slow.probe(Task("a.test"))) == ("ok", "budget_spent", "skipped", "skipped")
    world.answers["https://a.test/robots.txt"] = robots(ALLOW_ALL)
    assert stages(slow.probe(Task("a.test"))) == ("ok", "ok", "ok", "ok")


def test_a_turn_that_comes_too_late_is_the_budget(world: World) -> None:
    """A host that is paced beyond the budget is left, at once."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL, close=True))
    begun = time.monotonic()
    report = world.probe("a.test", rate=0.01, budget_s=5)
    assert time.monotonic() - begun < 2
    assert stages(report) == ("ok", "ok", "budget_spent", "budget_spent")


def test_a_paced_redirect_waits_for_its_turn(world: World) -> None:
    """One connection a turn: the second one to the host comes an interval later."""
    world.site("a.test", page=page(), robots_txt=robots(ALLOW_ALL, close=True))
    begun = time.monotonic()
    assert stages(world.probe("a.test", rate=5)) == ("ok", "ok", "ok", "ok")
    assert time.monotonic() - begun >= 0.19


def test_a_visit_that_is_hurried_ends_now(world: World) -> None:
    """Its sockets are cut off, no new ones are made, and what was learned so far is its report."""
    world.site("a.test", page=hang, robots_txt=robots(ALLOW_ALL))
    prober = world.prober()
    reports: list[Report] = []
    visit = started(lambda: reports.append(prober.probe(Task("a.test"))))
    while "https://a.test/" not in world.requests:
        time.sleep(0.005)
    begun = time.monotonic()
    world.pacer.stop()
    world.watchdog.cut_all()
    visit.join(5)
    assert time.monotonic() - begun < 2
    assert stages(reports[0])[:2] == ("ok", "ok")
    assert targets(reports[0], "RESOLVES_TO") == [HERE]
    assert len(reports[0].nodes_cert) == 1


def test_many_visits_at_once_do_not_disturb_each_other(world: World) -> None:
    """32 threads with one prober: each host has its own links."""
    hosts = [f"host{number}.test" for number in range(32)]
    for host in hosts:
        world.site(host, page=page(f"https://link-of-{host}/"), robots_txt=robots(ALLOW_ALL))
    prober = world.prober()
    reports: dict[str, Report] = {}
    lock = threading.Lock()

    def visit(host: str) -> None:
        report = prober.probe(Task(host))
        with lock:
            reports[host] = report

    threads = [started(visit, host) for host in hosts]
    for thread in threads:
        thread.join(20)
    assert {host: targets(reports[host], "LINKS_TO") for host in hosts} == {host: [f"link-of-{host}"] for host in hosts}
    assert {stages(report) for report in reports.values()} == {("ok", "ok", "ok", "ok")}
    assert all(world.handshakes[host] == 1 for host in hosts)


def test_times_are_told_stage_by_stage(world: World) -> None:
    """A robots.txt that takes 200 ms takes them in its own stage."""

    def slow(connection: socket.socket) -> None:
        time.sleep(0.2)
        connection.sendall(robots(ALLOW_ALL, close=True))

    world.site("a.test", page=page(), robots_txt=slow)
    outcome = world.probe("a.test").outcome
    assert outcome.robots is Status.OK
    assert outcome.robots_ms >= 200
    assert outcome.http_ms < 200
    assert outcome.elapsed_ms >= outcome.dns_ms + outcome.robots_ms + outcome.http_ms - 2
