"""The lab's web server: all sites on a few loopback addresses, told apart by server name and Host.

Where the probe's connections go. Everything runs on the lab's event loop. It speaks as much HTTP/1.1 (RFC 9112)
as a polite client of GETs needs, and what the traits ask of it.
"""

import asyncio
import collections
import contextlib
import http
import socket
import ssl
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from spyder.lab.ca import Authority, server_context
from spyder.lab.counters import Counters
from spyder.lab.records import (
    ALERT_ADDRESS,
    DEAD_ADDRESS,
    HTTP_ONLY_ADDRESS,
    WEB_ADDRESSES,
    Certificate,
    Response,
    Site,
)
from spyder.lab.traits import NOT_FOUND

Scheme = Literal["https", "http"]

REQUEST_BYTES: Final = 64 * 1024  # a request with more is cut off
CONTEXTS: Final = 512  # kept; each takes some 50 KB
CHUNK_BYTES: Final = 7001  # odd on purpose: chunks and TLS records end at different places
BACKLOG: Final = 4096
ALERT_RECORD: Final = b"\x15\x03\x03\x00\x02\x02\x28"  # fatal, handshake_failure (RFC 8446, sections 5.1 and 6.2)
_BAD_REQUEST: Final = Response(status=400, close=True)
_DEFAULT: Final = Certificate(("default.lab.test",), "default-key")


class WebServer:
    """Serves the routes and certificates of some sites."""

    def __init__(
        self,
        sites: Iterable[Site],
        authority: Authority,
        scratch: Path,
        counters: Counters,
        between_handshakes: Callable[[], None],
    ) -> None:
        self._routes: dict[tuple[str, str, str], Response] = {}
        self._certificates: dict[str, Certificate] = {}
        for site in sites:
            self._routes.update(site.routes)
            self._certificates.update(site.certificates)
        self._authority = authority
        self._scratch = scratch
        self._between_handshakes = between_handshakes
        self.counters = counters
        self.clients: set[Client] = set()
        self._contexts: collections.OrderedDict[Certificate, ssl.SSLContext] = collections.OrderedDict()
        self._names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()
        self._servers: list[asyncio.Server] = []
        self._reserved: list[socket.socket] = []
        """Bound and not listening: these refuse, and nobody else can take their port."""

    async def start(self) -> Mapping[Scheme, int]:
        """Listen on one port for each scheme and return them."""
        front = server_context(self._authority.pem(_DEFAULT), self._scratch)
        front.sni_callback = self._choose
        https, http = _bind_everywhere(), _bind_everywhere()
        self._reserved += [https.pop(HTTP_ONLY_ADDRESS), https.pop(DEAD_ADDRESS), http.pop(DEAD_ADDRESS)]
        await self._listen({ALERT_ADDRESS: https.pop(ALERT_ADDRESS)}, Refusal, None)
        await self._listen(https, lambda: Client(self, "https"), front)
        await self._listen(http, lambda: Client(self, "http"), None)
        return {"https": _port(https), "http": _port(http)}

    def stop(self) -> None:
        """Close the ports and cut all connections."""
        for server in self._servers:
            server.close()
        for client in list(self.clients):
            client.cut()
        for reserved in self._reserved:
            reserved.close()

    async def _listen(
        self,
        sockets: Mapping[str, socket.socket],
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        for bound in sockets.values():
            loop = asyncio.get_running_loop()
            self._servers.append(await loop.create_server(protocol, sock=bound, ssl=context, backlog=BACKLOG))

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """Answer a ClientHello (RFC 6066, section 3): asyncio cuts off the handshake where this refuses it."""
        self._between_handshakes()
        self._names[connection] = name or ""
        self.counters.hellos[name or ""] += 1
        if name is None:
            return None
        certificate = self._certificates.get(name)
        if certificate is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = self._context(certificate)
        return None

    def _context(self, certificate: Certificate) -> ssl.SSLContext:
        context = self._contexts.pop(certificate, None)
        if context is None:
            context = server_context(self._authority.pem(certificate), self._scratch)
            if len(self._contexts) >= CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts[certificate] = context
        return context

    def connected(self, scheme: Scheme, connection: ssl.SSLObject | None) -> None:
        """Count a connection that is ready for requests."""
        self.counters.connections[scheme] += 1
        if connection is not None:
            self.counters.handshakes[self._names.pop(connection, "")] += 1

    def response(self, scheme: Scheme, head: bytes) -> tuple[Response, bool]:
        """Return the answer to a request, and whether it is for a HEAD."""
        try:
            method, target, fields = _parse(head)
        except ValueError:
            return _BAD_REQUEST, False
        host = fields.get("host", "").rpartition(":")[0] or fields.get("host", "")
        path = target.partition("?")[0]
        self.counters.requests[f"{scheme}://{host}{path}"] += 1
        return self._routes.get((scheme, host, path), NOT_FOUND), method == "HEAD"


def _parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, target and fields of a request (RFC 9112, section 3). Raises `ValueError`."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(line)
        fields[name.lower()] = value.strip().lower()
    return method, target, fields


def _bind_everywhere() -> dict[str, socket.socket]:
    addresses = (*WEB_ADDRESSES, ALERT_ADDRESS, HTTP_ONLY_ADDRESS, DEAD_ADDRESS)
    return dict(zip(addresses, bind_together(addresses), strict=True))


def _port(sockets: Mapping[str, socket.socket]) -> int:
    return int(sockets[WEB_ADDRESSES[0]].getsockname()[1])


class Refusal(asyncio.Protocol):
    """A connection whose handshake is ended by an alert, whatever the client says."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the ClientHello: closing on unread bytes would reset the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        """Send the alert and close."""
        self._transport.write(ALERT_RECORD)
        self._transport.close()


class Client(asyncio.Protocol):
    """One connection of a client; requests are answered one after the other."""

    def __init__(self, web: WebServer, scheme: Scheme) -> None:
        self._web = web
        self._scheme = scheme
        self._buffer = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it: with TLS, the handshake is over."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._web.clients.add(self)
        self._web.connected(self._scheme, transport.get_extra_info("ssl_object"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget it."""
        self._web.clients.discard(self)

    def cut(self) -> None:
        """Close without a word."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect a request."""
        self._buffer += data
        if len(self._buffer) > REQUEST_BYTES:
            self.cut()
        elif not self._busy:
            self._take()

    def _take(self) -> None:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        self._buffer, self._busy = rest, True
        response, headless = self._web.response(self._scheme, head)
        if response.delay_ms:
            delay_s = response.delay_ms / 1000
            asyncio.get_running_loop().call_later(delay_s, self._answer, response, headless)
        else:
            self._answer(response, headless)

    def _answer(self, response: Response, headless: bool) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(encode(response, without_body=headless))
        self._busy = False
        if response.close or response.framing in {"close", "raw"}:
            self._transport.close()
        elif self._buffer:
            self._take()


def encode(response: Response, *, without_body: bool = False) -> bytes:
    """Return the bytes of a response."""
    body = b"".join(response.body)
    if response.framing == "raw":
        return body
    fields = list(response.headers)
    if response.framing == "length":
        fields.append(("Content-Length", str(len(body))))
    elif response.framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
        body = _chunks(body)
    if response.close or response.framing == "close":
        fields.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head if without_body else head + body


def _chunks(body: bytes) -> bytes:
    pieces = (body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def bind_together(addresses: Sequence[str]) -> list[socket.socket]:
    """Return a socket for each address, all bound to one free port. Only loopback is ever bound."""
    while True:
        with contextlib.ExitStack() as bound:
            port, sockets = 0, []
            try:
                for address in addresses:
                    sockets.append(bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)))
                    sockets[-1].bind((address, port))
                    port = sockets[-1].getsockname()[1]
            except OSError:
                if not port:
                    raise
                continue
            bound.pop_all()
            return sockets
