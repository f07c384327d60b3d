"""Moving DNS messages: many questions in flight over UDP, one reader for all of them, TCP after truncation.

A worker that asks sends its datagrams itself and then waits once, until all of its answers are there or its time
is over. One thread, `dns-reader`, receives for all workers: with a receive per worker and answer, the interpreter lock
is handed over 69 times a host; this way 23 times. The reader only matches replies to questions; reading
what they say is the worker's business (`spyder.net.dns.wire`).

A reply is taken when it comes from the server's address and port (the sockets are connected), to the port that
the question left from, with its ID, and with its question repeated to the letter (RFC 5452, section 9.1).
Everything else is counted, and the wait goes on.
"""

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from spyder.net.dns import wire

PORTS_PER_SERVER: Final = 128
"""Open source ports a server, one of which is drawn at random for each query (RFC 5452, section 9.2)."""
QUERIES_PER_PORT: Final = 5_000
"""After so many queries a port is replaced by a new one that the kernel draws, so that none can be learned."""
_READ_BYTES: Final = 4096  # more than any server may send to one who said 1232
_TCP_CHUNK_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class NameServer:
    """Where queries go: an IP address and a port."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        """Return `address:port`, with brackets around IPv6."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """The address family to make sockets of."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


class Flight:
    """The questions of one worker that are in the air together. Owned by that worker; the reader fills it."""

    __slots__ = ("_landed", "_missing", "replies")

    def __init__(self, count: int) -> None:
        self.replies: list[bytes | OSError | None] = [None] * count
        self._missing = count
        self._landed = threading.Lock()
        self._landed.acquire()

    def land(self, index: int, reply: bytes | OSError) -> None:
        """Take one reply (called by the reader only), and wake the worker with the last."""
        self.replies[index] = reply
        self._missing -= 1
        if not self._missing:
            self._landed.release()

    def wait(self, timeout_s: float) -> None:
        """Block until every reply is there, or until the time is over."""
        self._landed.acquire(timeout=max(timeout_s, 0.0))


@dataclass(slots=True, eq=False)
class _Pending:
    question: bytes
    flight: Flight
    index: int


class _Port:
    """One connected UDP socket and the questions that left from it, by message ID."""

    __slots__ = ("fileno", "pending", "sent", "socket")

    def __init__(self, server: NameServer) -> None:
        self.socket = socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.connect((server.address, server.port))
        self.fileno = self.socket.fileno()
        self.pending: dict[int, _Pending] = {}
        self.sent = 0


@dataclass(slots=True)
class ExchangeStats:
    """Counters since the start."""

    sent: int = 0
    received: int = 0
    ignored: int = 0
    """Datagrams that answered no question of ours: late, forged or broken."""
    tcp: int = 0


class Exchange:
    """Sends questions to one or more servers and matches the replies. Thread-safe after `start()`."""

    def __init__(self, servers: Sequence[NameServer], random_bits: Callable[[int], int]) -> None:
        self.servers = tuple(servers)
        self._random_bits = random_bits
        self._lock = threading.Lock()
        self._ports: dict[NameServer, list[_Port]] = {}
        self._by_fileno: dict[int, _Port] = {}
        self._stats = ExchangeStats()
        self._epoll = select.epoll()
        self._stopping = False
        self._wake_reader, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake_reader, select.EPOLLIN)
        self._reader = threading.Thread(target=self._read, name="dns-reader", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._reader.start()

    def stop(self) -> None:
        """Ask the reader to end; returns at once."""
        self._stopping = True
        os.write(self._woken, b"x")

    def join(self, budget_s: float) -> bool:
        """Wait for the reader to end and close the sockets; tell whether it has."""
        self._reader.join(budget_s)
        if self._reader.is_alive():
            return False
        with self._lock:
            ports = list(self._by_fileno.values())
            self._by_fileno.clear()
            self._ports.clear()
        for port in ports:
            port.socket.close()
        self._epoll.close()
        os.close(self._wake_reader)
        os.close(self._woken)
        return True

    def stats(self) -> ExchangeStats:
        """Return a copy of the counters."""
        with self._lock:
            return ExchangeStats(self._stats.sent, self._stats.received, self._stats.ignored, self._stats.tcp)

    def ask(
        self, server: NameServer, questions: Sequence[bytes], *, timeout_s: float, edns: bool = True
    ) -> list[bytes | OSError | None]:
        """Send question sections to a server at once and wait once for the replies.

        Returns, in the order of the questions, the whole reply, the error that the kernel reported (port
        unreachable), or None where no reply came in time.
        """
        flight = Flight(len(questions))
        departures = self._depart(server, questions, flight)
        for index, (port, message_id, _) in enumerate(departures):
            try:
                port.socket.send(wire.encode_query(message_id, questions[index], edns=edns))
            except OSError as error:
                self._land(port, message_id, error)
        flight.wait(timeout_s)
        self._forget(departures)
        return flight.replies

    def ask_tcp(self, server: NameServer, question: bytes, *, remaining_s: Callable[[], float]) -> bytes:
        """Ask one question over TCP (RFC 7766) and return the reply.

        Blocks at most for `remaining_s()`, which is asked again before every wait.

        Raises:
            OSError: the connection failed, was closed, or took too long (TimeoutError).
            wire.BadMessage: the reply is not one to our question.
        """
        message_id = self._random_bits(16)
        query = wire.encode_query(message_id, question)
        with socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as stream:
            stream.settimeout(_positive(remaining_s()))
            stream.connect((server.address, server.port))
            stream.sendall(struct.pack("!H", len(query)) + query)
            (size,) = struct.unpack("!H", _receive(stream, 2, remaining_s))
            reply = _receive(stream, size, remaining_s)
        with self._lock:
            self._stats.tcp += 1
        if reply[:2] != query[:2] or not wire.is_reply_to(reply, question):
            raise wire.BadMessage("the reply over TCP answers another question")
        return reply

    def _depart(
        self, server: NameServer, questions: Sequence[bytes], flight: Flight
    ) -> list[tuple[_Port, int, _Pending]]:
        """Draw a port and an ID for each question, and expect the replies there."""
        departures = []
        with self._lock:
            ports = self._ports.get(server) or self._open(server)
            for index, question in enumerate(questions):
                drawn = self._random_bits(32)
                place = drawn % len(ports)
                port = ports[place]
                if port.sent >= QUERIES_PER_PORT and not port.pending:
                    port = ports[place] = self._replace(server, port)
                message_id = drawn >> 16
                while message_id in port.pending:
                    message_id = self._random_bits(16)
                pending = port.pending[message_id] = _Pending(question, flight, index)
                port.sent += 1
                departures.append((port, message_id, pending))
            self._stats.sent += len(departures)
        return departures

    def _open(self, server: NameServer) -> list[_Port]:
        ports = self._ports[server] = [self._register(_Port(server)) for _ in range(PORTS_PER_SERVER)]
        return ports

    def _replace(self, server: NameServer, old: _Port) -> _Port:
        new = self._register(_Port(server))  # before the old one closes, so that the kernel draws another port
        self._epoll.unregister(old.fileno)
        del self._by_fileno[old.fileno]
        old.socket.close()
        return new

    def _register(self, port: _Port) -> _Port:
        self._by_fileno[port.fileno] = port
        self._epoll.register(port.fileno, select.EPOLLIN)
        return port

    def _forget(self, departures: Sequence[tuple[_Port, int, _Pending]]) -> None:
        """Expect no more of the questions that were not answered."""
        for port, message_id, pending in departures:
            if port.pending.get(message_id) is pending:
                with self._lock:
                    if port.pending.get(message_id) is pending:
                        del port.pending[message_id]

    def _read(self) -> None:
        while not self._stopping:
            for fileno, _ in self._epoll.poll():
                port = self._by_fileno.get(fileno)
                if port is not None:
                    self._receive(port)

    def _receive(self, port: _Port) -> None:
        try:
            reply = port.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:  # ICMP said that nobody listens: true of all that left from this port
            for message_id in list(port.pending):
                self._land(port, message_id, error)
            return
        message_id = reply[0] << 8 | reply[1] if len(reply) > 1 else -1
        pending = port.pending.get(message_id)
        if pending is None or not wire.is_reply_to(reply, pending.question):
            self._stats.ignored += 1
            return
        self._land(port, message_id, reply)

    def _land(self, port: _Port, message_id: int, reply: bytes | OSError) -> None:
        with self._lock:
            pending = port.pending.pop(message_id, None)
            if pending is None:
                return
            self._stats.received += 1
            pending.flight.land(pending.index, reply)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise TimeoutError("no time left")
    return seconds


def _receive(stream: socket.socket, size: int, remaining_s: Callable[[], float]) -> bytes:
    received = bytearray()
    while len(received) < size:
        stream.settimeout(_positive(remaining_s()))
        chunk = stream.recv(min(size - len(received), _TCP_CHUNK_BYTES))
        if not chunk:
            raise ConnectionError("closed in the middle of a message")
        received += chunk
    return bytes(received)
