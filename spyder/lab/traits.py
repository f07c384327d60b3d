"""The kinds of site: one small function each, which turns a healthy draft into a site with one oddity.

A trait's docstring says what the world does there and, where that is not plain, what a visit must make of it.
Pure functions on a draft of their own. Owned by no thread.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from spyder.lab import pages
from spyder.lab.records import (
    ALERT_ADDRESS,
    DEAD_ADDRESS,
    HTTP_ONLY_ADDRESS,
    USER_AGENT_TOKEN,
    WEB_ADDRESSES,
    Certificate,
    CertificateKind,
    Name,
    Outcome,
    Response,
    Site,
)

SERVFAIL = 2  # RFC 1035, section 4.1.1
REFUSED = 5
ROBOTS_CAP_BYTES = 500 * 1024  # RFC 9309, section 2.5
NOT_FOUND = Response(status=404, headers=(("Content-Type", "text/plain"),), body=(b"not found",))
DENY_ALL = "User-agent: *\nDisallow: /\n"


@dataclass(slots=True)
class Draft:
    """A healthy site in the making."""

    number: str
    """Stands in every name of the site."""
    apex: str
    host: str
    rng: random.Random
    neighbours: Sequence[str]
    """Hosts of other sites, to link to."""

    names: dict[str, Name] = field(init=False)
    robots: Response = NOT_FOUND
    http_robots: Response | None = None
    """What plain HTTP says, where it is not what HTTPS says."""
    page: Response = field(init=False)
    routes: dict[tuple[str, str, str], Response] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(init=False)
    links: frozenset[str] = field(init=False)
    outcome: Outcome = field(default_factory=Outcome)
    one_connection: bool = True

    def __post_init__(self) -> None:
        nameservers = tuple(f"ns{n}.nic{self.rng.randrange(20)}.test" for n in (1, 2))
        web = Name(a=(self.rng.choice(WEB_ADDRESSES),), txt=(b"v=spf1 -all",) if self.rng.random() < 0.5 else ())
        self.names = {self.apex: Name(ns=nameservers), self.host: web}
        if self.host == self.apex:
            self.names = {self.host: replace(web, ns=nameservers, mx=((10, f"mx.mail{self.rng.randrange(20)}.test"),))}
        self.certificates = {self.host: Certificate((self.host,), f"key-{self.number}")}
        self.link(*(f"https://{host}/" for host in self.neighbours), f"https://outside{self.number}.test/a")
        self.links = frozenset(self.neighbours) | {f"outside{self.number}.test"}

    def link(self, *urls: str) -> None:
        """Make the page one of these links, of which none counts unless `links` says so."""
        self.page = pages.html(pages.anchors(*urls))
        self.links = frozenset()

    def show(self, content: str, *outside: str, head: str = "") -> None:
        """Make the page one of this content, which links to these outside hosts."""
        self.page = pages.html(content, head=head)
        self.links = frozenset(outside)

    def own(self, **records: object) -> None:
        """Change what DNS says of the host itself."""
        self.names[self.host] = replace(self.names[self.host], **records)  # type: ignore[arg-type]

    def alias(self, *chain: str, end: Name | None = None) -> None:
        """Make the host an alias; the last of the chain has these records, or else does not exist."""
        for here, there in zip((self.host, *chain), chain, strict=False):
            self.names[here] = Name(cname=there)
        if end is not None:
            self.names[chain[-1]] = end

    def certify(self, kind: CertificateKind) -> None:
        """Serve another kind of certificate."""
        self.certificates[self.host] = replace(self.certificates[self.host], kind=kind)

    def dns_only(self, dns: str = "ok", robots: str = "skipped") -> None:
        """End the visit before the page: nothing but DNS is learned."""
        self.outcome = Outcome(dns, robots, "skipped", "skipped")

    def finish(self, trait: str) -> Site:
        """Return the site. A route that a trait has set is kept."""
        routes = {
            ("https", self.host, "/"): self.page,
            ("https", self.host, "/robots.txt"): self.robots,
            ("http", self.host, "/"): pages.redirect(f"https://{self.host}/"),
            ("http", self.host, "/robots.txt"): self.http_robots or self.robots,
        } | self.routes
        healthy = self.one_connection and self.outcome == Outcome()
        return Site(
            self.host, self.apex, trait, self.names, routes, self.certificates, self.links, self.outcome, healthy
        )


@dataclass(frozen=True, slots=True)
class Trait:
    """A kind of site. `host` and `apex` are templates, with `{number}` for the number of the site."""

    name: str
    host: str
    apex: str
    change: Callable[[Draft], None]

    def host_of(self, number: str) -> str:
        """Return the host's name in A-labels."""
        return _a_labels(self.host.format(number=number))

    def make(self, number: str, rng: random.Random, neighbours: Sequence[str]) -> Site:
        """Return the site of that number."""
        draft = Draft(number, _a_labels(self.apex.format(number=number)), self.host_of(number), rng, neighbours)
        self.change(draft)
        return draft.finish(self.name)


TRAITS: dict[str, Trait] = {}
"""Every trait by its name, in the order of this file."""

_Change = Callable[[Draft], None]


def _trait(host: str = "site{number}.test", apex: str = "site{number}.test") -> Callable[[_Change], _Change]:
    def register(change: _Change) -> _Change:
        name = change.__name__
        TRAITS[name] = Trait(name, host, apex, change)
        return change

    return register


def _a_labels(name: str) -> str:
    return name.encode("idna").decode()


WWW = "www.site{number}.test"


@_trait()
def healthy(site: Draft) -> None:
    """One address, no robots.txt, a page of 20 KB, a good certificate."""


# DNS


@_trait()
def several_addresses(site: Draft) -> None:
    """Four addresses, all of which serve."""
    site.own(a=WEB_ADDRESSES)


@_trait()
def ipv6_refused(site: Draft) -> None:
    """An AAAA where nothing listens: the A is to be tried next."""
    site.own(aaaa=("::1",))


@_trait()
def ipv6_no_route(site: Draft) -> None:
    """An AAAA in a documentation range (RFC 3849), which must not be dialled: the A is."""
    site.own(aaaa=(f"2001:db8::{site.rng.randrange(1, 0xFFFF):x}",))


@_trait(WWW)
def alias_one_hop(site: Draft) -> None:
    """An alias of another apex, whose name servers are not the host's."""
    end = Name(a=(WEB_ADDRESSES[0],), ns=(f"ns1.cdn{site.number}.test",))
    site.alias(f"cdn{site.number}.test", end=end)


@_trait(WWW)
def alias_three_hops(site: Draft) -> None:
    """An alias of an alias of an alias."""
    chain = (f"a.edge{site.number}.test", f"b.edge{site.number}.test", f"c.cdn{site.number}.test")
    site.alias(*chain, end=Name(a=(WEB_ADDRESSES[1],)))


@_trait(WWW)
def alias_of_mail_host(site: Draft) -> None:
    """An alias whose end has an exchanger: the host uses it."""
    end = Name(a=(WEB_ADDRESSES[2],), mx=((5, f"in.post{site.number}.test"),))
    site.alias(f"web.post{site.number}.test", end=end)


@_trait(WWW)
def alias_dangling(site: Draft) -> None:
    """An alias of a name that is gone: the hop is kept, and so are the name servers of the apex."""
    site.alias(f"gone{site.number}.test")
    site.dns_only("nxdomain")


@_trait(WWW)
def alias_nodata(site: Draft) -> None:
    """An alias of a name without addresses."""
    site.alias(f"empty.cdn{site.number}.test", end=Name(txt=(b"nothing here",)))
    site.dns_only("nodata")


@_trait()
def mx_two(site: Draft) -> None:
    """Two exchangers, one of them twice."""
    site.own(mx=((10, f"mx1.site{site.number}.test"), (20, "mx2.mail1.test"), (30, "mx2.mail1.test")))


@_trait()
def mx_null(site: Draft) -> None:
    """A null MX (RFC 7505): no mail, no edge."""
    site.own(mx=((0, "."),))


@_trait()
def mx_without_address(site: Draft) -> None:
    """A mail domain without a web site: NODATA, and an exchanger all the same."""
    site.own(a=(), mx=((10, "mx1.mail1.test"),))
    site.dns_only("nodata")


@_trait()
def mx_servfail(site: Draft) -> None:
    """One type of five fails: the others count."""
    site.own(mx=(), failing=frozenset({"MX"}))


@_trait(WWW)
def ns_at_apex_only(site: Draft) -> None:
    """The name servers are those of the apex, and are recorded for it."""


@_trait(WWW)
def ns_of_subdomain(site: Draft) -> None:
    """A delegated subdomain: its own name servers count, the apex is not asked."""
    site.own(ns=(f"ns1.www.site{site.number}.test", "ns2.dns1.test"))


@_trait()
def ns_none(site: Draft) -> None:
    """No name server anywhere."""
    site.own(ns=())


@_trait()
def txt_big(site: Draft) -> None:
    """A TXT answer of 4 KB: truncated, and asked again over TCP."""
    site.own(txt=(b"v=spf1 include:_spf.mail1.test -all", b"x" * 4000))


@_trait()
def dns_many_records(site: Draft) -> None:
    """60 AAAA (none may be dialled) and 40 MX: truncated, and asked again over TCP."""
    site.own(
        aaaa=tuple(f"2001:db8:{n:x}::1" for n in range(1, 61)),
        mx=tuple((n, f"exchanger-number-{n}.mail{site.number}.test") for n in range(40)),
    )


@_trait()
def dns_slow(site: Draft) -> None:
    """Every answer takes 300 ms."""
    site.own(delay_ms=300)


@_trait()
def dns_nxdomain(site: Draft) -> None:
    """Neither the name nor its apex exists."""
    site.names.clear()
    site.dns_only("nxdomain")


@_trait()
def dns_nodata(site: Draft) -> None:
    """The name exists, and has no record of the five types."""
    site.names = {site.host: Name()}
    site.dns_only("nodata")


@_trait()
def dns_servfail(site: Draft) -> None:
    """The server fails at every question."""
    site.names = {site.host: Name(rcode=SERVFAIL)}
    site.dns_only("servfail")


@_trait()
def dns_refused(site: Draft) -> None:
    """The server refuses every question."""
    site.names = {site.host: Name(rcode=REFUSED)}
    site.dns_only("refused")


@_trait()
def dns_silent(site: Draft) -> None:
    """The server never answers."""
    site.names = {site.host: Name(silent=True)}
    site.dns_only("timeout")


@_trait("bücher{number}.test", "bücher{number}.test")
def idn_host(site: Draft) -> None:
    """An internationalised name."""


def _excluded(site: Draft) -> None:
    """Leave a healthy site behind the name, which must not be touched."""
    site.outcome = Outcome("ok", "excluded_tld", "excluded_tld", "excluded_tld")


@_trait("agency{number}.gov", "agency{number}.gov")
def excluded_gov(site: Draft) -> None:
    """Under `.gov`: DNS only."""
    _excluded(site)


@_trait("base{number}.mil", "base{number}.mil")
def excluded_mil(site: Draft) -> None:
    """Under `.mil`: DNS only."""
    _excluded(site)


@_trait("www.body{number}.int", "body{number}.int")
def excluded_int(site: Draft) -> None:
    """Under `.int`: DNS only."""
    _excluded(site)


# robots.txt


@_trait()
def robots_allow(site: Draft) -> None:
    """All is allowed but one folder."""
    site.robots = pages.robots("User-agent: *\nDisallow: /private/\n")


@_trait()
def robots_empty(site: Draft) -> None:
    """An empty file allows all."""
    site.robots = pages.robots("")


@_trait()
def robots_forbidden(site: Draft) -> None:
    """A 403 is "unavailable", which allows (RFC 9309, section 2.3.1.3)."""
    site.robots = Response(status=403, headers=(("Content-Type", "text/html"),), body=(b"<h1>Forbidden</h1>",))


@_trait()
def robots_deny_others(site: Draft) -> None:
    """Another robot is denied, and all the rest, and we are let in."""
    site.robots = pages.robots(
        f"User-agent: OtherBot\nUser-agent: *\nDisallow: /\n\nUser-agent: {USER_AGENT_TOKEN}\nAllow: /\n"
    )


@_trait()
def robots_root_only(site: Draft) -> None:
    """All is denied but the root page: the longest match wins (RFC 9309, section 2.2.2)."""
    site.robots = pages.robots("User-agent: *\nDisallow: /\nAllow: /$\n")


@_trait()
def robots_slow(site: Draft) -> None:
    """The file takes 500 ms."""
    site.robots = replace(pages.robots("User-agent: *\nAllow: /\n"), delay_ms=500)


@_trait()
def robots_redirect_same_host(site: Draft) -> None:
    """The file lies elsewhere on the host."""
    site.robots = pages.redirect("/static/robots.txt")
    site.routes["https", site.host, "/static/robots.txt"] = pages.robots("User-agent: *\nDisallow: /private/\n")
    site.one_connection = False


@_trait()
def robots_redirect_other_host(site: Draft) -> None:
    """The file lies on a host of another domain, and is followed there (RFC 9309, section 2.3.1.2)."""
    _robots_elsewhere(site, pages.robots("User-agent: *\nAllow: /\n"))
    site.one_connection = False


@_trait()
def robots_redirect_denies(site: Draft) -> None:
    """The file on the host of another domain denies."""
    _robots_elsewhere(site, pages.robots(DENY_ALL))
    site.dns_only(robots="robots_denied")


def _robots_elsewhere(site: Draft, robots: Response) -> None:
    other = f"robots{site.number}.test"
    site.names[other] = Name(a=(WEB_ADDRESSES[3],))
    site.certificates[other] = Certificate((other,), f"robots-key-{site.number}")
    site.robots = pages.redirect(f"https://{other}/robots.txt", 302)
    for scheme in ("https", "http"):
        site.routes[scheme, other, "/robots.txt"] = robots


@_trait()
def robots_500_kb(site: Draft) -> None:
    """A file just under the cap whose last line allows what its first denies."""
    site.robots = pages.robots("User-agent: *\nDisallow: /\n" + "# filler\n" * 55_000 + "Allow: /\n")


@_trait()
def robots_over_cap(site: Draft) -> None:
    """A file over the cap: what is behind the cap is not read, and does not deny."""
    filler = "# filler\n" * (ROBOTS_CAP_BYTES // 9 + 10_000)
    site.robots = pages.robots("User-agent: *\nDisallow: /private/\n" + filler + "Disallow: /\n")
    site.one_connection = False  # whoever stops reading at the cap has to leave the connection


@_trait()
def robots_deny_all(site: Draft) -> None:
    """Everybody is denied."""
    site.robots = pages.robots(DENY_ALL)
    site.dns_only(robots="robots_denied")


@_trait()
def robots_deny_us(site: Draft) -> None:
    """We alone are denied, in another case of letters."""
    site.robots = pages.robots(f"User-agent: *\nAllow: /\n\nUser-agent: {USER_AGENT_TOKEN.lower()}\nDisallow: /\n")
    site.dns_only(robots="robots_denied")


@_trait()
def robots_deny_after_bom(site: Draft) -> None:
    """A byte order mark stands before the group that denies."""
    site.robots = pages.robots("\ufeff" + DENY_ALL)
    site.dns_only(robots="robots_denied")


@_trait()
def robots_503(site: Draft) -> None:
    """A server error denies (RFC 9309, section 2.3.1.4)."""
    site.robots = Response(status=503, headers=(("Content-Type", "text/plain"),), body=(b"busy",))
    site.dns_only(robots="robots_unreachable")


@_trait()
def robots_is_html(site: Draft) -> None:
    """A challenge page stands in place of the file: no permission."""
    site.robots = pages.html("<h1>Checking your browser</h1><script>challenge()</script>")
    site.dns_only(robots="robots_unreachable")


# Connections and certificates


@_trait()
def close_after_robots(site: Draft) -> None:
    """The server closes after robots.txt, and says so: the page takes a second connection."""
    site.robots = replace(pages.robots("User-agent: *\nAllow: /\n"), close=True)
    site.one_connection = False


@_trait()
def no_https(site: Draft) -> None:
    """Only HTTP is served; its robots.txt allows, its page is not asked for."""
    _http_only(site)
    site.outcome = Outcome("ok", "ok", "connect_failed", "connect_failed")


@_trait()
def no_https_robots_deny(site: Draft) -> None:
    """Only HTTP is served, and its robots.txt denies."""
    _http_only(site)
    site.robots = pages.robots(DENY_ALL)
    site.dns_only(robots="robots_denied")


def _http_only(site: Draft) -> None:
    site.own(a=(HTTP_ONLY_ADDRESS,))
    site.routes["http", site.host, "/"] = site.page


@_trait()
def no_web(site: Draft) -> None:
    """Nothing listens: robots.txt is unreachable."""
    site.own(a=(DEAD_ADDRESS,))
    site.dns_only(robots="robots_unreachable")


@_trait()
def tls_alert(site: Draft) -> None:
    """The handshake ends in an alert, and no certificate is sent."""
    site.own(a=(ALERT_ADDRESS,))
    _no_certificate(site)


@_trait()
def tls_closed(site: Draft) -> None:
    """The server closes in the middle of the handshake, without a word."""
    _no_certificate(site)


def _no_certificate(site: Draft) -> None:
    site.certificates.clear()
    site.outcome = Outcome("ok", "ok", "tls_failed", "tls_failed")


@_trait()
def cert_rsa(site: Draft) -> None:
    """An RSA key, the lab's only one."""
    site.certificates[site.host] = Certificate((site.host,), "rsa")


@_trait()
def cert_shared_key(site: Draft) -> None:
    """A certificate of its own, for a key that other hosts use too."""
    site.certificates[site.host] = Certificate((site.host,), "shared-key")


@_trait()
def cert_many_sans(site: Draft) -> None:
    """A hundred names, the host's the last."""
    names = tuple(f"customer{n}.site{site.number}.test" for n in range(99))
    site.certificates[site.host] = Certificate((*names, site.host), f"key-{site.number}")


@_trait(WWW)
def cert_wildcard(site: Draft) -> None:
    """A wildcard that covers the host."""
    site.certificates[site.host] = Certificate((f"*.{site.apex}",), f"key-{site.number}")


@_trait()
def cert_with_intermediate(site: Draft) -> None:
    """Signed by an intermediate authority, which is sent."""
    site.certify("with_intermediate")


@_trait()
def cert_missing_intermediate(site: Draft) -> None:
    """Signed by an intermediate authority, which is not sent."""
    _unverified(site, "missing_intermediate")


@_trait()
def cert_expired(site: Draft) -> None:
    """Expired yesterday."""
    _unverified(site, "expired")


@_trait()
def cert_not_yet_valid(site: Draft) -> None:
    """Valid from tomorrow."""
    _unverified(site, "not_yet_valid")


@_trait()
def cert_self_signed(site: Draft) -> None:
    """Signed by its own key."""
    _unverified(site, "self_signed")


@_trait()
def cert_unknown_issuer(site: Draft) -> None:
    """Signed by an authority that nobody knows."""
    _unverified(site, "unknown_issuer")


@_trait()
def cert_wrong_name(site: Draft) -> None:
    """For another name."""
    site.certificates[site.host] = Certificate((f"other{site.number}.test",), f"key-{site.number}")
    _unverified(site, "good")


@_trait()
def cert_expired_robots_deny(site: Draft) -> None:
    """Expired, and robots.txt over HTTP denies: DNS only."""
    _unverified(site, "expired")
    site.http_robots = pages.robots(DENY_ALL)
    site.dns_only(robots="robots_denied")


@_trait()
def cert_expired_robots_503(site: Draft) -> None:
    """Expired, and robots.txt over HTTP is a server error: no denial, so the certificate is kept."""
    _unverified(site, "expired")
    site.http_robots = Response(status=503, body=(b"busy",))
    site.outcome = replace(site.outcome, robots="robots_unreachable")


@_trait()
def cert_expired_http_redirects(site: Draft) -> None:
    """Expired, and HTTP sends everybody to HTTPS, robots.txt too: as if it were unreachable."""
    _unverified(site, "expired")
    site.http_robots = pages.redirect(f"https://{site.host}/robots.txt")
    site.outcome = replace(site.outcome, robots="robots_unreachable")


def _unverified(site: Draft, kind: CertificateKind) -> None:
    """Serve a certificate that does not verify: it is kept, the page is not read."""
    site.certify(kind)
    site.outcome = Outcome("ok", "ok", "tls_failed", "tls_failed")


# Pages


@_trait()
def page_gzip(site: Draft) -> None:
    """Compressed with gzip."""
    site.page = pages.gzipped(site.page.body)


@_trait()
def page_deflate(site: Draft) -> None:
    """Compressed with deflate in its zlib wrapping."""
    site.page = pages.deflated(site.page.body, raw=False)


@_trait()
def page_deflate_raw(site: Draft) -> None:
    """Compressed with bare deflate."""
    site.page = pages.deflated(site.page.body, raw=True)


@_trait()
def page_chunked(site: Draft) -> None:
    """In chunks (RFC 9112, section 7.1)."""
    site.page = replace(site.page, framing="chunked")


@_trait()
def page_gzip_chunked(site: Draft) -> None:
    """Compressed and in chunks."""
    site.page = replace(pages.gzipped(site.page.body), framing="chunked")


@_trait()
def page_until_close(site: Draft) -> None:
    """Without a length: the end of the connection is the end of the page."""
    site.page = replace(site.page, framing="close")


@_trait()
def page_windows_1252(site: Draft) -> None:
    """In windows-1252, as the header says; a link has a letter that is not ASCII."""
    _non_ascii_link(site, "windows-1252", "text/html; charset=windows-1252")


@_trait()
def page_meta_charset(site: Draft) -> None:
    """In windows-1252, as only a `meta` element says."""
    _non_ascii_link(site, "windows-1252", "text/html", head='<meta charset="windows-1252">')


@_trait()
def page_utf_8(site: Draft) -> None:
    """In UTF-8, as the header says."""
    _non_ascii_link(site, "utf-8", "text/html;charset=UTF-8")


@_trait()
def page_utf_16(site: Draft) -> None:
    """In UTF-16 with a byte order mark."""
    _non_ascii_link(site, "utf-16", "text/html")


def _non_ascii_link(site: Draft, encoding: str, content_type: str, head: str = "") -> None:
    host = f"café{site.number}.test"
    site.page = pages.html_in(pages.anchors(f"https://{host}/"), encoding, content_type=content_type, head=head)
    site.links = frozenset({_a_labels(host)})


@_trait()
def page_big(site: Draft) -> None:
    """Larger than 512 KiB: what stands behind the cap does not count."""
    site.page = replace(site.page, body=_big_body(site))


@_trait()
def page_big_gzip(site: Draft) -> None:
    """Larger than 512 KiB once it is decoded."""
    site.page = pages.gzipped(_big_body(site))


def _big_body(site: Draft) -> tuple[bytes, ...]:
    before, after = f"before{site.number}.test", f"after{site.number}.test"
    site.links = frozenset({before})
    return pages.big(pages.anchors(f"https://{before}/"), pages.anchors(f"https://{after}/"))


@_trait()
def page_slow(site: Draft) -> None:
    """The page takes 500 ms."""
    site.page = replace(site.page, delay_ms=500)


@_trait()
def page_empty(site: Draft) -> None:
    """A page of no bytes."""
    site.page = Response(headers=(("Content-Type", pages.HTML),))
    site.links = frozenset()


@_trait()
def page_json(site: Draft) -> None:
    """No HTML."""
    body = b'{"html": "<a href=https://inside-json.test/>"}'
    site.page = Response(headers=(("Content-Type", "application/json"),), body=(body,))
    site.outcome = replace(site.outcome, http="not_html")


@_trait()
def page_plain_text(site: Draft) -> None:
    """HTML that is served as text."""
    site.page = replace(site.page, headers=(("Content-Type", "text/plain; charset=utf-8"),))
    site.outcome = replace(site.outcome, http="not_html")


@_trait()
def page_404(site: Draft) -> None:
    """Not found, with links in the error page."""
    site.page = replace(site.page, status=404)
    site.outcome = replace(site.outcome, http="http_error")


@_trait()
def page_500(site: Draft) -> None:
    """A server error, with links in the error page."""
    site.page = replace(site.page, status=500)
    site.outcome = replace(site.outcome, http="http_error")


@_trait()
def page_not_http(site: Draft) -> None:
    """Bytes that are no HTTP, after a sound robots.txt."""
    site.page = Response(body=(b"\x00\xff220 smtp.lab.test ESMTP\r\n\r\n",), framing="raw")
    site.outcome = replace(site.outcome, http="bad_response")


@_trait()
def redirect_path(site: Draft) -> None:
    """The page is elsewhere on the host."""
    site.routes["https", site.host, "/home"] = site.page
    site.page = pages.redirect("/home", 302)
    site.one_connection = False


@_trait()
def redirect_www(site: Draft) -> None:
    """The page is on `www.`, which has a certificate and a robots.txt of its own; its links are the host's."""
    www = f"www.{site.host}"
    site.names[www] = Name(a=(WEB_ADDRESSES[0],))
    site.certificates[www] = Certificate((www,), f"www-key-{site.number}")
    site.routes["https", www, "/"] = site.page
    site.routes["https", www, "/robots.txt"] = pages.robots("User-agent: *\nDisallow: /private/\n")
    site.page = pages.redirect(f"https://{www}/", 308)
    site.one_connection = False


@_trait()
def redirect_away(site: Draft) -> None:
    """The page is on another registrable domain, which would serve it, and is not followed."""
    other = f"parked{site.number}.test"
    site.names[other] = Name(a=(WEB_ADDRESSES[0],))
    site.certificates[other] = Certificate((other,), f"parked-key-{site.number}")
    site.routes["https", other, "/"] = site.page
    site.page = pages.redirect(f"https://{other}/", 302)
    site.outcome = replace(site.outcome, http="redirected")


@_trait()
def redirect_loop(site: Draft) -> None:
    """The page redirects to itself."""
    site.page = pages.redirect(f"https://{site.host}/", 302)
    site.outcome = replace(site.outcome, http="http_error")


# Links


@_trait()
def links_all_elements(site: Draft) -> None:
    """One outside host in each element that links."""
    elements = {
        "a": '<a href="{}">x</a>',
        "area": '<map><area href="{}"></map>',
        "link": '<link rel="stylesheet" href="{}">',
        "script": '<script src="{}"></script>',
        "img": '<img src="{}">',
        "iframe": '<iframe src="{}"></iframe>',
        "source": '<video><source src="{}"></video>',
        "form": '<form action="{}"></form>',
        "video": '<video src="{}"></video>',
        "audio": '<audio src="{}"></audio>',
        "embed": '<embed src="{}">',
        "object": '<object data="{}"></object>',
    }
    hosts = {name: f"{name}.elements{site.number}.test" for name in elements}
    content = "\n".join(markup.format(f"https://{hosts[name]}/x") for name, markup in elements.items())
    site.show(content, *hosts.values())


@_trait()
def links_base(site: Draft) -> None:
    """`base` gives relative links another host."""
    host = f"base{site.number}.test"
    site.show('<a href="page.html">x</a>', host, head=f'<base href="https://{host}/folder/">')


@_trait()
def links_srcset(site: Draft) -> None:
    """Candidates of `srcset`, with commas in URLs and a `data:` URL."""
    n = site.number
    site.show(
        f'<img srcset="https://one{n}.test/a.png 1x, https://two{n}.test/b.png 2x">'
        f'<picture><source srcset="https://three{n}.test/a,b.png 100w,https://four{n}.test/c.png 200w"></picture>'
        f'<img srcset="data:image/gif;base64,R0lGODlhAQABAAAAACw= 1x, https://five{n}.test/d.png 2x">',
        *(f"{word}{n}.test" for word in ("one", "two", "three", "four", "five")),
    )


@_trait()
def links_meta_refresh(site: Draft) -> None:
    """A refresh to another host."""
    host = f"refresh{site.number}.test"
    site.show("moved", host, head=f'<meta http-equiv="Refresh" content="5; URL=\'https://{host}/new\'">')


@_trait()
def links_idn(site: Draft) -> None:
    """Hosts in letters of many scripts, and in A-labels."""
    words = ("münchen", "例え", "пример")
    hosts = [f"{word}{site.number}.test" for word in words]
    ready = _a_labels(f"ærø{site.number}.test")
    site.show(pages.anchors(*(f"https://{h}/" for h in (*hosts, ready))), *map(_a_labels, hosts), ready)


@_trait()
def links_spelled_oddly(site: Draft) -> None:
    """Spellings that browsers understand (WHATWG URL, section 4.4)."""
    n = site.number
    urls = (
        f"HTTPS://UPPER{n}.Test/Path",
        f"//scheme{n}.test/x",
        f"https://port{n}.test:8443/",
        f"https://user:secret@login{n}.test/",
        f"https://dot{n}.test./",
        f"  \n https://spaces{n}.test/ \t",
        f"https:\\\\back{n}.test\\x",
        f"https://new\nline{n}.test/",
        f"https://query{n}.test?x=1",
        f"https://fragment{n}.test#x",
    )
    words = ("upper", "scheme", "port", "login", "dot", "spaces", "back", "newline", "query", "fragment")
    site.show(pages.anchors(*urls), *(f"{word}{n}.test" for word in words))


@_trait()
def links_messy_markup(site: Draft) -> None:
    """Markup as it is in the world: unquoted, upper case, entities, nothing closed."""
    n = site.number
    site.show(
        f"<div><A HREF=https://unquoted{n}.test/x>one<b><a href='https://single{n}.test/'>two"
        f'<table><a href="https&#58;//entity{n}.test/?a=1&amp;b=2">three<tr><td><img src=https://image{n}.test/i.png></i>',
        *(f"{word}{n}.test" for word in ("unquoted", "single", "entity", "image")),
    )


@_trait()
def links_not_elements(site: Draft) -> None:
    """What looks like a link and is none."""
    link = f"<a href=https://hidden{site.number}.test/>x</a>"
    site.show(
        f"<!-- {link} --><script>var x = '{link}';</script><style>/* {link} */</style><textarea>{link}</textarea>"
        f'<a data-href="https://hidden{site.number}.test/">x</a>',
        head=f"<title>{link}</title>",
    )


@_trait()
def links_not_domains(site: Draft) -> None:
    """Addresses, single labels, and schemes that are not of the web."""
    n = site.number
    site.link(
        f"mailto:someone@mail{n}.test",
        f"ftp://ftp{n}.test/",
        "javascript:void(0)",
        "data:text/html,x",
        "tel:+1234567",
        "http://127.0.0.1/",
        "http://192.0.2.7:8080/",
        "http://2130706433/",
        "https://[2001:db8::1]/",
        "http://localhost/",
        "http://intranet/",
        "https://",
        "#top",
        "",
    )


@_trait()
def links_same_domain(site: Draft) -> None:
    """Subdomains of its own registrable domain, and itself."""
    site.link(f"https://shop.{site.apex}/", f"https://{site.host}/x", "/y", f"//a.b.{site.apex}/")
