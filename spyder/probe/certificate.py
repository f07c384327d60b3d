"""The certificate collector: the leaf of a connection that was made anyway, as a node."""

from spyder.model.records import NodeCert
from spyder.net.x509 import BadCertificate, read_certificate


def certificate_node(der: bytes, *, verify_error: str | None) -> NodeCert | None:
    """Return the node of a leaf certificate; None where not even its public key can be found.

    `verify_error` is why it did not verify, None where it did.
    """
    try:
        facts = read_certificate(der)
    except BadCertificate:
        return None
    return NodeCert(
        spki_sha256=facts.spki_sha256,
        subject_cn=facts.subject_cn,
        issuer_cn=facts.issuer_cn,
        not_before=facts.not_before,
        not_after=facts.not_after,
        sans=facts.sans,
        serial=facts.serial,
        fingerprint_sha256=facts.fingerprint_sha256,
        signature_algorithm=facts.signature_algorithm,
        verified=verify_error is None,
        verify_error=verify_error,
    )
