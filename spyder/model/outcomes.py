"""How each stage of a visit can end: one closed list.

A failed host is a value of this list, never an exception. Every task ends with exactly one `Outcome` (see
`spyder.model.records`), which holds one status for each of the four stages.
"""

from enum import StrEnum


class Status(StrEnum):
    """The end of one stage (`dns`, `robots`, `http`, `tls`). The names are part of the wire format."""

    OK = "ok"
    """The stage yielded what it is for."""
    SKIPPED = "skipped"
    """Not attempted, because an earlier stage ended the visit."""

    NXDOMAIN = "nxdomain"
    """The name, or the last name of its alias chain, does not exist (RFC 8020)."""
    NODATA = "nodata"
    """The name exists and has no address (RFC 2308, section 2.2)."""
    SERVFAIL = "servfail"
    """The name server failed to answer (RFC 1035, section 4.1.1, RCODE 2)."""
    REFUSED = "refused"
    """The name server refused to answer (RCODE 5)."""
    ALIAS_LOOP = "alias_loop"
    """The CNAME chain returns to itself or is longer than 16 hops."""

    EXCLUDED_TLD = "excluded_tld"
    """The host is under an excluded top-level domain: DNS only."""
    OPTED_OUT = "opted_out"
    """The host's owner asked not to be probed: no packet at all."""
    ADDRESS_BLOCKED = "address_blocked"
    """Every address of the host is in a range that must not be dialled."""
    ROBOTS_DENIED = "robots_denied"
    """robots.txt forbids the root page to us: DNS only (RFC 9309)."""
    ROBOTS_UNREACHABLE = "robots_unreachable"
    """robots.txt could not be read, which means no (RFC 9309, section 2.3.1.4)."""
    BREAKER_OPEN = "breaker_open"
    """The host or its address failed too often lately."""

    TIMEOUT = "timeout"
    """The peer was too slow for this stage."""
    BUDGET_SPENT = "budget_spent"
    """The wall-clock budget of the whole host ran out."""
    CONNECT_FAILED = "connect_failed"
    """No TCP connection could be made."""
    TLS_FAILED = "tls_failed"
    """The handshake failed, or the certificate did not verify (it is kept where it was sent)."""
    BAD_RESPONSE = "bad_response"
    """The peer did not speak HTTP as RFC 9112 has it, or closed in the middle."""
    TOO_LARGE = "too_large"
    """The header, or another part that must be read whole, is beyond its cap."""
    HTTP_ERROR = "http_error"
    """The page's final status is not 2xx, or it redirected more than five times."""
    NOT_HTML = "not_html"
    """The page is not `text/html`."""
    REDIRECTED = "redirected"
    """The page redirects to another registrable domain, which is not followed."""

    INTERNAL_ERROR = "internal_error"
    """Our own fault: a worker raised; it is counted and logged."""
