"""What a visit yields: nodes, edges and one outcome; and the batch that carries them.

Pure values. Their field names are the wire format (`docs/batch.schema.json`): names and meanings that
SPYDER (Go) has are kept exactly, ours are additions. Times are RFC 3339 strings in UTC with `Z`, made once
where a thing was observed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from spyder.model.outcomes import Status

SCHEMA_VERSION = 1


class EdgeType(StrEnum):
    """The kinds of tie between a host and something else; see `docs/batches.md`."""

    RESOLVES_TO = "RESOLVES_TO"
    USES_NS = "USES_NS"
    ALIAS_OF = "ALIAS_OF"
    USES_MX = "USES_MX"
    LINKS_TO = "LINKS_TO"
    USES_CERT = "USES_CERT"


@dataclass(frozen=True, slots=True)
class Task:
    """One host to probe, with the token of where it came from."""

    host: str
    """Lower-case A-labels, no trailing dot."""
    origin: object = None
    """What the intake needs to mark the task done (file and line, stream entry); opaque to all others."""


@dataclass(frozen=True, slots=True)
class NodeDomain:
    """A host name that was seen."""

    host: str
    apex: str
    first_seen: str
    last_seen: str

    @property
    def dedup_key(self) -> str:
        """The key under which one such node is kept once."""
        return f"domain|{self.host}"


@dataclass(frozen=True, slots=True)
class NodeIP:
    """An IP address that was seen, as text (RFC 5952 for IPv6)."""

    ip: str
    first_seen: str
    last_seen: str

    @property
    def dedup_key(self) -> str:
        """The key under which one such node is kept once."""
        return f"nodeip|{self.ip}"


@dataclass(frozen=True, slots=True)
class NodeCert:
    """A leaf certificate that was seen."""

    spki_sha256: str
    """Standard base64 of the SHA-256 of the DER SubjectPublicKeyInfo."""
    subject_cn: str
    issuer_cn: str
    not_before: str | None
    not_after: str | None
    sans: Sequence[str]
    serial: str
    fingerprint_sha256: str
    """Hexadecimal SHA-256 of the whole certificate."""
    signature_algorithm: str
    verified: bool
    verify_error: str | None
    """Why verification failed, in OpenSSL's words; null when it did not."""

    @property
    def dedup_key(self) -> str:
        """The key under which one such node is kept once."""
        return f"cert|{self.spki_sha256}"


@dataclass(frozen=True, slots=True)
class Edge:
    """A tie from a host to something else, as observed by one probe in one run."""

    type: EdgeType
    source: str
    target: str
    observed_at: str
    probe_id: str
    run_id: str

    @property
    def dedup_key(self) -> str:
        """The key under which one such edge is kept once."""
        return f"edge|{self.source}|{self.type}|{self.target}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one task ended, stage by stage. N tasks in, N outcomes out."""

    host: str
    observed_at: str
    dns: Status = Status.SKIPPED
    robots: Status = Status.SKIPPED
    http: Status = Status.SKIPPED
    tls: Status = Status.SKIPPED
    elapsed_ms: int = 0
    dns_ms: int = 0
    robots_ms: int = 0
    http_ms: int = 0
    tls_ms: int = 0
    http_status: int | None = None
    """Status code of the last answer for the page (RFC 9110, section 15)."""
    redirect_to: str | None = None
    """The host to which the page redirects, when that redirect was not followed."""
    dns_errors: dict[str, str] = field(default_factory=dict)
    """Record types whose query failed although the stage as a whole did not: type to status."""
    detail: str | None = None
    """For a person: what went wrong, in a few words."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that one task yielded."""

    task: Task
    outcome: Outcome
    nodes_domain: Sequence[NodeDomain] = ()
    nodes_ip: Sequence[NodeIP] = ()
    nodes_cert: Sequence[NodeCert] = ()
    edges: Sequence[Edge] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What is spooled and shipped. It keeps its `batch_id` for ever."""

    batch_id: str
    timestamp: str
    probe_id: str
    run_id: str
    nodes_domain: Sequence[NodeDomain] = ()
    nodes_ip: Sequence[NodeIP] = ()
    nodes_cert: Sequence[NodeCert] = ()
    edges: Sequence[Edge] = ()
    outcomes: Sequence[Outcome] = ()
    schema_version: int = SCHEMA_VERSION


def rfc3339(epoch_s: float) -> str:
    """Return a moment, in seconds since the Unix epoch, as RFC 3339 text in UTC with microseconds and `Z`."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"
