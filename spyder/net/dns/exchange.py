"""Moving DNS messages: many questions in flight over UDP, one reader for all of them, TCP after truncation.

A worker that asks sends its datagrams itself and then waits once, until all of its answers are there or its time
is over. One thread, `dns-reader`, receives for all workers: with a receive per worker and answer, the interpreter lock
is handed over 69 times a host. The reader only matches replies to questions; reading what they say is the worker's
business (`spyder.net.dns.wire`). Neither gives the lock up for a datagram (`spyder.runtime.datagrams`).

A reply is taken when it comes from the server's address and port (the sockets are connected), to the port that
the question left from, with its ID, and with its question repeated to the letter (RFC 5452, section 9.1).
Everything else is counted, and the wait goes on.
"""

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from spyder.net.dns import wire
from spyder.runtime import datagrams

PORTS_PER_SERVER: Final = 128
"""Open source ports a server, one of which is drawn at random for each query (RFC 5452, section 9.2)."""
QUERIES_PER_PORT: Final = 5_000
"""After so many queries a port is replaced by a new one that the kernel draws, so that none can be learned."""
MAX_OUTSTANDING: Final = 512
"""Questions in the air to one server before the next worker waits for room.

A socket with the buffer that Linux gives it (208 KiB) holds 256 queries that nobody has read (measured); hundreds of
workers that start at once would overflow it, and wait out a timeout for each question that was dropped there.
"""
PATIENCE_PER_WAITER_S: Final = 0.001
"""How long a worker waits for room, for each one that waits with it. The limit spreads a burst (to six datagrams a
millisecond); it must not hold up workers whose server is slow because the names' own servers are."""
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
        if self._missing:
            self._landed.acquire(timeout=max(timeout_s, 0.0))


@dataclass(slots=True, eq=False)
class _Pending:
    question: bytes
    flight: Flight
    index: int


class _Port:
    """One connected UDP socket and the questions that left from it, by message ID."""

    __slots__ = ("fileno", "pending", "route", "sent", "socket")

    def __init__(self, route: "_Route") -> None:
        server = route.server
        self.route = route
        self.socket = socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.socket.connect((server.address, server.port))
        except OSError:
            self.socket.close()
            raise
        self.fileno = self.socket.fileno()
        self.pending: dict[int, _Pending] = {}
        self.sent = 0


class _Route:
    """The ports to one server, and how much is in the air there. Guarded by the lock of the exchange."""

    __slots__ = ("outstanding", "ports", "retired", "room", "server", "waiting")

    def __init__(self, server: NameServer, lock: threading.Lock) -> None:
        self.server = server
        self.ports: list[_Port] = []
        self.retired: list[_Port] = []
        """Ports that no question leaves from any more, and that still expect replies."""
        self.outstanding = 0
        self.room = threading.Condition(lock)
        self.waiting = 0

    def await_room(self, timeout_s: float) -> None:
        """Let others' questions be answered first while there are many, for as long as is fair."""
        self.waiting += 1
        patience_s = min(timeout_s / 2, PATIENCE_PER_WAITER_S * self.waiting)
        self.room.wait_for(lambda: self.outstanding < MAX_OUTSTANDING, patience_s)
        self.waiting -= 1

    def offer_room(self) -> None:
        """Wake one worker if there is room for it."""
        if self.waiting and self.outstanding < MAX_OUTSTANDING:
            self.room.notify()


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
        self._routes: dict[NameServer, _Route] = {}
        self._by_fileno: dict[int, _Port] = {}
        self._stats = ExchangeStats()
        self._receiver = datagrams.Receiver(_READ_BYTES)
        self._epoll = select.epoll()
        self._stopping = False
        self._closed = False
        self._wake_reader, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake_reader, select.EPOLLIN)
        self._reader = threading.Thread(target=self._read, name="dns-reader", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._reader.start()

    def stop(self) -> None:
        """Ask the reader to end, which ends every wait for a reply; returns at once, and may be called twice."""
        self._stopping = True
        if not self._closed:  # else the number of the descriptor may be somebody else's by now
            os.write(self._woken, b"x")

    def join(self, budget_s: float) -> bool:
        """Wait for the reader to end and close the sockets; tell whether it has."""
        if self._reader.ident is not None:
            self._reader.join(budget_s)
        if self._reader.is_alive():
            return False
        with self._lock:
            ports = list(self._by_fileno.values())
            self._by_fileno.clear()
            self._routes.clear()
            already, self._closed = self._closed, True
        if already:
            return True
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
        unreachable, no route, no descriptor), or None where no reply came in time.
        """
        end = time.monotonic() + timeout_s
        flight = Flight(len(questions))
        try:
            departures = self._depart(server, questions, flight, timeout_s)
        except OSError as error:
            return [error] * len(questions)
        for index, (port, message_id, _) in enumerate(departures):
            try:
                datagrams.send(port.fileno, wire.encode_query(message_id, questions[index], edns=edns))
            except ConnectionRefusedError as error:
                with self._lock:
                    self._fail(port, error)
            except OSError as error:
                self._land(port, message_id, error)
        flight.wait(end - time.monotonic())
        self._forget(departures)
        return flight.replies

    def ask_tcp(
        self, server: NameServer, question: bytes, *, remaining_s: Callable[[], float], edns: bool = True
    ) -> bytes:
        """Ask one question over TCP (RFC 7766) and return the reply.

        Blocks at most for `remaining_s()`, which is asked again before every wait.

        Raises:
            OSError: the connection failed, was closed, or took too long (TimeoutError).
            wire.BadMessage: the reply is not one to our question.
        """
        message_id = self._random_bits(16)
        query = wire.encode_query(message_id, question, edns=edns)
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
        self, server: NameServer, questions: Sequence[bytes], flight: Flight, timeout_s: float
    ) -> list[tuple[_Port, int, _Pending]]:
        """Draw a port and an ID for each question, and expect the replies there.

        Raises:
            OSError: there is no way to the server, no descriptor to be had, or the exchange has been stopped.
        """
        departures = []
        with self._lock:
            route = self._routes.get(server) or self._open(server)
            if route.outstanding >= MAX_OUTSTANDING:
                route.await_room(timeout_s)
            if self._stopping:
                raise _stopped()
            ports = route.ports
            for index, question in enumerate(questions):
                drawn = self._random_bits(32)
                place = drawn % len(ports)
                port = ports[place]
                if port.sent >= QUERIES_PER_PORT:
                    port = ports[place] = self._replace(port)
                message_id = drawn >> 16
                while message_id in port.pending:
                    message_id = self._random_bits(16)
                pending = port.pending[message_id] = _Pending(question, flight, index)
                port.sent += 1
                departures.append((port, message_id, pending))
            self._stats.sent += len(departures)
            route.outstanding += len(departures)
            route.offer_room()
        return departures

    def _open(self, server: NameServer) -> _Route:
        """Open the ports to a server that was not asked before."""
        if self._stopping:
            raise _stopped()
        route = _Route(server, self._lock)
        try:
            for _ in range(PORTS_PER_SERVER):
                route.ports.append(self._register(_Port(route)))
        except OSError:
            for port in route.ports:
                self._close(port)
            raise
        self._routes[server] = route
        return route

    def _replace(self, old: _Port) -> _Port:
        """Return a new port in place of one that has been used long enough, and close what is done with."""
        route = old.route
        try:
            new = self._register(_Port(route))
        except OSError:
            return old  # better an old port than none
        done = [port for port in (*route.retired, old) if not port.pending]
        route.retired = [port for port in (*route.retired, old) if port.pending]
        for port in done:
            self._close(port)
        return new

    def _register(self, port: _Port) -> _Port:
        self._epoll.register(port.fileno, select.EPOLLIN)
        self._by_fileno[port.fileno] = port
        return port

    def _close(self, port: _Port) -> None:
        self._epoll.unregister(port.fileno)
        del self._by_fileno[port.fileno]
        port.socket.close()

    def _forget(self, departures: Sequence[tuple[_Port, int, _Pending]]) -> None:
        """Expect no more of the questions that were not answered."""
        for port, message_id, pending in departures:
            if port.pending.get(message_id) is pending:
                with self._lock:
                    if port.pending.get(message_id) is pending:
                        self._take(port, message_id)

    def _read(self) -> None:
        while not self._stopping:
            for fileno, _ in self._epoll.poll():
                port = self._by_fileno.get(fileno)
                if port is not None:
                    self._receive(port)
        with self._lock:
            for port in self._by_fileno.values():
                self._fail(port, _stopped())

    def _receive(self, port: _Port) -> None:
        try:
            reply = self._receiver.receive(port.fileno)
        except BlockingIOError:
            return
        except OSError as error:
            with self._lock:
                self._fail(port, error)
            return
        message_id = reply[0] << 8 | reply[1] if len(reply) > 1 else -1
        pending = port.pending.get(message_id)
        if pending is None or not wire.is_reply_to(reply, pending.question):
            self._stats.ignored += 1
            return
        self._land(port, message_id, reply)

    def _land(self, port: _Port, message_id: int, reply: bytes | OSError) -> None:
        with self._lock:
            pending = self._take(port, message_id)
            if pending is not None:
                self._stats.received += 1
                pending.flight.land(pending.index, reply)

    def _fail(self, port: _Port, error: OSError) -> None:
        """End the waits for all that left from a port: the kernel says that nobody listens over there."""
        while port.pending:
            pending = self._take(port, next(iter(port.pending)))
            if pending is not None:
                pending.flight.land(pending.index, error)

    def _take(self, port: _Port, message_id: int) -> _Pending | None:
        """Expect a reply no more."""
        pending = port.pending.pop(message_id, None)
        if pending is not None:
            route = port.route
            route.outstanding -= 1
            if route.waiting:
                route.offer_room()
        return pending


def _stopped() -> OSError:
    return OSError(errno.ESHUTDOWN, "the exchange of DNS messages has been stopped")


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
