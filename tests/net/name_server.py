"""A real name server on loopback, UDP and TCP on one port, whose every octet a test decides.

A script is a function from a query to the datagrams that answer it (none, one or several). Over TCP the same script
answers, framed; a script for TCP alone is given the connection and may do to it what it likes. Each server has a thread
for UDP and one for each TCP connection; leaving the `with` block ends them all.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from spyder.net.dns import exchange

QR, TC, RD, RA = 0x8000, 0x0200, 0x0100, 0x0080
_RECEIVE_BUFFER_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Query:
    """One query as it came."""

    wire: bytes
    source: tuple[str, int]
    """Address and port that it came from."""
    over_tcp: bool = False
    question: bytes = field(init=False)
    """The question section to the letter."""
    name: str = field(init=False)
    """The name in the letters that it came in."""
    rdtype: int = field(init=False)
    edns: bool = field(init=False)

    def __post_init__(self) -> None:
        """Take the question apart."""
        at, labels = 12, []
        while length := self.wire[at]:
            labels.append(self.wire[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        object.__setattr__(self, "question", self.wire[12 : at + 5])
        object.__setattr__(self, "name", ".".join(labels))
        object.__setattr__(self, "rdtype", int.from_bytes(self.wire[at + 1 : at + 3]))
        object.__setattr__(self, "edns", self.wire[10:12] == b"\0\1")

    def reply(
        self,
        *records: bytes,
        rcode: int = 0,
        flags: int = QR | RD | RA,
        message_id: bytes | None = None,
        question: bytes | None = None,
    ) -> bytes:
        """Return an honest reply, but for what is given otherwise."""
        head = self.wire[:2] if message_id is None else message_id
        counts = struct.pack("!5H", flags | rcode, 1, len(records), 0, 0)
        return head + counts + (self.question if question is None else question) + b"".join(records)

    def error(self, rcode: int) -> bytes:
        """Return a reply of a header alone, as of a server that refuses before it parses."""
        return self.wire[:2] + struct.pack("!5H", QR | rcode, 0, 0, 0, 0)


def address(text: str, ttl_s: int = 300) -> bytes:
    """Return an A record of the name that is asked for."""
    return record(1, socket.inet_aton(text), ttl_s)


def record(rdtype: int, rdata: bytes, ttl_s: int = 300) -> bytes:
    """Return a record of the name that is asked for."""
    return b"\xc0\x0c" + struct.pack("!HHIH", rdtype, 1, ttl_s, len(rdata)) + rdata


Answering = bytes | list[bytes] | None
Script = Callable[[Query], Answering]
TcpScript = Callable[[Query, socket.socket], None]


def answer_in_turn(*scripts: Script) -> Script:
    """Return a script that answers the first query by the first one, and so on; the last goes on for ever."""
    waiting = list(scripts)

    def answer(query: Query) -> Answering:
        script = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return script(query)

    return answer


def silence(_query: Query) -> None:
    """Never answer."""


class ScriptedNameServer:
    """The server; a context manager. `queries` is what came so far."""

    def __init__(self, script: Script, *, tcp: TcpScript | None = None, host: str = "127.0.0.1") -> None:
        self._script = script
        self._tcp_script = tcp or self._answer_framed
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = host
        self._threads: list[threading.Thread] = []
        self._streams: list[socket.socket] = []
        self._stopping = False
        self.queries: list[Query] = []

    def __enter__(self) -> Self:
        """Bind both sockets to one port, and begin."""
        self.udp, self._listener = self._bind()
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self.port: int = self.udp.getsockname()[1]
        for serve in (self._serve_udp, self._serve_tcp):
            self._begin(serve)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every socket and wait for every thread."""
        self._stopping = True
        for each in (self.udp, self._listener, *self._streams):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes who blocks on it
        for thread in self._threads:
            thread.join(5)
        for each in (self.udp, self._listener, *self._streams):
            each.close()

    @property
    def at(self) -> exchange.NameServer:
        """Where it listens."""
        return exchange.NameServer(self._host, self.port)

    def _bind(self) -> tuple[socket.socket, socket.socket]:
        while True:  # until a port is free for both
            udp = socket.socket(self._family, socket.SOCK_DGRAM)
            udp.bind((self._host, 0))
            listener = socket.socket(self._family, socket.SOCK_STREAM)
            try:
                listener.bind(udp.getsockname()[:2])
            except OSError:
                udp.close()
                listener.close()
                continue
            listener.listen(64)
            return udp, listener

    def _begin(self, serve: Callable[[], None]) -> None:
        thread = threading.Thread(target=serve, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve_udp(self) -> None:
        while True:
            try:
                datagram, source = self.udp.recvfrom(4096)
                if self._stopping:
                    return
                query = Query(datagram, source[:2])
                self.queries.append(query)
                for reply in _each(self._script(query)):
                    self.udp.sendto(reply, source)
            except OSError:
                if self._stopping:
                    return

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, source = self._listener.accept()
                self._streams.append(stream)
                self._begin(lambda stream=stream, source=source: self._converse(stream, source[:2]))  # type: ignore[misc]

    def _converse(self, stream: socket.socket, source: tuple[str, int]) -> None:
        with contextlib.suppress(OSError, struct.error):
            (size,) = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))
            query = Query(stream.recv(size, socket.MSG_WAITALL), source, over_tcp=True)
            self.queries.append(query)
            self._tcp_script(query, stream)

    def _answer_framed(self, query: Query, stream: socket.socket) -> None:
        for reply in _each(self._script(query)):
            stream.sendall(framed(reply))


def framed(message: bytes) -> bytes:
    """Return a message with its length before it (RFC 1035, section 4.2.2)."""
    return struct.pack("!H", len(message)) + message


def _each(answering: Answering) -> list[bytes]:
    if answering is None:
        return []
    return [answering] if isinstance(answering, bytes) else answering
