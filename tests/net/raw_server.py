"""A server on loopback that sends exactly the octets that a test gives it, over TCP or TLS.

A script is a function that is handed each connection, already accepted (and shaken hands on, where the server speaks
TLS), and may read, send, drip, close and reset as it likes; when it returns the connection is closed. Each connection
has a thread of its own; leaving the `with` block ends them all, whatever they are blocked on.
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_SOON_S = 0.02
"""Between two pieces of a drip."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: socket.socket, stopping: threading.Event) -> None:
        self.stream = stream
        self._stopping = stopping

    def read_request(self) -> bytes:
        """Read up to the empty line that ends a request; b"" where the client has closed."""
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            octet = self.stream.recv(1)
            if not octet:
                return b""
            request += octet
        return request

    def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a packet (and TLS record) of its own."""
        for piece in pieces:
            self.stream.sendall(piece)

    def drip(self, octets: bytes) -> None:
        """Send octet by octet, with a pause between them, until the client has had enough."""
        for octet in octets:
            self.send(bytes([octet]))
            if self._stopping.wait(_SOON_S):
                return

    def pour(self, piece: bytes) -> None:
        """Send a piece over and over, until the client has had enough."""
        while not self._stopping.is_set():
            self.send(piece)

    def hold(self) -> None:
        """Say nothing, until the test is over or the client has gone."""
        while self.stream.recv(4096):
            pass

    def reset(self) -> None:
        """Close with RST."""
        socket.socket.setsockopt(self.stream, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.close()


Script = Callable[[Peer], None]


def once(*pieces: bytes) -> Script:
    """Return a script that reads a request, sends pieces and closes."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(*pieces)

    return script


def again(*answers: bytes) -> Script:
    """Return a script that gives the answers to one request after the other, on one connection, and then waits."""

    def script(peer: Peer) -> None:
        for answer in answers:
            if not peer.read_request():
                return
            peer.send(answer)
        peer.hold()

    return script


class RawServer:
    """The server; a context manager. `connections` counts what it has accepted."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._script = script
        self._tls = tls
        self._host = host
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._streams: list[socket.socket] = []
        self.connections = 0

    def __enter__(self) -> Self:
        """Listen."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection and wait for every thread."""
        self._stopping.set()
        for each in (self._listener, *self._streams):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # wakes who blocks on it
        for thread in self._threads:
            thread.join(5)
        for each in (self._listener, *self._streams):
            each.close()

    def _begin(self, serve: Callable[[], None]) -> None:
        thread = threading.Thread(target=serve, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listener.accept()
                self.connections += 1
                self._streams.append(stream)
                self._begin(lambda stream=stream: self._serve(stream))  # type: ignore[misc]

    def _serve(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                stream = self._tls.wrap_socket(stream, server_side=True, do_handshake_on_connect=False)
                self._streams.append(stream)
                assert isinstance(stream, ssl.SSLSocket)
                stream.do_handshake()
            self._script(Peer(stream, self._stopping))
        if not self._stopping.is_set():
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)
