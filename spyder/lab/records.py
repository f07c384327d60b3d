"""What the lab is made of: names in DNS, answers on the web, certificates, sites, and the edges they must yield.

Pure data, shared by the servers and by the expected graph. Owned by no thread: every value is frozen.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Edge = tuple[str, str, str]
"""Source, type, target."""

WEB_ADDRESSES = ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4")
"""HTTP and HTTPS listen here."""
ALERT_ADDRESS = "127.0.2.1"
"""HTTP listens here; on the HTTPS port every handshake is ended by an alert."""
HTTP_ONLY_ADDRESS = "127.0.3.1"
"""Only HTTP listens here: the HTTPS port is refused."""
DEAD_ADDRESS = "127.0.4.1"
"""Nothing listens here: both ports are refused."""
USER_AGENT_TOKEN = "SPYDERProbe"  # noqa: S105 - a product token (RFC 9309, section 2.2.1), no secret
"""The product token that the lab's robots.txt files know."""

RecordType = Literal["A", "AAAA", "NS", "MX", "TXT"]


@dataclass(frozen=True, slots=True)
class Name:
    """All that DNS says of one name. Empty means NODATA."""

    a: tuple[str, ...] = ()
    aaaa: tuple[str, ...] = ()
    ns: tuple[str, ...] = ()
    mx: tuple[tuple[int, str], ...] = ()
    txt: tuple[bytes, ...] = ()
    cname: str = ""
    rcode: int = 0
    """Given to every question about the name, unless 0 (RFC 1035, section 4.1.1)."""
    failing: frozenset[RecordType] = frozenset()
    """Types that are answered SERVFAIL while the others are answered."""
    delay_ms: int = 0
    silent: bool = False
    """Questions are read and never answered."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: tuple[bytes, ...] = ()
    """In parts, so that many pages share one filler."""
    framing: Literal["length", "chunked", "close", "raw"] = "length"
    """How the body's end is told (RFC 9112, section 6.3); `raw`: the body is all that is sent, no header."""
    delay_ms: int = 0
    close: bool = False
    """Sent with `Connection: close`, and meant."""


CertificateKind = Literal[
    "good",
    "with_intermediate",
    "missing_intermediate",
    "expired",
    "not_yet_valid",
    "self_signed",
    "unknown_issuer",
]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A leaf certificate: the names it holds, the key it is for (`rsa...` or any other name: P-256), what is odd."""

    names: tuple[str, ...]
    key: str
    kind: CertificateKind = "good"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How each stage of the visit must end."""

    dns: str = "ok"
    robots: str = "ok"
    http: str = "ok"
    tls: str = "ok"


@dataclass(frozen=True, slots=True)
class Site:
    """One host to probe, all that serves it, and what must be found."""

    host: str
    apex: str
    trait: str
    names: Mapping[str, Name]
    routes: Mapping[tuple[str, str, str], Response]
    """By scheme, host and path. What is not here is a 404."""
    certificates: Mapping[str, Certificate]
    """By server name. At a name that is not here the handshake is cut off."""
    links: frozenset[str]
    """Outside hosts that the page links to."""
    outcome: Outcome
    healthy: bool
    """All is well, and robots.txt, page and certificate cost one TCP connection and one TLS handshake."""


def edges(site: Site, spki_of: Callable[[str], str]) -> set[Edge]:
    """Return all edges, and the only ones, that a visit of the site must yield.

    `spki_of` gives the base64 SHA-256 of the SubjectPublicKeyInfo of a key by its name.
    """
    found = _dns_edges(site)
    if site.outcome.http == "ok":
        found |= {(site.host, "LINKS_TO", link) for link in site.links}
    if site.outcome.tls in {"ok", "tls_failed"} and site.host in site.certificates:
        found.add((site.host, "USES_CERT", spki_of(site.certificates[site.host].key)))
    return found


def _dns_edges(site: Site) -> set[Edge]:
    chain = [site.host]
    while (name := site.names.get(chain[-1])) and name.cname:
        chain.append(name.cname)
    found: set[Edge] = {(here, "ALIAS_OF", there) for here, there in itertools.pairwise(chain)}
    end = site.names.get(chain[-1], Name())
    found |= {(site.host, "RESOLVES_TO", address) for address in end.a + end.aaaa}
    found |= {(site.host, "USES_MX", exchanger) for _, exchanger in end.mx if exchanger != "."}
    own = site.names.get(site.host, Name())
    owner = site.host if own.ns else site.apex
    found |= {(owner, "USES_NS", server) for server in site.names.get(owner, Name()).ns}
    return found
