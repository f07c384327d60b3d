"""The simulated network is what it says it is: asked with dnspython, sockets and `ssl`, never with the probe."""

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from spyder.lab import Lab
from spyder.lab.sites import make_sites
from spyder.lab.traits import TRAITS
from tests.shared_data import ROOT, shared

SITES = 250  # one of each trait, and most of them healthy
WITH_LINKS = [site.trait for site in make_sites(len(TRAITS), 1, tuple(TRAITS)) if site.healthy and site.links]
TYPES = ("A", "AAAA", "NS", "MX", "TXT")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab with every trait, for all tests of this module."""
    with Lab(tmp_path_factory.mktemp("lab"), sites=SITES) as running:
        yield running


def host_of(lab: Lab, trait: str) -> str:
    """Return the first host of a trait."""
    return next(host for host, its in lab.expected.traits.items() if its == trait)


def targets(lab: Lab, host: str, kind: str) -> set[str]:
    """Return what the expected edges of a host and a type point to."""
    return {target for source, its, target in lab.expected.edges if (source, its) == (host, kind)}


def ask(
    lab: Lab, name: str, kind: str, *, tcp: bool = False, edns: bool = True, timeout_s: float = 5.0
) -> dns.message.Message:
    """Ask one question, without a retry."""
    query = dns.message.make_query(name, kind, use_edns=0 if edns else False, payload=1232)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, "127.0.0.1", port=lab.ports["dns"], timeout=timeout_s)


def records(answer: dns.message.Message, kind: str) -> list[tuple[str, str]]:
    """Return owner and text of all records of a type, without trailing dots."""
    rrsets = (rrset for rrset in answer.answer if rrset.rdtype == dns.rdatatype.from_text(kind))
    return [(str(rrset.name)[:-1], str(item).removesuffix(".")) for rrset in rrsets for item in rrset]


def address_of(lab: Lab, host: str) -> str:
    """Return the first IPv4 address of a host."""
    return records(ask(lab, host, "A"), "A")[0][1]


def connect(lab: Lab, host: str, *, verified: bool = True) -> ssl.SSLSocket:
    """Return a TLS connection to a host, which trusts the lab's authority or everybody."""
    context = ssl.create_default_context(cafile=lab.ca_path)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if not verified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((address_of(lab, host), lab.ports["https"]), timeout=5)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


@dataclass
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float


def get_on(connection: socket.socket, host: str, path: str) -> Answer:
    """Send one GET on an open connection."""
    begin = time.monotonic()
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: test\r\n\r\n".encode())
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        return Answer(response.status, response.headers, response.read(), time.monotonic() - begin)


def get(lab: Lab, host: str, path: str = "/") -> Answer:
    """GET over a new verified connection."""
    with connect(lab, host) as connection:
        return get_on(connection, host, path)


def get_http(lab: Lab, host: str, path: str) -> Answer:
    """GET over plain HTTP."""
    with socket.create_connection((address_of(lab, host), lab.ports["http"]), timeout=5) as connection:
        return get_on(connection, host, path)


# The population


def test_every_trait_is_there_and_most_sites_are_healthy(lab: Lab) -> None:
    """A default lab has each kind of site, and a healthy majority."""
    assert set(lab.expected.traits.values()) == set(TRAITS)
    assert list(lab.expected.traits.values()).count("healthy") > SITES / 2
    assert len(lab.hosts) == len(set(lab.hosts)) == SITES


def test_every_host_has_an_outcome_for_each_stage(lab: Lab) -> None:
    """The expected outcomes cover all hosts."""
    assert set(lab.expected.outcomes) == set(lab.hosts)
    assert all(set(outcome) == {"dns", "robots", "http", "tls"} for outcome in lab.expected.outcomes.values())


def test_a_seed_makes_the_same_sites_again() -> None:
    """Sites depend on count and seed alone."""
    assert make_sites(100, seed=7) == make_sites(100, seed=7)
    assert make_sites(100, seed=7) != make_sites(100, seed=8)


def test_traits_can_be_chosen() -> None:
    """A lab of some traits has these, evenly."""
    traits = [site.trait for site in make_sites(10, seed=1, traits=("cert_expired", "healthy"))]
    assert sorted(traits) == ["cert_expired"] * 5 + ["healthy"] * 5


def test_hosts_are_a_labels(lab: Lab) -> None:
    """The internationalised host is listed and answered in A-labels."""
    host = host_of(lab, "idn_host")
    assert host.startswith("xn--bcher")
    assert get(lab, host).status == 200


# DNS


def test_the_expected_dns_edges_are_what_a_resolver_finds(lab: Lab) -> None:
    """For every host: walking all its answers with dnspython yields the expected edges, and no other."""
    found = set()
    for host in lab.hosts:
        if lab.expected.outcomes[host]["dns"] != "timeout":
            found |= walk(lab, host)
    dns_types = {"RESOLVES_TO", "ALIAS_OF", "USES_NS", "USES_MX"}
    assert found == {edge for edge in lab.expected.edges if edge[1] in dns_types}


def walk(lab: Lab, host: str) -> set[tuple[str, str, str]]:
    """Return the DNS edges of a host, asked over TCP."""
    answers = {kind: ask(lab, host, kind, tcp=True) for kind in TYPES}
    found = {(owner, "ALIAS_OF", target) for owner, target in records(answers["A"], "CNAME")}
    for kind in ("A", "AAAA"):
        found |= {(host, "RESOLVES_TO", address) for _, address in records(answers[kind], kind)}
    exchangers = [text.split()[1:] for _, text in records(answers["MX"], "MX")]  # nothing is left of the null MX
    found |= {(host, "USES_MX", exchanger) for named in exchangers for exchanger in named}
    servers = {(owner, "USES_NS", server) for owner, server in records(answers["NS"], "NS") if owner == host}
    if not servers:
        apex = ".".join(host.split(".")[-2:])
        servers = {(apex, "USES_NS", server) for _, server in records(ask(lab, apex, "NS"), "NS")}
    return found | servers


@pytest.mark.parametrize(
    ("trait", "rcode"),
    [
        ("dns_nxdomain", dns.rcode.NXDOMAIN),
        ("alias_dangling", dns.rcode.NXDOMAIN),
        ("dns_nodata", dns.rcode.NOERROR),
        ("alias_nodata", dns.rcode.NOERROR),
        ("mx_without_address", dns.rcode.NOERROR),
        ("dns_servfail", dns.rcode.SERVFAIL),
        ("dns_refused", dns.rcode.REFUSED),
    ],
)
def test_a_host_without_address_says_why(lab: Lab, trait: str, rcode: dns.rcode.Rcode) -> None:
    """No A record, with the rcode that the trait names, and an SOA where it may be cached (RFC 2308)."""
    answer = ask(lab, host_of(lab, trait), "A")
    assert answer.rcode() == rcode
    assert records(answer, "A") == []
    cacheable = rcode in {dns.rcode.NXDOMAIN, dns.rcode.NOERROR}
    assert any(rrset.rdtype == dns.rdatatype.SOA for rrset in answer.authority) is cacheable


def test_a_silent_server_never_answers(lab: Lab) -> None:
    """The question is counted, and nothing comes back."""
    host = host_of(lab, "dns_silent")
    with pytest.raises(dns.exception.Timeout):
        ask(lab, host, "A", timeout_s=0.3)
    assert lab.counters()["dns_udp"][f"{host} A"] == 1


def test_a_slow_server_takes_300_ms(lab: Lab) -> None:
    """The answer is right, and late."""
    begin = time.monotonic()
    assert records(ask(lab, host_of(lab, "dns_slow"), "A"), "A")
    assert time.monotonic() - begin > 0.29


def test_one_type_of_five_may_fail(lab: Lab) -> None:
    """MX is answered SERVFAIL, A is answered."""
    host = host_of(lab, "mx_servfail")
    assert ask(lab, host, "MX").rcode() == dns.rcode.SERVFAIL
    assert records(ask(lab, host, "A"), "A")


@pytest.mark.parametrize(
    ("trait", "kind", "count"),
    [("txt_big", "TXT", 2), ("dns_many_records", "AAAA", 60), ("dns_many_records", "MX", 40)],
)
def test_a_long_answer_is_truncated_over_udp(lab: Lab, trait: str, kind: str, count: int) -> None:
    """UDP gives the TC bit and nothing else; TCP gives all."""
    host = host_of(lab, trait)
    short = ask(lab, host, kind)
    assert short.flags & dns.flags.TC
    assert short.answer == []
    assert len(records(ask(lab, host, kind, tcp=True), kind)) == count
    assert lab.counters()["dns_tcp"][f"{host} {kind}"] >= 1


def test_the_case_of_the_question_is_echoed(lab: Lab) -> None:
    """0x20 mixing comes back as it was sent, and the name is found."""
    host = host_of(lab, "healthy")
    answer = ask(lab, host.upper(), "A")
    assert answer.question[0].name.to_text() == host.upper() + "."
    assert len(records(answer, "A")) == 1


def test_without_edns_there_is_no_opt_record(lab: Lab) -> None:
    """EDNS is answered with EDNS, and only then."""
    host = host_of(lab, "healthy")
    assert ask(lab, host, "A").edns == 0
    assert ask(lab, host, "A", edns=False).edns == -1


def test_rubbish_is_not_answered_and_does_no_harm(lab: Lab) -> None:
    """Packets that are no question are dropped; the next question is answered."""
    host = host_of(lab, "healthy")
    query = dns.message.make_query(host, "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for packet in (b"", b"x", query[:14], query[:12] + b"\xff" * 40, query[:2] + b"\x80" + query[3:]):
            client.sendto(packet, ("127.0.0.1", lab.ports["dns"]))
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(4096)
    assert records(ask(lab, host, "A"), "A")


# Connections and certificates


def test_the_expected_certificates_are_those_that_are_sent(lab: Lab) -> None:
    """For every host whose certificate is expected: the leaf's SPKI hash, and whether it verifies."""
    for host in lab.hosts:
        expected = targets(lab, host, "USES_CERT")
        if not expected:
            continue
        with connect(lab, host, verified=False) as connection:
            assert {spki(connection)} == expected
        assert verifies(lab, host) is (lab.expected.outcomes[host]["tls"] == "ok"), host


def spki(connection: ssl.SSLSocket) -> str:
    """Return the base64 SHA-256 of the peer's SubjectPublicKeyInfo."""
    der = (
        leaf_of(connection)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def leaf_of(connection: ssl.SSLSocket) -> x509.Certificate:
    """Return the peer's certificate."""
    der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def verifies(lab: Lab, host: str) -> bool:
    """Tell whether a strict client accepts the host's certificate."""
    try:
        connect(lab, host).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


@pytest.mark.parametrize(
    ("trait", "reason"),
    [
        ("cert_expired", "certificate has expired"),
        ("cert_not_yet_valid", "not yet valid"),
        ("cert_self_signed", "self-signed certificate"),
        ("cert_unknown_issuer", "unable to get local issuer"),
        ("cert_missing_intermediate", "unable to get local issuer"),
        ("cert_wrong_name", "Hostname mismatch"),
    ],
)
def test_a_bad_certificate_is_bad_in_its_own_way(lab: Lab, trait: str, reason: str) -> None:
    """Verification fails for the reason that the trait names."""
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        connect(lab, host_of(lab, trait))


def test_the_alert_comes_before_any_certificate(lab: Lab) -> None:
    """`tls_alert` ends the handshake even for a client that trusts everybody."""
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        connect(lab, host_of(lab, "tls_alert"), verified=False)


def test_the_handshake_may_be_cut_off(lab: Lab) -> None:
    """`tls_closed` closes after the ClientHello."""
    with pytest.raises(ssl.SSLEOFError):
        connect(lab, host_of(lab, "tls_closed"), verified=False)


def test_an_rsa_key_is_rsa(lab: Lab) -> None:
    """`cert_rsa` has another kind of key."""
    with connect(lab, host_of(lab, "cert_rsa")) as connection:
        assert isinstance(leaf_of(connection).public_key(), rsa.RSAPublicKey)


def test_many_names_are_a_hundred(lab: Lab) -> None:
    """`cert_many_sans` has 100 names."""
    with connect(lab, host_of(lab, "cert_many_sans")) as connection:
        names = leaf_of(connection).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert len(list(names)) == 100


def test_a_certificate_does_not_change_between_connections(lab: Lab) -> None:
    """The same bytes are sent each time."""
    host = host_of(lab, "healthy")
    with connect(lab, host) as first, connect(lab, host) as second:
        assert first.getpeercert(binary_form=True) == second.getpeercert(binary_form=True)


def test_without_https_only_that_port_is_refused(lab: Lab) -> None:
    """`no_https` serves robots.txt over HTTP and refuses HTTPS; `no_web` refuses both."""
    with pytest.raises(ConnectionRefusedError):
        connect(lab, host_of(lab, "no_https"))
    assert get_http(lab, host_of(lab, "no_https"), "/robots.txt").status == 404
    assert b"Disallow: /\n" in get_http(lab, host_of(lab, "no_https_robots_deny"), "/robots.txt").body
    for port in ("https", "http"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address_of(lab, host_of(lab, "no_web")), lab.ports[port]), timeout=5)


def test_all_of_several_addresses_serve(lab: Lab) -> None:
    """Each A of `several_addresses` accepts."""
    addresses = {address for _, address in records(ask(lab, host_of(lab, "several_addresses"), "A"), "A")}
    assert len(addresses) == 4
    for address in addresses:
        socket.create_connection((address, lab.ports["https"]), timeout=5).close()


def test_ipv6_is_refused(lab: Lab) -> None:
    """Nothing listens at the AAAA of `ipv6_refused`."""
    assert records(ask(lab, host_of(lab, "ipv6_refused"), "AAAA"), "AAAA")[0][1] == "::1"
    with pytest.raises(OSError, match=r"refused|assign|unreachable|not supported"):
        socket.create_connection(("::1", lab.ports["https"]), timeout=5)


# robots.txt


def test_robots_traits_answer_with_their_status(lab: Lab) -> None:
    """None is a 404, and so on."""
    expected = {"healthy": 404, "robots_forbidden": 403, "robots_503": 503, "robots_redirect_same_host": 301}
    for trait, status in expected.items():
        assert get(lab, host_of(lab, trait), "/robots.txt").status == status, trait


@pytest.mark.parametrize("trait", ["robots_redirect_other_host", "robots_redirect_denies"])
def test_robots_may_lie_on_another_host(lab: Lab, trait: str) -> None:
    """The redirect names a host of another domain, which serves the file."""
    location = get(lab, host_of(lab, trait), "/robots.txt").headers["Location"]
    other = location.removeprefix("https://").removesuffix("/robots.txt")
    assert get(lab, other, "/robots.txt").body.startswith(b"User-agent: *\n")


def test_big_robots_files_lie_about_the_cap(lab: Lab) -> None:
    """One is just under 500 KiB, the other denies only behind it (RFC 9309, section 2.5)."""
    cap = 500 * 1024
    under = get(lab, host_of(lab, "robots_500_kb"), "/robots.txt").body
    assert 480_000 < len(under) < cap
    over = get(lab, host_of(lab, "robots_over_cap"), "/robots.txt").body
    assert over.index(b"Disallow: /\n") > cap


def test_a_challenge_page_stands_in_for_robots(lab: Lab) -> None:
    """`robots_is_html` answers 200 with HTML."""
    answer = get(lab, host_of(lab, "robots_is_html"), "/robots.txt")
    assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")


def test_robots_after_a_byte_order_mark(lab: Lab) -> None:
    """`robots_deny_after_bom` begins with the mark in UTF-8."""
    assert get(lab, host_of(lab, "robots_deny_after_bom"), "/robots.txt").body.startswith(b"\xef\xbb\xbfUser-agent")


@pytest.mark.parametrize(("trait", "path"), [("robots_slow", "/robots.txt"), ("page_slow", "/")])
def test_slow_answers_take_500_ms(lab: Lab, trait: str, path: str) -> None:
    """The answer is right, and late."""
    assert get(lab, host_of(lab, trait), path).seconds > 0.49


def test_robots_over_http_may_differ(lab: Lab) -> None:
    """Hosts with a bad certificate say on HTTP what the trait names."""
    assert b"Disallow: /\n" in get_http(lab, host_of(lab, "cert_expired_robots_deny"), "/robots.txt").body
    assert get_http(lab, host_of(lab, "cert_expired_robots_503"), "/robots.txt").status == 503
    moved = get_http(lab, host_of(lab, "cert_expired_http_redirects"), "/robots.txt")
    assert moved.headers["Location"].startswith("https://")


# Pages


def test_one_connection_serves_robots_and_page(lab: Lab) -> None:
    """A healthy host: two GETs, one handshake, counted at the server; the page is about 20 KB."""
    host = next(host for host in reversed(lab.hosts) if lab.expected.traits[host] == "healthy")
    before = lab.counters()
    with connect(lab, host) as connection:
        assert get_on(connection, host, "/robots.txt").status == 404
        page = get_on(connection, host, "/")
    assert 19_000 < len(page.body) < 22_000
    after = lab.counters()
    for counted in ("hellos", "handshakes"):
        assert after[counted][host] - before[counted].get(host, 0) == 1
    assert after["connections"]["https"] - before["connections"]["https"] == 1
    assert after["requests"][f"https://{host}/"] - before["requests"].get(f"https://{host}/", 0) == 1


def test_the_server_closes_after_robots(lab: Lab) -> None:
    """`close_after_robots` says so and does it."""
    host = host_of(lab, "close_after_robots")
    with connect(lab, host) as connection:
        assert get_on(connection, host, "/robots.txt").headers["Connection"] == "close"
        assert connection.recv(1) == b""


@pytest.mark.parametrize("trait", WITH_LINKS)
def test_expected_links_stand_in_the_page(lab: Lab, trait: str) -> None:
    """Each outside host that a page must yield is written in it, once it is decoded."""
    host = host_of(lab, trait)
    answer = get(lab, host)
    assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")
    written = text_of(answer).replace("\n", "").lower()
    for target in targets(lab, host, "LINKS_TO"):
        assert target in written or target.encode().decode("idna") in written


def text_of(answer: Answer) -> str:
    """Decode a page as its header, its mark or its meta element says."""
    body = answer.body
    coding = answer.headers["Content-Encoding"]
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "deflate":
        body = zlib.decompress(body, wbits=15 if body[0] & 0x0F == 8 else -15)
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16")
    charset = answer.headers.get_content_charset("windows-1252")
    return body.decode(charset)


@pytest.mark.parametrize(
    ("trait", "header", "value"),
    [
        ("page_gzip", "Content-Encoding", "gzip"),
        ("page_deflate", "Content-Encoding", "deflate"),
        ("page_deflate_raw", "Content-Encoding", "deflate"),
        ("page_chunked", "Transfer-Encoding", "chunked"),
        ("page_gzip_chunked", "Transfer-Encoding", "chunked"),
        ("page_until_close", "Content-Length", None),
        ("page_windows_1252", "Content-Type", "text/html; charset=windows-1252"),
        ("page_meta_charset", "Content-Type", "text/html"),
        ("page_utf_16", "Content-Type", "text/html"),
        ("page_json", "Content-Type", "application/json"),
    ],
)
def test_a_page_is_sent_as_its_trait_says(lab: Lab, trait: str, header: str, value: str | None) -> None:
    """The header that makes the trait is there."""
    assert get(lab, host_of(lab, trait)).headers[header] == value


def test_deflate_comes_in_both_kinds(lab: Lab) -> None:
    """With the zlib wrapping, and bare."""
    assert zlib.decompress(get(lab, host_of(lab, "page_deflate")).body)
    with pytest.raises(zlib.error):
        zlib.decompress(get(lab, host_of(lab, "page_deflate_raw")).body)


@pytest.mark.parametrize("trait", ["page_big", "page_big_gzip"])
def test_a_big_page_has_links_behind_the_cap(lab: Lab, trait: str) -> None:
    """The second link stands behind 512 KiB of decoded text, and is not expected."""
    host = host_of(lab, trait)
    text = text_of(get(lab, host))
    before, after = text.index("https://before"), text.index("https://after")
    assert before < 512 * 1024 < after
    assert all(target.startswith("before") for target in targets(lab, host, "LINKS_TO"))


def test_errors_carry_links_that_do_not_count(lab: Lab) -> None:
    """404 and 500 pages link to outside hosts; none is expected."""
    for trait, status in (("page_404", 404), ("page_500", 500)):
        answer = get(lab, host_of(lab, trait))
        assert answer.status == status
        assert b"https://outside" in answer.body
        assert targets(lab, host_of(lab, trait), "LINKS_TO") == set()


def test_an_empty_page_is_empty(lab: Lab) -> None:
    """200, HTML, no bytes."""
    answer = get(lab, host_of(lab, "page_empty"))
    assert (answer.status, answer.body) == (200, b"")


def test_bytes_that_are_no_http(lab: Lab) -> None:
    """`page_not_http` sends no status line."""
    with pytest.raises(http.client.BadStatusLine):
        get(lab, host_of(lab, "page_not_http"))


@pytest.mark.parametrize(
    ("trait", "location"),
    [
        ("redirect_path", "/home"),
        ("redirect_www", "https://www.{host}/"),
        ("redirect_away", "https://parked{number}.test/"),
        ("redirect_loop", "https://{host}/"),
    ],
)
def test_redirects_lead_where_their_trait_says(lab: Lab, trait: str, location: str) -> None:
    """The Location is the one that the trait names."""
    host = host_of(lab, trait)
    number = "".join(filter(str.isdigit, host))
    assert get(lab, host).headers["Location"] == location.format(host=host, number=number)


def test_the_www_host_is_another_with_its_own_certificate(lab: Lab) -> None:
    """`redirect_www`: the page, robots.txt and another key stand on `www.`; the edge is to the first key."""
    host = host_of(lab, "redirect_www")
    www = f"www.{host}"
    assert get(lab, www, "/robots.txt").status == 200
    assert b"https://outside" in get(lab, www).body
    with connect(lab, www) as connection:
        assert {spki(connection)} != targets(lab, host, "USES_CERT")


def test_plain_http_sends_visitors_to_https(lab: Lab) -> None:
    """A healthy host answers on HTTP with a redirect."""
    host = host_of(lab, "healthy")
    assert get_http(lab, host, "/").headers["Location"] == f"https://{host}/"


@pytest.mark.parametrize("trait", ["excluded_gov", "excluded_mil", "excluded_int"])
def test_excluded_hosts_would_serve(lab: Lab, trait: str) -> None:
    """A host under an excluded domain is alive, so that touching it is noticed; only DNS edges are expected."""
    host = host_of(lab, trait)
    assert get(lab, host).status == 200
    assert targets(lab, host, "USES_CERT") == targets(lab, host, "LINKS_TO") == set()
    assert targets(lab, host, "RESOLVES_TO")


# The lab as a whole


def test_a_burst_of_questions_is_answered_to_the_last(tmp_path: Path) -> None:
    """256 clients send eight questions each before any of them reads: no answer is lost."""
    with Lab(tmp_path, sites=10) as small, contextlib.ExitStack() as opened:
        query = dns.message.make_query(small.hosts[0], "TXT").to_wire()
        clients = [opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(256)]
        for client in clients:
            client.settimeout(5)
            for _ in range(8):
                client.sendto(query, ("127.0.0.1", small.ports["dns"]))
        for client in clients:
            for _ in range(8):
                assert client.recv(4096)[:2] == query[:2]


def test_counters_can_be_cleared(tmp_path: Path) -> None:
    """Clearing returns what was counted, and begins anew."""
    with Lab(tmp_path, sites=1) as small:
        ask(small, small.hosts[0], "A")
        assert small.clear_counters()["dns_udp"] == {f"{small.hosts[0]} A": 1}
        assert small.counters()["dns_udp"] == {}


def test_the_command_prints_one_line_and_ends_on_sigterm(tmp_path: Path) -> None:
    """`python -m spyder.lab serve` is ready when it says so, writes its files, and ends with status 0."""
    command = [sys.executable, "-m", "spyder.lab", "serve", "--sites", "3", "--dir", str(tmp_path / "new" / "lab")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("lab ready: 3 hosts, ")
        written = {path.name for path in (tmp_path / "new" / "lab").iterdir() if path.name[0] != "."}
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait(10) == 0
    assert written == {"ca.pem", "spyder.yaml", "hosts.txt", "expected.json", "control"}


def test_the_lab_ends_with_its_parent(tmp_path: Path) -> None:
    """A test run that is killed leaves no servers behind."""
    script = f"""
from spyder.lab import Lab
with Lab({str(tmp_path)!r}, sites=3):
    print("up", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        child = json.loads((tmp_path / "control").read_bytes())["pid"]
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Tell whether a process runs, and is no zombie that nobody has collected."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_lab_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The child's own words are in the error, and nothing is left running."""
    lab = Lab(tmp_path, pages=tmp_path / "absent")
    with pytest.raises(RuntimeError, match=r"absent.expected\.json"):
        lab.start()
    lab.stop()


def test_settings_name_the_ports(lab: Lab) -> None:
    """The settings file leads the probe to the lab's servers."""
    settings = lab.settings_path.read_text()
    assert f'nameservers: ["127.0.0.1:{lab.ports["dns"]}"]' in settings
    assert f"port_https: {lab.ports['https']}\n" in settings
    assert f"port_http: {lab.ports['http']}\n" in settings


# Real pages


@pytest.fixture(scope="module")
def pages_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that serves only the real pages."""
    with Lab(tmp_path_factory.mktemp("pages"), sites=0, pages=shared("pages")) as running:
        yield running


def test_each_real_page_is_a_site(pages_lab: Lab) -> None:
    """Every file is served, byte for byte, as a host of its own."""
    files = {path.name.removesuffix(".html.gz"): path for path in (ROOT / "pages").glob("*.html.gz")}
    assert {host.removesuffix(".page-under-test.com") for host in pages_lab.hosts} == set(files)
    for host in pages_lab.hosts:
        answer = get(pages_lab, host)
        body = gzip.decompress(answer.body) if answer.headers["Content-Encoding"] else answer.body
        assert body == gzip.decompress(files[host.partition(".")[0]].read_bytes())


def test_real_pages_link_to_the_hosts_that_stand_beside_them(pages_lab: Lab) -> None:
    """Expected links of `a` and `area` lie under exactly the outside registrable domains of the folder."""
    entries = {entry["name"]: entry for entry in json.loads((ROOT / "pages" / "expected.json").read_bytes())}
    for host in pages_lab.hosts:
        name = host.partition(".")[0]
        entry = entries.get(f"{name}@524288", entries[name])
        linked = targets(pages_lab, host, "LINKS_TO")
        domains = set(entry["external_registrable"])
        anchored = {h for h in entry["hosts"] if any(h == d or h.endswith("." + d) for d in domains)}
        assert linked & set(entry["hosts"]) == anchored
        assert linked - anchored <= set(entry["hosts_only_in_other_elements"])


def test_the_lab_listens_on_loopback_only(lab: Lab) -> None:
    """No socket of the lab is bound to anything but 127.0.0.0/8."""
    pid = json.loads((lab.directory / "control").read_bytes())["pid"]
    mine = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    bound = set()
    for table in ("tcp", "udp", "tcp6", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in mine:
                bound.add(fields[1].partition(":")[0])
    assert bound
    assert all(len(address) == 8 and address.endswith("7F") for address in bound)
