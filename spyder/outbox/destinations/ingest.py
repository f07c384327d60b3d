"""An ingest service: one POST a batch, over HTTP/1.1, with TLS and client certificates where asked for.

Place: the last step of the path; called by the shipper's threads. No thread is its own, but for name look-ups.

Time is bounded from the inside: the parser (llhttp) does no I/O, so each connect, handshake, send and receive is one
call with what is left of the limits as its time-out, and no peer can keep the loop between them going beyond the end:
neither by dripping bytes, nor by endless interim answers. Not `requests` nor `http.client`: their time-outs are per
read, an endless row of `100 Continue` holds them for ever (python/cpython#150743), and a redirect's body is read whole.
`getaddrinfo` knows no time limit at all, so it runs in a thread which is left behind when it is late.

Environment variables for proxies, .netrc, cookies and redirects do not exist here.
"""

import gzip
import ipaddress
import queue
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from spyder.outbox.destinations.answers import AnswerReader, BadAnswer, judge
from spyder.outbox.destinations.delivery import ConfigurationError, Delivery, Verdict, delivery
from spyder.outbox.destinations.headers import HeadersFile, checked

_RECEIVE_BYTES: Final = 16 << 10
_SEND_BYTES: Final = 64 << 10  # small enough that a slow reader who does read meets the limit of each wait
_MAX_IDLE_S: Final = 30.0  # firewalls and balancers forget a silent connection without a word after a minute or more
_LEAST_WAIT_S: Final = 0.001  # 0 would mean not to block at all
_TRANSIENT_TLS: Final = ("INTERNAL_ERROR", "BAD_RECORD_MAC", "DECRYPT", "USER_CANCELLED")

_Address = tuple[socket.AddressFamily, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one sending may take; all of them hold at the same time."""

    connect_s: float = 10.0
    """Name look-up, connection and TLS handshake together."""
    wait_s: float = 30.0
    """Each wait for the other side to take some bytes, or to send some."""
    slowest_bytes_per_s: int = 64 << 10
    """The whole ends after `connect_s`, `wait_s` and the time that the body takes at this rate (half a megabit a
    second), so that a large batch on a slow line can be delivered, and a dripping peer holds nobody for long."""

    def total_s(self, size_bytes: int) -> float:
        """Return the limit of a whole sending."""
        return self.connect_s + self.wait_s + size_bytes / self.slowest_bytes_per_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an ingest service is."""

    host: str
    port: int
    tls: bool
    target: str
    """Path and query."""

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Return the parts of an `https://` or `http://` URL; raise `ConfigurationError`."""
        try:
            parts = urlsplit(url)
            host, port, tls = parts.hostname or "", parts.port, parts.scheme == "https"
        except ValueError as error:
            raise ConfigurationError(f"output.ingest: no URL: {error}") from None
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("output.ingest: put credentials into output.headers_file, not into the URL")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if re.fullmatch(r"[\x21-\x7e]+", host) is None or re.fullmatch(r"[\x21-\x7e]+", target) is None:
            raise ConfigurationError("output.ingest: the URL must be ASCII (host as A-labels, path percent-encoded)")
        return cls(host, port or (443 if tls else 80), tls, target)

    @property
    def authority(self) -> str:
        """The value of the Host field (RFC 9110, section 7.2)."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nothing that is sent there leaves the machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def tls_context(cert: Path | None, key: Path | None, authorities: Path | None) -> ssl.SSLContext:
    """Return a context that verifies chain and name, and shows a client certificate. Raises `ConfigurationError`."""
    context = _verifying(authorities)
    context.set_alpn_protocols(["http/1.1"])
    if cert is None and key is None:
        return context
    if cert is None or key is None:
        raise ConfigurationError("output.mtls_cert and output.mtls_key: one needs the other")
    for name, path in (("output.mtls_cert", cert), ("output.mtls_key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(f"{name}: {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        reason = "they do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else _words(error)
        raise ConfigurationError(f"output.mtls_cert and output.mtls_key: {cert}, {key}: {reason}") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"output.mtls_cert and output.mtls_key: {cert}, {key}: {error}") from None
    return context


def _verifying(authorities: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(authorities) if authorities else None)
    except ssl.SSLError as error:
        raise ConfigurationError(f"output.mtls_ca: {authorities}: holds no PEM certificate: {_words(error)}") from None
    except OSError as error:
        raise ConfigurationError(f"output.mtls_ca: {authorities}: {error.strerror}") from None


def _no_password() -> NoReturn:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")  # OpenSSL would ask the tty


class _Failed(Exception):
    """No answer came."""

    def __init__(self, verdict: Verdict, detail: str, *, stale: bool = False) -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.stale = stale
        """It was a connection from an earlier batch, and not a byte came back: it may have been closed long ago."""


class _Connection:
    """One connection. Belongs to one thread at a time."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.used = False
        self.idle_since = 0.0

    def is_fresh(self, now: float) -> bool:
        """Tell whether it may be used again: young enough, and neither closed nor spoken to by the peer meanwhile."""
        if now - self.idle_since > _MAX_IDLE_S:
            return False
        poll = select.poll()  # select() fails for descriptors beyond 1023
        poll.register(self.stream, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, request: bytes, end: float, wait_s: float) -> AnswerReader:
        """Send a request and return its answer, which has a status but may be cut short. Raises `_Failed`."""
        again, self.used = self.used, True
        unsent: OSError | None = None
        try:
            self._send(request, end, wait_s)
        except OSError as error:
            unsent = error  # there may be an answer all the same: 413, or a TLS alert about our certificate
        reader = AnswerReader()
        try:
            self._receive(reader, end, wait_s)
        except BadAnswer as error:
            raise _Failed(_plain_verdict(error), f"no answer: {error}", stale=again and reader.untouched) from None
        except OSError as error:
            cause = error if isinstance(error, ssl.SSLError) or unsent is None else unsent
            stale = again and reader.untouched and not isinstance(cause, TimeoutError)
            raise _Failed(_verdict_of(cause), f"no answer: {_words(cause)}", stale=stale) from None
        if unsent is not None:
            reader.complete = reader.reusable = False
            reader.fault = f"it came before the whole batch was sent ({_words(unsent)})"
        return reader

    def _send(self, request: bytes, end: float, wait_s: float) -> None:
        left = memoryview(request)
        while left:
            self._limit(end, wait_s)
            left = left[self.stream.send(left[:_SEND_BYTES]) :]

    def _receive(self, reader: AnswerReader, end: float, wait_s: float) -> None:
        while not reader.done:
            try:
                self._limit(end, wait_s)
                chunk = self.stream.recv(_RECEIVE_BYTES)
            except OSError as error:
                if not reader.status:
                    raise
                # RFC 9112, section 9.8: without a length, only a TLS closure alert ends an answer
                unsaid = "closed without a TLS closure alert; an answer needs a Content-Length"
                reader.cut(unsaid if isinstance(error, ssl.SSLEOFError) else _words(error))
            else:
                reader.feed(chunk)

    def _limit(self, end: float, wait_s: float) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self.stream.settimeout(max(_LEAST_WAIT_S, min(left, wait_s)))

    def cut(self) -> None:
        """End it from another thread: whoever blocks on it returns."""
        with suppress(OSError):
            # not close(), which frees a number that the other still uses; not the TLS socket's own, which unwraps
            socket.socket.shutdown(self.stream, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self.stream.close()


class IngestDestination:
    """POSTs each batch to a URL. Thread-safe; one connection for each thread that sends, kept between batches."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        user_agent: str,
        headers: Mapping[str, str],
        headers_file: HeadersFile | None = None,
        context: ssl.SSLContext | None = None,
        compress: bool = False,
        timeouts: Timeouts,
    ) -> None:
        """Make no connection yet. `context` is for `https://` alone. Raises `ConfigurationError` for bad headers."""
        if endpoint.tls != (context is not None):
            raise ValueError("a TLS context is for https://, and https:// needs one")
        self._endpoint = endpoint
        self._headers_file = headers_file
        self._context = context
        self._compress = compress
        self._timeouts = timeouts
        self._own_headers = _checked_headers(headers)
        self._defaults = {
            "user-agent": user_agent,
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
        }
        self._lock = threading.Lock()
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._closed = False

    def send(self, batch_id: str, payload: bytes) -> Delivery:
        """See `Destination.send`."""
        own = self._own_headers | dict(self._headers_file.current() if self._headers_file else {})
        body = gzip.compress(payload, mtime=0) if self._compress else payload
        try:
            answer = self._post(self._head(batch_id, len(body), own) + body)
        except _Failed as failure:
            return delivery(failure.verdict, f"{self._endpoint.authority}: {failure}")
        return judge(answer, batch_id=batch_id, compressed=self._compress, secrets=own.values())

    def close(self) -> None:
        """See `Destination.close`."""
        with self._lock:
            self._closed = True
            idle, busy = list(self._idle), list(self._busy)
            self._idle.clear()
        for connection in busy:
            connection.cut()
        for connection in idle:
            connection.close()

    def _head(self, batch_id: str, size: int, own: Mapping[str, str]) -> bytes:
        framing = {"host": self._endpoint.authority, "content-length": str(size), "idempotency-key": batch_id}
        if self._compress:
            framing["content-encoding"] = "gzip"
        fields = (self._defaults | dict(own) | framing).items()
        lines = (f"POST {self._endpoint.target} HTTP/1.1", *(f"{name.title()}: {value}" for name, value in fields))
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")

    def _post(self, request: bytes) -> AnswerReader:
        end = time.monotonic() + self._timeouts.total_s(len(request))
        connection = self._take_idle()
        if connection is not None:
            try:
                return self._exchange(connection, request, end)
            except _Failed as failure:
                if not failure.stale:
                    raise
        return self._exchange(self._open(end), request, end)

    def _exchange(self, connection: _Connection, request: bytes, end: float) -> AnswerReader:
        reusable = False
        try:
            answer = connection.exchange(request, end, self._timeouts.wait_s)
            reusable = answer.reusable
            return answer
        finally:
            self._give_back(connection, reusable=reusable)

    # connections: those that are busy are known too, so that `close` can cut them off

    def _take_idle(self) -> _Connection | None:
        now = time.monotonic()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
                self._busy.add(connection)
            if connection.is_fresh(now):
                return connection
            self._give_back(connection, reusable=False)

    def _give_back(self, connection: _Connection, *, reusable: bool) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._busy.discard(connection)
            kept = reusable and not self._closed
            if kept:
                self._idle.append(connection)
        if not kept:
            connection.close()

    def _open(self, end: float) -> _Connection:
        """Connect to the first address that takes us, each given its share of the time that is left."""
        limit = min(end, time.monotonic() + self._timeouts.connect_s)
        addresses = _addresses(self._endpoint.host, self._endpoint.port, limit)
        failure = _Failed(Verdict.TRY_LATER, "the name has no address")
        for tried, address in enumerate(addresses):
            share = (limit - time.monotonic()) / (len(addresses) - tried)
            try:
                return self._shake_hands(self._connect(address, share), limit)
            except _Failed as error:
                failure = error
                if error.verdict is not Verdict.TRY_LATER:
                    break
        raise failure

    def _connect(self, address: _Address, limit_s: float) -> _Connection:
        family, place = address
        try:
            connection = _Connection(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        except OSError as error:
            raise _Failed(Verdict.TRY_LATER, f"no socket: {_words(error)}") from None
        with self._lock:
            self._busy.add(connection)
        try:
            self._refuse_when_closed()
            connection.stream.settimeout(max(_LEAST_WAIT_S, limit_s))
            connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.stream.connect(place)
        except OSError as error:
            self._give_back(connection, reusable=False)
            raise _Failed(Verdict.TRY_LATER, f"connect to {place[0]}: {_words(error)}") from None
        except BaseException:
            self._give_back(connection, reusable=False)
            raise
        return connection

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise _Failed(Verdict.TRY_LATER, "closed")

    def _shake_hands(self, connection: _Connection, limit: float) -> _Connection:
        if self._context is None:
            return connection
        try:
            # a TLS socket takes the descriptor over before the handshake, so that `close` cuts off the right one;
            # an end without a closure alert is an error, for the batch may depend on it
            connection.stream = secured = self._context.wrap_socket(
                connection.stream,
                server_hostname=self._endpoint.host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
            self._refuse_when_closed()  # it may have cut the plain socket just before
            secured.settimeout(max(_LEAST_WAIT_S, limit - time.monotonic()))
            secured.do_handshake()  # its time-out is for the whole handshake
        except (OSError, ValueError) as error:  # ValueError: a name that no certificate can have
            self._give_back(connection, reusable=False)
            raise _Failed(_verdict_of(error, shaking=True), f"TLS handshake: {_words(error)}") from None
        except BaseException:
            self._give_back(connection, reusable=False)
            raise
        return connection


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    try:
        return dict(checked(name, value) for name, value in headers.items())
    except ValueError as problem:
        raise ConfigurationError(f"output.headers: {problem}") from None


def _addresses(host: str, port: int, limit: float) -> Sequence[_Address]:
    """Return the addresses of a name, as the system's resolver gives them, in its order. Raises `_Failed`."""
    found: queue.SimpleQueue[Sequence[_Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        found.put(_looked_up(host, port))

    if _is_address(host):
        look_up()
    else:
        threading.Thread(target=look_up, name="ingest-look-up", daemon=True).start()
    try:
        answer = found.get(timeout=max(_LEAST_WAIT_S, limit - time.monotonic()))
    except queue.Empty:
        raise _Failed(Verdict.TRY_LATER, "look-up of its name: too slow") from None
    if isinstance(answer, OSError):
        raise _Failed(Verdict.TRY_LATER, f"look-up of its name: {_words(answer)}")
    return answer


def _looked_up(host: str, port: int) -> Sequence[_Address] | OSError:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a label of more than 63 characters is a UnicodeError
        return error if isinstance(error, OSError) else OSError(str(error))
    return [(each[0], each[4]) for each in found]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _plain_verdict(error: BadAnswer) -> Verdict:
    return Verdict.HOLD if "speaks TLS" in str(error) else Verdict.TRY_LATER


def _verdict_of(error: Exception, *, shaking: bool = False) -> Verdict:
    """Tell a network that fails from a certificate that is wrong, on either side.

    With TLS 1.3 the server judges our certificate after our handshake is over (RFC 8446, section 4.4.2): its alert
    comes in the place of an answer.
    """
    if isinstance(error, ssl.SSLCertVerificationError | ValueError):
        return Verdict.HOLD
    if not isinstance(error, ssl.SSLError):
        return Verdict.TRY_LATER
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return Verdict.TRY_LATER
    reason = f"{error.reason} {error}".upper()
    if any(word in reason for word in _TRANSIENT_TLS):
        return Verdict.TRY_LATER
    return Verdict.HOLD if shaking or "ALERT" in reason else Verdict.TRY_LATER


def _words(error: Exception) -> str:
    """Return what went wrong without numbers and source positions."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        words = error.reason.replace("_", " ").lower()
        return f"{words} (no TLS there?)" if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else words
    if isinstance(error, TimeoutError):
        return "too slow"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
