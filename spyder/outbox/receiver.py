"""A reference ingest service: takes batches over HTTP, checks them, and keeps each once, in JSON lines.

Stands at the other end of the wire, in a process of its own: for users who have no ingest service yet, and for tests.
`docs/ingest.md` says what any other one must do.

The grammar of HTTP is that of the standard library's `http.server`, the rest is a fixed number of threads that accept
and serve one connection each (`receiver-N`), and a watchdog. So connections are bounded, and who comes too many waits
in the kernel; a handshake stalls its own thread alone; and each request has one deadline, however slowly bytes drip.
waitress, which serves the control API, has no TLS; another library that has is a dependency for two hundred lines.
"""

import importlib.resources
import json
import re
import socket
import socketserver
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, cast

from jsonschema import Draft202012Validator, ValidationError

from spyder.outbox.batch_log import NO_ROOM, BatchLog, Busy, as_line
from spyder.outbox.destinations.delivery import DETAIL_CHARS, printable
from spyder.outbox.payload import BadPayload, decode
from spyder.runtime.watchdog import Watch, Watchdog

MAX_BYTES: Final = 16 << 20
"""Seven times a batch of 10,000 edges (2.3 MB); a larger one is answered with 413, and comes again in halves."""
MAX_FILE_BYTES: Final = 1 << 30
CONNECTIONS: Final = 32
REQUEST_S: Final = 60.0
"""From the end of one request to the end of the next; an idle connection is closed after it."""
_LINGER_S: Final = 2.0
"""An answer is lost where its sender closes while the other still sends; so the rest is read for a while."""
_RETRY_S: Final = 10
_DETAIL_CHARS: Final = 300
_DRAIN_BYTES: Final = 1 << 16
_ACCEPT_PAUSE_S: Final = 0.1
BACKLOG: Final = 128
_BATCH_ID: Final = re.compile(r"[0-9a-f]{32}(?:\.[01]){0,20}", re.ASCII)


class Problem(Exception):
    """A request that is not taken: the answer's status, and why (RFC 9457)."""

    def __init__(self, status: HTTPStatus, detail: str, where: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail[:_DETAIL_CHARS]
        self.where = where[:_DETAIL_CHARS]
        """The place in the batch, as a JSON path."""


@cache
def _schema() -> Draft202012Validator:
    text = importlib.resources.files("spyder.outbox").joinpath("batch.schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text), format_checker=Draft202012Validator.FORMAT_CHECKER)


def checked(payload: bytes, key: str | None) -> str:
    """Return the id of a batch that is as the schema has it, and as the key says; raise `Problem`.

    Costs about a second of CPU for 10,000 edges. Stops at the first fault.
    """
    try:
        batch = decode(payload)
    except BadPayload as error:
        raise Problem(HTTPStatus.BAD_REQUEST, str(error)) from None
    fault: ValidationError | None = next(_schema().iter_errors(batch), None)
    if fault is not None:
        raise Problem(HTTPStatus.BAD_REQUEST, f"no batch of schema version 1: {fault.message}", fault.json_path)
    batch_id = str(batch["batch_id"])
    if _BATCH_ID.fullmatch(batch_id) is None:
        raise Problem(HTTPStatus.BAD_REQUEST, "no batch id", "$.batch_id")
    if key is not None and key != batch_id:
        raise Problem(HTTPStatus.BAD_REQUEST, "Idempotency-Key and batch_id differ", "$.batch_id")
    return batch_id


def unpacked(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Return a request's body without its content coding, of which nothing beyond `max_bytes` is made; or `Problem`."""
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be gzip, or none")
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        payload = unzip.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"not gzip: {error}") from None
    if len(payload) > max_bytes:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {max_bytes} bytes when unpacked")
    if not unzip.eof or unzip.unused_data:
        raise Problem(HTTPStatus.BAD_REQUEST, "the gzip stream is cut short, or followed by something")
    return payload


def server_context(cert: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """Return the server's TLS context; with `client_ca` clients must show a certificate that those authorities signed.

    Raises `OSError` (`ssl.SSLError` among them) for files that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Receiver:
    """The service. `start`, `stop` and `join` are for one thread; the rest is its own."""

    def __init__(
        self,
        listen: tuple[str, int],
        directory: Path,
        *,
        context: ssl.SSLContext | None = None,
        max_bytes: int = MAX_BYTES,
        max_file_bytes: int = MAX_FILE_BYTES,
        connections: int = CONNECTIONS,
        request_s: float = REQUEST_S,
        on_event: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Read what the directory holds, and listen.

        Args:
            listen: host and port; port 0 for any that is free.
            directory: where the batches are kept. All their ids are read, and held in memory (some 150 bytes each).
            context: of `server_context`; None for plain HTTP.
            max_bytes: the largest batch, packed or not.
            max_file_bytes: where it goes on to the next file.
            connections: how many are served at a time.
            request_s: the deadline of a request, the wait for its beginning included.
            on_event: told of each batch that is not taken, in one line. Called by any thread.

        Raises:
            OSError: the address or the directory cannot be used.
            Busy: another process holds the directory.
        """
        self._log = BatchLog(directory, max_file_bytes=max_file_bytes)
        self.known = self._log.open()
        """How many batches were there at the start."""
        self._context = context
        self._max_bytes = max_bytes
        self._request_s = request_s
        self._on_event = on_event
        self._stopping = threading.Event()
        self._watchdog = Watchdog()
        self._parsing = threading.Lock()  # a parsed batch takes ten times its bytes, and the interpreter lock anyway
        family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self._listener = socket.create_server(listen, family=family, backlog=BACKLOG)
        self._threads = [
            threading.Thread(target=self._serve, name=f"receiver-{number}", daemon=True)
            for number in range(connections)
        ]
        name = f"[{listen[0]}]" if ":" in listen[0] else listen[0]
        self.url = f"{'https' if context else 'http'}://{name}:{self._listener.getsockname()[1]}/"
        """Where it listens."""

    def start(self) -> None:
        """Begin to serve."""
        self._watchdog.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Accept no more, and cut off whoever is connected: a batch that was not answered may have been kept."""
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # every accept() ends; close() would leave them blocked
        self._watchdog.cut_all()

    def join(self, budget_s: float) -> bool:
        """Wait for every thread to end, after `stop`; tell whether they have."""
        end = time.monotonic() + budget_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        self._watchdog.stop()
        watched = self._watchdog.join(max(0.0, end - time.monotonic()))
        return watched and not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                stream, address = self._listener.accept()
            except OSError:
                self._stopping.wait(_ACCEPT_PAUSE_S)  # no descriptor is free, or we stop
                continue
            with self._watchdog.watch(stream, time.monotonic() + self._request_s) as watch:
                try:
                    if not self._stopping.is_set():  # else this watch may have come too late to be cut
                        self._serve_connection(watch, address)
                except ssl.SSLError as error:
                    self._on_event(f"{address[0]}: TLS: {error.reason}")
                except OSError:
                    pass  # the peer went away, or was too slow
                except Exception as error:  # noqa: BLE001 - a fault of ours must not cost a place
                    self._on_event(f"{address[0]}: fault of our own: {error!r}")
                finally:
                    _linger(watch)
                    watch.socket.close()

    def _serve_connection(self, watch: Watch, address: tuple[Any, ...]) -> None:
        if self._context is not None:
            watch.socket = secured = self._context.wrap_socket(
                watch.socket, server_side=True, do_handshake_on_connect=False
            )
            secured.do_handshake()
        _Handler(watch.socket, address, cast("socketserver.BaseServer", _Session(self, watch)))

    def renew(self, watch: Watch) -> bool:
        """Give a connection the time of another request; False where no more are taken."""
        watch.deadline = time.monotonic() + self._request_s
        return not self._stopping.is_set()

    def read(self, request: "_Handler") -> bytes:
        """Return a request's body as it was sent; raise `Problem`, or `OSError` where it is cut short."""
        length = _length(request, self._max_bytes)
        body = request.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the body is cut short")
        return body

    def store(self, body: bytes, coding: str, key: str | None) -> tuple[str, bool]:
        """Keep a batch; return its id, and whether it is new. Raises `Problem`."""
        with self._parsing:
            payload = unpacked(body, coding, self._max_bytes)
            batch_id = checked(payload, key)
            line = as_line(batch_id, payload)
        try:
            return batch_id, self._log.append(batch_id, line)
        except Busy as busy:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(busy)) from None
        except OSError as error:
            room = error.errno in NO_ROOM
            status = HTTPStatus.INSUFFICIENT_STORAGE if room else HTTPStatus.INTERNAL_SERVER_ERROR
            raise Problem(status, f"the batch could not be kept: {error.strerror}") from None

    def note(self, problem: Problem, client: str) -> None:
        """Say that a batch was not taken."""
        self._on_event(
            printable(f"{client}: {problem.status}: {problem.detail} {problem.where}".rstrip(), DETAIL_CHARS)
        )


@dataclass(frozen=True, slots=True)
class _Session:
    """What a handler is given in the place of a server."""

    receiver: Receiver
    watch: Watch


class _Handler(BaseHTTPRequestHandler):
    """One connection, request after request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def handle_one_request(self) -> None:
        """Serve one request, within its deadline."""
        if self.server.receiver.renew(self.server.watch):
            super().handle_one_request()
        else:
            self.close_connection = True

    def do_POST(self) -> None:
        """Take a batch. The path is not looked at."""
        receiver = self.server.receiver
        self._unread = True
        try:
            body = receiver.read(self)
            self._unread = False
            coding = self.headers.get("Content-Encoding", "").strip().lower()
            batch_id, new = receiver.store(body, coding, self.headers.get("Idempotency-Key"))
        except Problem as problem:
            receiver.note(problem, self.client_address[0])
            self._refuse(problem)
        else:
            status = HTTPStatus.CREATED if new else HTTPStatus.OK
            self._answer(status, {"batch_id": batch_id, "status": "stored" if new else "known"})

    def do_GET(self) -> None:
        """Say that there is nothing to get."""
        self._unread = True
        self._refuse(Problem(HTTPStatus.METHOD_NOT_ALLOWED, "batches are sent with POST"))

    def version_string(self) -> str:
        """Return the Server field: no version of anything."""
        return "spyder-receive"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: what is not taken is told by `Receiver.note`."""

    def _refuse(self, problem: Problem) -> None:
        extra = {"Connection": "close"} if self._unread else {}  # send_header acts on this one too
        if problem.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            extra["Accept-Encoding"] = "gzip"  # RFC 9110, section 15.5.16
        if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
            extra["Allow"] = "POST"
        if problem.status >= 500:
            extra["Retry-After"] = str(_RETRY_S)
        content = {"title": problem.status.phrase, "status": problem.status, "detail": problem.detail}
        self._answer(problem.status, content | ({"where": problem.where} if problem.where else {}), extra)

    def _answer(
        self, status: HTTPStatus, content: Mapping[str, object], extra: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _length(request: BaseHTTPRequestHandler, max_bytes: int) -> int:
    """Return the length of a request's body; raise `Problem` where it is not said, or too large, or not JSON."""
    media_type = request.headers.get_content_type() if "Content-Type" in request.headers else "application/json"
    if media_type != "application/json":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
    lengths = request.headers.get_all("Content-Length", [])
    if "Transfer-Encoding" in request.headers or not lengths:
        raise Problem(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length")
    if len(lengths) > 1 or re.fullmatch(r"\d{1,18}", lengths[0], re.ASCII) is None:
        raise Problem(HTTPStatus.BAD_REQUEST, "the Content-Length is no number")
    if int(lengths[0]) > max_bytes:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {max_bytes} bytes")
    return int(lengths[0])


def _linger(watch: Watch) -> None:
    """Read on for a while, so that the last answer, or alert, is not lost with what nobody read (RFC 9112, 9.6)."""
    watch.deadline = min(watch.deadline, time.monotonic() + _LINGER_S)
    with suppress(OSError):
        # the plain socket's methods: what comes is thrown away, encrypted or not
        socket.socket.shutdown(watch.socket, socket.SHUT_WR)
        while not watch.expired and socket.socket.recv(watch.socket, _DRAIN_BYTES):
            pass
