"""The certificate collector: a leaf in DER becomes a node."""

import ssl

from spyder.lab.ca import Authority
from spyder.lab.records import Certificate
from spyder.probe.certificate import certificate_node


def leaf(**kinds: str) -> bytes:
    """Return a certificate of the lab's authority, in DER."""
    pem = Authority(1).pem(Certificate(("a.test", "www.a.test"), "key", **kinds))  # type: ignore[arg-type]
    return ssl.PEM_cert_to_DER_cert("-----BEGIN CERT" + pem.decode().split("-----BEGIN CERT")[1])


def test_a_certificate_that_verified_says_so() -> None:
    """Its facts are those of the certificate, and its hash that of its key."""
    node = certificate_node(leaf(), verify_error=None)
    assert node is not None
    assert node.spki_sha256 == Authority(1).spki_sha256("key")
    assert list(node.sans) == ["a.test", "www.a.test"]
    assert node.verified
    assert node.verify_error is None


def test_a_certificate_that_did_not_verify_says_why() -> None:
    """In the words that it was refused with."""
    node = certificate_node(leaf(), verify_error="certificate has expired")
    assert node is not None
    assert not node.verified
    assert node.verify_error == "certificate has expired"


def test_bytes_that_are_no_certificate_give_no_node() -> None:
    """And raise nothing."""
    for junk in (b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", leaf()[:100], b"x" * 5000):
        assert certificate_node(junk, verify_error=None) is None
