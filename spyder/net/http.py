"""HTTP/1.1 over one connection to one checked address: dial, TLS handshake, GET, GET again.

The address is given by the caller, who has judged it; the name goes into SNI, certificate check and Host only. Reads
block without a limit of their own; the watchdog cuts the socket off at the deadline (`spyder.runtime.watchdog`).
Every part of an answer is bounded: header bytes, interim answers, encoded and decoded body.

The grammar is read by llhttp (`httptools`), the decoding by zlib with a bound on its output. `requests` is not
used here: it costs fifteen times the floor, its limits are per read, and it reads a redirect's body whole.
"""

import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import httptools

from spyder.model.outcomes import Status
from spyder.runtime.watchdog import Watch, Watchdog

_READ_BYTES: Final = (
    16384  # the most that one TLS record holds (RFC 8446, section 5.1), so the most that one read gives
)
_MAX_INTERIM_ANSWERS: Final = 16
"""1xx answers before the real one; nobody needs more than two (RFC 9110, section 15.2)."""
_MAX_HEADER_FIELDS: Final = 256
_FRAMING_FACTOR: Final = 2
"""Bytes on the wire may be so many times the body's cap before we stop: chunks of one byte cost six each."""
_LENIENCIES: Final = {
    "lenient_headers": True,  # folded fields, a blank before the colon, control characters in values
    "lenient_chunked_length": True,  # Content-Length beside Transfer-Encoding, which wins (RFC 9112, section 6.3)
    "lenient_optional_cr_before_lf": True,  # bare LF (RFC 9112, section 2.2)
    "lenient_spaces_after_chunk_size": True,
}
"""What real servers send and browsers take. Dangerous only to those who pass messages on: here the peer could but
deceive us about its own answers."""


class TransportError(Exception):
    """Something between us and the peer failed; `status` says in which phase and how."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class VerificationError(TransportError):
    """The certificate did not verify; the peer may still be asked for it without verification."""

    def __init__(self, detail: str) -> None:
        super().__init__(Status.TLS_FAILED, detail)


class StaleConnection(TransportError):
    """A connection that was used before was closed before a byte of this answer came.

    The peer tired of it while it was idle; the request may be sent once more on a new one (RFC 9112, section 9.3.1).
    """

    def __init__(self, detail: str) -> None:
        super().__init__(Status.BAD_RESPONSE, detail)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection and one exchange may take."""

    connect_timeout_s: float = 5.0
    tls_timeout_s: float = 8.0
    header_timeout_s: float = 10.0
    exchange_timeout_s: float = 15.0
    max_header_bytes: int = 65536


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to dial: one address that policy has allowed, its port, and whether TLS is spoken there."""

    address: str
    port: int
    tls: bool


@dataclass(slots=True)
class Response:
    """One answer. Header names are lower case; of repeated fields the first is kept."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    truncated: bool = False
    """The body was longer than the cap, or longer than we wait for; what there is of it is in `body`."""

    @property
    def content_type(self) -> str:
        """The Content-Type field, "" where there is none."""
        return self.headers.get("content-type", "")


class Dialer:
    """Opens connections. Thread-safe; holds the two TLS contexts, which are costly to make."""

    def __init__(
        self,
        watchdog: Watchdog,
        *,
        user_agent: str,
        limits: Limits,
        ca_bundle: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watchdog = watchdog
        self._limits = limits
        self._clock = clock
        self._verifying = verifying_context(ca_bundle)
        self._lenient = lenient_context()
        self._fields = (
            f"\r\nUser-Agent: {user_agent}\r\nAccept: text/html,text/plain;q=0.9,*/*;q=0.5\r\n"
            "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n"
        ).encode("latin-1")

    def open(self, host: str, endpoint: Endpoint, *, deadline: float, verify: bool = True) -> "Connection":
        """Connect, and shake hands where the endpoint speaks TLS.

        Raises:
            VerificationError: the certificate did not verify.
            TransportError: with status connect_failed, tls_failed, timeout or budget_spent.
        """
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        try:
            stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:  # no descriptor left, or no IPv6 on this machine
            raise TransportError(Status.CONNECT_FAILED, f"connect to {endpoint.address}: {_words(error)}") from None
        watch = self._watchdog.watch(stream, min(deadline, self._clock() + self._limits.connect_timeout_s))
        self._watchdog.add(watch)
        try:
            self._connect(stream, endpoint, watch, deadline)
            if endpoint.tls:
                watch.deadline = min(deadline, self._clock() + self._limits.tls_timeout_s)
                watch.socket = self._shake_hands(stream, host, watch, deadline, verify=verify)
        except BaseException:
            watch.release()
            watch.socket.close()
            raise
        watch.deadline = deadline  # while it is idle
        authority = host if endpoint.port == (443 if endpoint.tls else 80) else f"{host}:{endpoint.port}"
        fields = f" HTTP/1.1\r\nHost: {authority}".encode("ascii") + self._fields
        return Connection(watch, fields, self._limits, self._clock)

    def _connect(self, stream: socket.socket, endpoint: Endpoint, watch: Watch, deadline: float) -> None:
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.connect((endpoint.address, endpoint.port))
        except OSError as error:
            if watch.expired:
                raise _too_slow(f"connect to {endpoint.address}", self._clock() >= deadline) from None
            raise TransportError(Status.CONNECT_FAILED, f"connect to {endpoint.address}: {_words(error)}") from None

    def _shake_hands(
        self, stream: socket.socket, host: str, watch: Watch, deadline: float, *, verify: bool
    ) -> ssl.SSLSocket:
        context = self._verifying if verify else self._lenient
        secured: ssl.SSLSocket | None = None
        try:
            # bytes, because text would go through the slow and older IDNA codec of the standard library
            secured = context.wrap_socket(stream, server_hostname=host.encode("ascii"), do_handshake_on_connect=False)
            watch.socket = secured
            secured.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise VerificationError(error.verify_message) from None
        except (OSError, ValueError) as error:
            if watch.expired:
                raise _too_slow("TLS handshake", self._clock() >= deadline) from None
            raise TransportError(Status.TLS_FAILED, f"TLS handshake: {_words(error)}") from None
        return secured


class Connection:
    """One open connection. Belongs to one worker."""

    __slots__ = ("_clock", "_fields", "_limits", "_used", "_watch", "reusable")

    def __init__(self, watch: Watch, fields: bytes, limits: Limits, clock: Callable[[], float]) -> None:
        self._watch = watch
        self._fields = fields
        self._limits = limits
        self._clock = clock
        self._used = False
        self.reusable = True
        """Whether another request may be sent on it."""

    @property
    def certificate(self) -> bytes | None:
        """The peer's leaf certificate in DER; None without TLS."""
        stream = self._watch.socket
        return stream.getpeercert(binary_form=True) if isinstance(stream, ssl.SSLSocket) else None

    def close(self) -> None:
        """Close it; may be called twice."""
        self._watch.release()
        self._watch.socket.close()

    def get(self, path: str, *, max_body_bytes: int, deadline: float) -> Response:
        """Send `GET path` and read the answer, its body up to a cap of decoded bytes.

        Raises:
            StaleConnection: it was used before, and the peer has closed it since.
            TransportError: with status timeout, budget_spent, too_large (header), or bad_response.
        """
        now = self._clock()
        end = min(deadline, now + self._limits.exchange_timeout_s)
        self._watch.deadline = min(end, now + self._limits.header_timeout_s)
        reader = _ResponseReader(self._limits.max_header_bytes, max_body_bytes)
        self.reusable = False
        try:
            self._watch.socket.sendall(b"GET " + path.encode("ascii") + self._fields)
            self._read(reader, end)
        except OSError as error:
            self._explain(reader, error, deadline)
        finally:
            reader.detach()
        self.reusable = reader.complete and reader.keep_alive and not self._watch.expired
        self._used = True
        self._watch.deadline = deadline  # while it is idle
        return reader.response

    def _read(self, reader: "_ResponseReader", end: float) -> None:
        receive = self._watch.socket.recv
        while not reader.done:
            chunk = receive(_READ_BYTES)
            if not chunk:
                if self._watch.expired:
                    raise TimeoutError
                if not reader.begun:
                    raise ConnectionError("closed before its header")
                reader.end_of_stream()
                return
            reader.feed(chunk)
            if reader.has_header:
                self._watch.deadline = end

    def _explain(self, reader: "_ResponseReader", error: OSError, deadline: float) -> None:
        """Turn a failed read into the typed error, unless there is a part of a body to be had."""
        if reader.cut_short():
            return
        if self._watch.expired:
            raise _too_slow("answer", self._clock() >= deadline) from None
        if self._used and not reader.begun:
            raise StaleConnection(f"answer: {_words(error)}") from None
        raise TransportError(Status.BAD_RESPONSE, f"answer: {_words(error)}") from None


class _ResponseReader:
    """Collects one final answer from the events of the parser. The parser calls the `on_` methods."""

    def __init__(self, max_header_bytes: int, max_body_bytes: int) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**_LENIENCIES)
        self._header_room_bytes = max_header_bytes
        self._body_room_bytes = max_body_bytes
        self._wire_room_bytes = max_header_bytes + _FRAMING_FACTOR * max_body_bytes
        self._interim_answers = 0
        self._fields = 0
        self._decoder: _Decoder | None = None
        self._chunks: list[bytes] = []
        self.response = Response()
        self.begun = False
        """A byte has come."""
        self.has_header = False
        self.complete = False
        """The whole answer was read."""
        self.keep_alive = False
        self.done = False
        """Nothing more need be read."""

    def feed(self, chunk: bytes) -> None:
        self.begun = True
        self._wire_room_bytes -= len(chunk)
        if not self.has_header:
            self._header_room_bytes -= len(chunk)
        try:
            self._parser.feed_data(chunk)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:  # else it is junk after the answer, which costs us the connection only
                raise TransportError(Status.BAD_RESPONSE, f"answer: {_grammar(error)}") from None
            self.keep_alive = False
        if not self.has_header and self._header_room_bytes < 0:
            raise TransportError(Status.TOO_LARGE, "answer: header beyond its cap")
        if self._wire_room_bytes < 0 and not self.complete:
            self._stop(truncated=True)
        if self.done:
            self._finish()

    def detach(self) -> None:
        """Let go of the parser, which holds this object in turn: else both stay until the cycle collector comes."""
        del self._parser

    def cut_short(self) -> bool:
        """Take what there is of the body as all of it; False where there is nothing."""
        self._stop(truncated=True)
        self._finish()
        return bool(self.response.body)

    def end_of_stream(self) -> None:
        """Take the end of the connection as the end of the body where no length was given (RFC 9112, 6.3)."""
        if not self.has_header:
            raise TransportError(Status.BAD_RESPONSE, "answer: closed before its header")
        headers = self.response.headers
        delimited = "content-length" in headers or "transfer-encoding" in headers
        self._stop(truncated=delimited and not self.complete)
        self._finish()

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False  # an answer to a question that nobody asked
            return
        self.response.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        self._fields += 1
        if self._fields > _MAX_HEADER_FIELDS:
            raise TransportError(Status.TOO_LARGE, "answer: too many header fields")
        if not self.has_header:  # else a trailer, which nobody reads
            self.response.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim_answers += 1
            if self._interim_answers > _MAX_INTERIM_ANSWERS:
                raise TransportError(Status.BAD_RESPONSE, "answer: endless interim answers")
            return
        self.response.status = status
        self.has_header = True
        encoding = self.response.headers.get("content-encoding", "").strip().lower()
        if encoding in ("gzip", "x-gzip"):
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        elif encoding == "deflate":
            self._decoder = _Deflate()

    def on_body(self, chunk: bytes) -> None:
        if self.done:
            return
        if self._decoder is not None:
            if self._decoder.eof:  # zlib would keep what follows, and copy all of it each time
                return
            try:
                chunk = self._decoder.decompress(chunk, self._body_room_bytes + 1)
            except zlib.error:
                self._stop(truncated=True)
                return
        if len(chunk) > self._body_room_bytes:
            chunk = chunk[: self._body_room_bytes]
            self._stop(truncated=True)
        self._chunks.append(chunk)
        self._body_room_bytes -= len(chunk)

    def on_message_complete(self) -> None:
        if self.has_header and not self.complete:
            self.complete = not self.done
            headers = self.response.headers
            ambiguous = "content-length" in headers and "transfer-encoding" in headers  # RFC 9112, section 6.3
            self.keep_alive = self._parser.should_keep_alive() and not ambiguous
            self.done = True

    def _stop(self, *, truncated: bool) -> None:
        self.done = True
        self.response.truncated = truncated

    def _finish(self) -> None:
        self.response.body = self.response.body or b"".join(self._chunks)
        self._chunks.clear()
        if self._decoder is not None and self.response.body and not self._decoder.eof:
            self.response.truncated = True


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, chunk: bytes, max_length: int, /) -> bytes: ...


class _Deflate:
    """`deflate` as it is sent: with a zlib header as RFC 9110 (8.4.1.2) has it, or without, as some servers do."""

    def __init__(self) -> None:
        self._head = b""
        self._decoder: _Decoder | None = None

    @property
    def eof(self) -> bool:
        return self._decoder is not None and self._decoder.eof

    def decompress(self, chunk: bytes, max_length: int, /) -> bytes:
        if self._decoder is None:
            chunk = self._head + chunk
            if len(chunk) < 2:
                self._head = chunk
                return b""
            has_header = chunk[0] & 0x0F == 8 and (chunk[0] << 8 | chunk[1]) % 31 == 0  # RFC 1950, section 2.2
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        return self._decoder.decompress(chunk, max_length)


def verifying_context(ca_bundle: str) -> ssl.SSLContext:
    """Return a client context that verifies chain and name, by a file of authorities or by the system's.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_bundle or None)
    context.set_alpn_protocols(["http/1.1"])
    return context


def lenient_context() -> ssl.SSLContext:
    """Return a client context that takes any certificate and old parameters, to see a certificate that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["http/1.1"])
    return context


def _too_slow(what: str, budget_is_over: bool) -> TransportError:
    return TransportError(Status.BUDGET_SPENT if budget_is_over else Status.TIMEOUT, f"{what}: too slow")


def _grammar(error: Exception) -> str:
    return "switches protocols unasked" if isinstance(error, httptools.HttpParserUpgrade) else str(error)


def _words(error: Exception) -> str:
    """Return what went wrong without numbers and source positions."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
