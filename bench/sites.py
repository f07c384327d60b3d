"""The content of the bench lab: pages, robots files, zones and certificates for N healthy sites.

Runs as a program of its own (`python bench/sites.py DIR HOSTS`), so that what it needs in memory is not counted
in the peak of the programs that `run.py` starts from its own process image.

Site N is `www.siteN.test`. `test` is on no suffix list, so `siteN.test` is its registrable domain. What the sites
hold comes in `VARIANTS` kinds: site N is of kind N modulo `VARIANTS`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VARIANTS = 64
CERTIFICATES_MAX = 2048
"""nginx keeps an SSL_CTX for each; beyond this many sites, several share a certificate by its names."""
PAGE_BYTES = 20_000
OUTSIDE_DOMAINS = 15
INSIDE_LINKS = 45
ROBOTS_RULES = 50
NO_ROBOTS_EVERY = 8
"""One kind in eight answers 404 to /robots.txt."""
SITE_NETWORK = ipaddress.ip_network("10.213.0.128/25")
"""More than one address: a client that closes first leaves its port waiting for 60 s, per address and port."""
LIFETIME = dt.timedelta(days=2)
EDGES_A_HOST = {"RESOLVES_TO": 1, "USES_NS": 2, "USES_MX": 2, "LINKS_TO": OUTSIDE_DOMAINS, "USES_CERT": 1}


def host(site: int) -> str:
    """The name that is probed for site number `site`."""
    return f"www.site{site}.test"


def page(kind: int) -> str:
    """A page of about 400 tags: 45 links inside, 15 to hosts of other registrable domains, text up to 20 KB."""
    blocks = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Kind {kind}</title>',
        '<link rel="stylesheet" href="/style.css"><script src="/app.js"></script></head><body><nav><ul>',
    ]
    blocks += [f'<li><a class="nav" href="/section/{n}?kind={kind}">Section {n}</a></li>' for n in range(INSIDE_LINKS)]
    blocks.append("</ul></nav><main>")
    blocks += [
        f'<p>See <a rel="noopener" href="https://www.outside{kind}-{n}.test/at?n={n}">place {n}</a> &amp; on.</p>'
        for n in range(OUTSIDE_DOMAINS)
    ]
    tail = "</main></body></html>"
    paragraphs = 70
    spare = PAGE_BYTES - sum(map(len, blocks)) - len(tail)
    text = ("Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. " * 4)[
        : spare // paragraphs - len('<p><em>9</em> <span class="t"></span></p>')
    ]
    blocks += [f'<p><em>{n % 10}</em> <span class="t">{text}</span></p>' for n in range(paragraphs)]
    return "".join(blocks) + tail


def robots(kind: int) -> str:
    """A robots file of 50 rules in which `/` stays open to everyone."""
    rules = [f"{'Allow' if n % 7 == 0 else 'Disallow'}: /area{kind}/{n}/*.html" for n in range(ROBOTS_RULES)]
    return "User-agent: *\n" + "\n".join(rules) + "\n\nSitemap: /sitemap.xml\n"


def zone(kind: int) -> str:
    """The zone of every site of one kind: all names are relative, so one file serves them all."""
    return (
        "$TTL 3600\n"
        f"@ SOA ns1.dns{kind}.test. hostmaster.dns{kind}.test. 1 7200 3600 1209600 300\n"
        f"@ NS ns1.dns{kind}.test.\n@ NS ns2.dns{kind}.test.\n"
        f"www A {SITE_NETWORK[1 + kind]}\n"
        f"www MX 10 mx1.mail{kind}.test.\nwww MX 20 mx2.mail{kind}.test.\n"
        f'www TXT "v=spf1 mx include:_spf.mail{kind}.test -all"\n'
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
    )


def _write_pair(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    pem = serialization.Encoding.PEM
    stem.with_suffix(".pem").write_bytes(certificate.public_bytes(pem))
    stem.with_suffix(".key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def sites_of_certificate(number: int, hosts: int) -> range:
    """The sites whose names stand in certificate `number`; all of one kind, since VARIANTS divides the step."""
    return range(number, hosts, CERTIFICATES_MAX)


def write_certificates(folder: Path, hosts: int) -> None:
    """Write `ca.pem` and one ECDSA P-256 pair (`N.pem`, `N.key`) per site, up to `CERTIFICATES_MAX`."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = "Bench Lab CA"
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_pair(folder / "ca", ca, ca_key)
    for number in range(min(hosts, CERTIFICATES_MAX)):
        names = list(_names_of_certificate(number, hosts))
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(names[0], ca_name, key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_id, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write_pair(folder / str(number), leaf, key)


def _names_of_certificate(number: int, hosts: int) -> Iterator[str]:
    for site in sites_of_certificate(number, hosts):
        yield host(site)
        yield host(site).removeprefix("www.")


def write(folder: Path, hosts: int) -> None:
    """Write all of it below `folder`: `hosts.txt`, `certs/`, `pages/KIND/`, `zones/KIND.zone`, `expected.json`."""
    for name in ("certs", "pages", "zones"):
        (folder / name).mkdir()
    (folder / "hosts.txt").write_text("".join(f"{host(site)}\n" for site in range(hosts)))
    write_certificates(folder / "certs", hosts)
    for kind in range(VARIANTS):
        root = folder / "pages" / str(kind)
        root.mkdir()
        (root / "index.html").write_text(page(kind))
        if kind % NO_ROBOTS_EVERY:
            (root / "robots.txt").write_text(robots(kind))
        (folder / "zones" / f"{kind}.zone").write_text(zone(kind))
    (folder / "expected.json").write_text(json.dumps(EDGES_A_HOST))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is reported by run.py
    write(Path(sys.argv[1]), int(sys.argv[2]))
