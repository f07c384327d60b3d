"""The lab's certificate authority: keys, leaf certificates of every kind, and the contexts to serve them.

Beside the servers; used by the lab's one thread only. P-256 keys are derived from the seed and a name, so the
expected graph is known before anything is signed; RSA keys are made anew in each lab. Nothing here is secret.
"""

import base64
import datetime as dt
import functools
import hashlib
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spyder.lab.records import Certificate, CertificateKind

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-4, D.1.2.3
RSA_BITS = 2048
COMMON_NAME_CHARS = 64  # RFC 5280, appendix A.1, ub-common-name
_DAY = dt.timedelta(days=1)
_ROOT, _INTERMEDIATE, _STRANGER = "root", "intermediate", "stranger"


class Authority:
    """A root that the probe trusts, an intermediate under it, and a root that nobody trusts."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self._rsa: dict[str, rsa.RSAPrivateKey] = {}
        self._pem: dict[Certificate, bytes] = {}
        self._root = self._issuer(_ROOT, _ROOT)
        self._intermediate = self._issuer(_INTERMEDIATE, _ROOT)

    @property
    def root_pem(self) -> bytes:
        """The root's certificate."""
        return self._root.public_bytes(serialization.Encoding.PEM)

    def spki_sha256(self, key: str) -> str:
        """Return the base64 SHA-256 of a key's SubjectPublicKeyInfo in DER, by the key's name."""
        der = (
            self._key(key)
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return base64.b64encode(hashlib.sha256(der).digest()).decode()

    def pem(self, leaf: Certificate) -> bytes:
        """Return a leaf's key, its certificate and what is sent with it. The same bytes whenever asked."""
        if leaf not in self._pem:
            key = self._key(leaf.key).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            chain = [self._sign(leaf)] + [self._intermediate] * (leaf.kind == "with_intermediate")
            certificates = (certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
            self._pem[leaf] = key + b"".join(certificates)
        return self._pem[leaf]

    def _key(self, name: str) -> Key:
        if name.startswith("rsa"):
            if name not in self._rsa:
                self._rsa[name] = rsa.generate_private_key(65537, RSA_BITS)
            return self._rsa[name]
        digest = hashlib.sha512(f"{self._seed}/{name}".encode()).digest()
        return ec.derive_private_key(int.from_bytes(digest) % (P256_ORDER - 1) + 1, ec.SECP256R1())

    def _sign(self, leaf: Certificate) -> x509.Certificate:
        begin, end = self._lifetime(leaf.kind)
        issuer = self._issuer_of(leaf)
        subject = _name(leaf.names[-1][:COMMON_NAME_CHARS])
        issuer_name = subject if issuer == leaf.key else _issuer_name(issuer)
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in leaf.names])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = self._builder(leaf.key, subject, issuer, issuer_name)
        return (
            builder.not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(names, critical=False)
            .add_extension(usage, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key(issuer), hashes.SHA256())
        )

    def _issuer_of(self, leaf: Certificate) -> str:
        if leaf.kind == "self_signed":
            return leaf.key
        if leaf.kind == "unknown_issuer":
            return _STRANGER
        return _INTERMEDIATE if leaf.kind.endswith("intermediate") else _ROOT

    def _lifetime(self, kind: CertificateKind) -> tuple[dt.datetime, dt.datetime]:
        if kind == "expired":
            return self._now - 90 * _DAY, self._now - _DAY
        if kind == "not_yet_valid":
            return self._now + _DAY, self._now + 90 * _DAY
        return self._now - _DAY, self._now + 90 * _DAY

    def _issuer(self, name: str, issuer: str) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            self._builder(name, _issuer_name(name), issuer, _issuer_name(issuer))
            .not_valid_before(self._now - 30 * _DAY)
            .not_valid_after(self._now + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key(issuer), hashes.SHA256())
        )

    def _builder(self, key: str, subject: x509.Name, issuer: str, issuer_name: x509.Name) -> x509.CertificateBuilder:
        """Return what all certificates share, the key identifiers of RFC 5280, section 4.2.1, among it."""
        public = self._key(key).public_key()
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key(issuer).public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority, critical=False)
        )


@functools.cache
def _issuer_name(name: str) -> x509.Name:
    return _name(f"spyder lab {name}")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def server_context(pem: bytes, scratch: Path) -> ssl.SSLContext:
    """Return a context that serves the key and certificates of `pem`.

    `ssl` loads them from a file only, so they pass through `scratch`. No session tickets: every connection is
    a whole handshake, as it is between hosts that meet for the first time.
    """
    scratch.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(scratch)
    context.num_tickets = 0
    return context
