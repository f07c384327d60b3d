"""The lab's name server: answers as a recursive resolver does, from memory, over UDP and TCP.

Where the probe's DNS questions go. Everything runs on the lab's event loop. Messages are read and written by
hand (RFC 1035, section 4): at thousands of questions a second a general library would be the bottleneck.
"""

import asyncio
import collections
import contextlib
import functools
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from spyder.lab.counters import Counters
from spyder.lab.records import Name, Site

TYPE_NUMBERS: Final = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28}  # RFC 1035, 3596
_TYPE_NAMES: Final = {number: name for name, number in TYPE_NUMBERS.items()}
OPT: Final = 41  # RFC 6891, section 6.1.1
NXDOMAIN: Final = 3
SERVFAIL: Final = 2
UDP_BYTES: Final = 512  # RFC 1035, section 2.3.4, without EDNS
EDNS_UDP_BYTES: Final = 1232  # never more over UDP, as resolvers do since the DNS flag day of 2020
TTL_S: Final = 300
NEGATIVE_TTL_S: Final = 60
BUFFER_BYTES: Final = 8 * 1024 * 1024  # the loop may be busy with TLS while all workers ask at once
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h; `socket` does not name them
DATAGRAMS_A_TURN: Final = 4096
_HEADER: Final = struct.Struct("!6H")
_FIXED: Final = struct.Struct("!HHIH")
_QNAME_POINTER: Final = b"\xc0\x0c"  # RFC 1035, section 4.1.4: to the first byte after the header


class NameServer:
    """Answers for the names of some sites; any other name does not exist."""

    def __init__(self, sites: Iterable[Site], counters: Counters) -> None:
        self._names: dict[str, Name] = {}
        for site in sites:
            self._names.update(site.names)
        # A name above an existing one exists (RFC 8020).
        self._above = {parent for name in self._names for parent in _parents(name)}
        self._counters = counters
        self._waiting: collections.deque[tuple[tuple[str, int], bytes]] = collections.deque()
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on 127.0.0.1, UDP and TCP, and return the port."""
        tcp, self._socket = _bind_both()
        self._socket.setblocking(False)
        _enlarge(self._socket)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self.drain)
        self._server = await loop.create_server(lambda: _TcpClient(self.reply), sock=tcp, backlog=1024)
        return int(tcp.getsockname()[1])

    def stop(self) -> None:
        """Close both ports."""
        if self._server and self._socket:
            self._server.close()
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()

    def drain(self) -> None:
        """Answer all that has come by UDP: asyncio's own transport takes one datagram a turn, and loses the rest.

        Never blocks. To be called also between handshakes: 256 of them in one turn of the loop would keep
        questions waiting until their clients give up.
        """
        assert self._socket is not None
        udp = self._socket
        for _ in range(DATAGRAMS_A_TURN):
            try:
                query, client = udp.recvfrom(4096)
            except OSError:
                return
            self.reply(query, functools.partial(self._send, udp, client), udp=True)

    def _send(self, udp: socket.socket, client: tuple[str, int], answer: bytes) -> None:
        """Send a datagram, after those that wait. On loopback, what a client has not read fills our buffer."""
        self._waiting.append((client, answer))
        if len(self._waiting) == 1:
            self._flush(udp)

    def _flush(self, udp: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            client, answer = self._waiting[0]
            try:
                udp.sendto(answer, client)
            except BlockingIOError:
                loop.add_writer(udp, self._flush, udp)
                return
            except OSError:  # the client or the lab is gone: lost, as UDP may be
                pass
            self._waiting.popleft()
        loop.remove_writer(udp)

    def reply(self, query: bytes, send: Callable[[bytes], None], *, udp: bool) -> None:
        """Send the answer now, later, or never. What is no question is dropped."""
        try:
            ident, flags, questions, _, _, _ = _HEADER.unpack_from(query)
            name, end = _read_name(query)
            kind, _ = struct.unpack_from("!2H", query, end)
        except (struct.error, IndexError, UnicodeDecodeError):
            return
        if flags & 0x8000 or questions != 1:
            return
        question = query[12 : end + 4]
        payload = _edns_payload(query, end + 4)
        counter = self._counters.dns_udp if udp else self._counters.dns_tcp
        counter[f"{name} {_TYPE_NAMES.get(kind, kind)}"] += 1
        records = self._names.get(name, _NOTHING)
        if records.silent:
            return
        rcode, answers, authority = self._answer(name, kind)
        header_flags = 0x8080 | (flags & 0x0100) | rcode  # QR, RA, RD as it was asked
        extra = _opt() if payload is not None else b""
        answer = _message(ident, header_flags, question, answers, authority, extra)
        limit = UDP_BYTES if payload is None else min(max(payload, UDP_BYTES), EDNS_UDP_BYTES)
        if udp and len(answer) > limit:
            answer = _message(ident, header_flags | 0x0200, question, [], [], extra)
        if records.delay_ms:
            asyncio.get_running_loop().call_later(records.delay_ms / 1000, send, answer)
        else:
            send(answer)

    def _answer(self, name: str, kind: int) -> tuple[int, list[bytes], list[bytes]]:
        """Return the rcode, and the records of the answer and authority sections."""
        answers: list[bytes] = []
        owner, wire_owner = name, _QNAME_POINTER
        records = self._names.get(owner)
        while records and records.cname and kind != TYPE_NUMBERS["CNAME"]:
            answers.append(_record(wire_owner, "CNAME", _wire_name(records.cname)))
            owner, wire_owner = records.cname, _wire_name(records.cname)
            records = self._names.get(owner)
        if records is None:
            rcode = 0 if owner in self._above else NXDOMAIN
            return rcode, answers, [_soa(owner)]
        type_name = _TYPE_NAMES.get(kind, "")
        if records.rcode or type_name in records.failing:
            return records.rcode or SERVFAIL, [], []
        found = [_record(wire_owner, type_name, data) for data in _rdata(records, type_name)]
        return 0, answers + found, [] if found else [_soa(owner)]


_NOTHING: Final = Name()


class _TcpClient(asyncio.Protocol):
    """A client over TCP: messages with a length of two bytes in front (RFC 1035, section 4.2.2)."""

    def __init__(self, reply: Callable[..., None]) -> None:
        self._reply = reply
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= (end := 2 + int.from_bytes(self._buffer[:2])):
            query, self._buffer = self._buffer[2:end], self._buffer[end:]
            self._reply(query, self._send, udp=False)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(len(answer).to_bytes(2) + answer)


def _bind_both() -> tuple[socket.socket, socket.socket]:
    """Return a TCP and a UDP socket on one free port of 127.0.0.1."""
    while True:
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.bind(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
        else:
            return tcp, udp


def _enlarge(udp: socket.socket) -> None:
    for plain, forced in ((socket.SO_SNDBUF, SO_SNDBUFFORCE), (socket.SO_RCVBUF, SO_RCVBUFFORCE)):
        udp.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        with contextlib.suppress(OSError):  # root on Linux may go beyond net.core.rmem_max and wmem_max
            udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)


def _parents(name: str) -> Iterable[str]:
    while (dot := name.find(".")) > 0:
        name = name[dot + 1 :]
        yield name


def _read_name(message: bytes) -> tuple[str, int]:
    """Return the name of the question in lower case, and where it ends. Questions are never compressed."""
    labels, at = [], 12
    while length := message[at]:
        if length > 63:  # RFC 1035, section 2.3.4
            raise IndexError(at)
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _edns_payload(query: bytes, at: int) -> int | None:
    """Return the size that an OPT record announces (RFC 6891, section 6.1.2), None where there is none."""
    if len(query) < at + 11 or query[at] != 0:
        return None
    kind, payload = struct.unpack_from("!2H", query, at + 1)
    return payload if kind == OPT else None


def _opt() -> bytes:
    return b"\x00" + _FIXED.pack(OPT, EDNS_UDP_BYTES, 0, 0)


def _message(
    ident: int, flags: int, question: bytes, answers: list[bytes], authority: list[bytes], extra: bytes
) -> bytes:
    header = _HEADER.pack(ident, flags, 1, len(answers), len(authority), 1 if extra else 0)
    return b"".join((header, question, *answers, *authority, extra))


def _record(owner: bytes, kind: str, data: bytes, ttl_s: int = TTL_S) -> bytes:
    return owner + _FIXED.pack(TYPE_NUMBERS[kind], 1, ttl_s, len(data)) + data


def _soa(owner: str) -> bytes:
    """Return the SOA of the owner's top-level domain, which a negative answer carries (RFC 2308, section 3)."""
    data = _wire_name("a.root.test") + _wire_name("hostmaster.root.test")
    data += struct.pack("!5I", 1, 3600, 600, 86400, NEGATIVE_TTL_S)
    return _record(_wire_name(owner.rpartition(".")[2]), "SOA", data, NEGATIVE_TTL_S)


def _wire_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\x00"


def _text(value: bytes) -> bytes:
    """Return a TXT value in strings of at most 255 bytes (RFC 1035, section 3.3.14)."""
    strings = [value[at : at + 255] for at in range(0, len(value), 255)]
    return b"".join(bytes((len(string),)) + string for string in strings)


def _rdata(records: Name, kind: str) -> list[bytes]:
    return list(_ENCODERS[kind](records)) if kind in _ENCODERS else []


_ENCODERS: Mapping[str, Callable[[Name], Iterable[bytes]]] = {
    "A": lambda name: (ipaddress.IPv4Address(a).packed for a in name.a),
    "AAAA": lambda name: (ipaddress.IPv6Address(a).packed for a in name.aaaa),
    "NS": lambda name: (_wire_name(n) for n in name.ns),
    "MX": lambda name: (preference.to_bytes(2) + _wire_name(n) for preference, n in name.mx),
    "TXT": lambda name: (_text(value) for value in name.txt),
    "CNAME": lambda name: (_wire_name(n) for n in (name.cname,) if n),
}
