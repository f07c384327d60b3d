"""DNS messages (RFC 1035): queries written from bytes, replies read into answers. No sockets, no state.

dnspython's own message classes are correct and cost 0.1 to 0.5 ms each, six times a host, which is more than the
rest of the probe together; so the few record types that every host costs are read here, and a test holds this
file against dnspython on sound and malformed messages. Everything is bounded by the size of the reply (64 KiB).
"""

import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from spyder.model.outcomes import Status

MAX_ALIAS_HOPS: Final = 16
"""A CNAME chain longer than this is a loop to us; public resolvers stop between 8 and 16."""
EDNS_PAYLOAD_BYTES: Final = 1232
"""What we say we can receive over UDP: fits an IPv6 packet without fragments (DNS flag day 2020)."""
MAX_NAME_OCTETS: Final = 255
"""RFC 1035, section 3.1."""

_HEADER: Final = struct.Struct("!6H")
_RR: Final = struct.Struct("!HHIH")
_FLAG_QR: Final = 0x8000
_FLAG_TC: Final = 0x0200
_FLAG_RD: Final = 0x0100
_FLAG_AD: Final = 0x0020
_OPCODE_MASK: Final = 0x7800
_RCODE_MASK: Final = 0x000F
_RCODE_NXDOMAIN: Final = 3
_CLASS_IN: Final = 1
_POINTER: Final = 0xC0
_TYPE_OPT: Final = 41
_OPT_RECORD: Final = b"\0" + _RR.pack(_TYPE_OPT, EDNS_PAYLOAD_BYTES, 0, 0)  # RFC 6891, section 6.1.2

_PLAIN_LABEL = re.compile(rb"[A-Za-z0-9_-]+")


class RdataType(IntEnum):
    """The record types that this project asks for (RFC 1035, section 3.2.2; RFC 3596 for AAAA)."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28


class BadMessage(ValueError):
    """A reply that cannot be read."""


@dataclass(frozen=True, slots=True)
class Question:
    """One name and type. `name` is lower-case text without a trailing dot."""

    name: str
    rdtype: RdataType


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question yielded.

    `records` are the values at the end of the alias chain, as text: addresses for A and AAAA, names (lower case,
    no trailing dot, "" for the root) for NS, MX, CNAME and PTR, the joined strings for TXT. `aliases` are the
    hops of the chain, without the name asked for.
    """

    question: Question
    status: Status
    records: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ttl_s: int = 0
    """The least TTL of all records used, aliases included; for a negative answer by RFC 2308, section 5."""
    authenticated: bool = False
    """The AD bit, as the resolver said it (RFC 4035, section 3.2.3)."""
    server: str = ""
    """The name server that answered, as `address:port`."""
    detail: str | None = None


def encode_name(name: str) -> bytes:
    """Return the wire form of a host name of ASCII labels.

    Raises:
        ValueError: for an empty label, one over 63 octets, or a name over 255 (RFC 1035, section 2.3.4).
    """
    wire = bytearray()
    for label in name.encode("ascii").split(b"."):
        if not 0 < len(label) < 64:  # RFC 1035, section 2.3.4
            raise ValueError(f"not a host name: {name!r}")
        wire.append(len(label))
        wire += label
    wire.append(0)
    if len(wire) > MAX_NAME_OCTETS:
        raise ValueError(f"name over {MAX_NAME_OCTETS} octets: {name!r}")
    return bytes(wire)


def mix_case(name: bytes, randomness: int) -> bytes:
    """Return a wire name with the case of its letters drawn at random (draft-vixie-dnsext-dns0x20)."""
    letters = int.from_bytes(bytes([0x20 if 97 <= octet <= 122 else 0 for octet in name]))  # a to z
    return (int.from_bytes(name) ^ (letters & randomness)).to_bytes(len(name))


def encode_question(name: bytes, rdtype: int) -> bytes:
    """Return the question section for a wire name."""
    return name + struct.pack("!HH", rdtype, _CLASS_IN)


def encode_query(message_id: int, question: bytes, *, edns: bool = True) -> bytes:
    """Return a query with recursion desired, and with EDNS(0) unless the server chokes on it.

    With EDNS the AD bit is set too, without which the reply's AD bit stays clear (RFC 6840, sections 5.7 and 5.8).
    """
    if edns:
        return _HEADER.pack(message_id, _FLAG_RD | _FLAG_AD, 1, 0, 0, 1) + question + _OPT_RECORD
    return _HEADER.pack(message_id, _FLAG_RD, 1, 0, 0, 0) + question


def is_reply_to(reply: bytes, question: bytes) -> bool:
    """Tell whether a datagram is a response (QR=1) to a query (OPCODE 0) that repeats our question to the letter.

    The message ID is compared by who holds the pending queries. A server that refuses before it parses may leave
    the question out (RFC 9619 allows QDCOUNT 0 or 1); such a reply is taken only when it carries an error that can
    be known so early: that a name does not exist cannot.
    """
    if len(reply) < _HEADER.size:
        return False
    _, flags, qdcount, ancount, _, _ = _HEADER.unpack_from(reply)
    if flags & (_FLAG_QR | _OPCODE_MASK) != _FLAG_QR:
        return False
    if qdcount == 0:
        return flags & _RCODE_MASK not in (0, _RCODE_NXDOMAIN) and ancount == 0
    return qdcount == 1 and reply.startswith(question, _HEADER.size)


def is_truncated(reply: bytes) -> bool:
    """Tell whether the TC bit is set (RFC 1035, section 4.1.1)."""
    return bool(reply[2] & (_FLAG_TC >> 8))


def rcode(reply: bytes) -> int:
    """Return the four bits of the response code."""
    return reply[3] & _RCODE_MASK


RCODE_STATUS: Final = MappingProxyType({0: Status.OK, 2: Status.SERVFAIL, 3: Status.NXDOMAIN, 5: Status.REFUSED})


def read_answer(reply: bytes, question: Question, question_wire: bytes, *, server: str = "") -> Answer:
    """Read a reply that `is_reply_to` has accepted.

    Only records that hang together with the question are used: the CNAME chain from the name asked for, and the
    records of the asked type at its end. Whatever else a server adds to the answer is ignored.

    Raises:
        BadMessage: the reply is cut short, has pointers that lead nowhere, or records of a wrong size.
    """
    code = rcode(reply)
    status = RCODE_STATUS.get(code, Status.SERVFAIL)
    if status not in (Status.OK, Status.NXDOMAIN):
        return Answer(question, status, server=server, detail=f"rcode {code}")
    try:
        return _Reader(reply, question, question_wire).answer(status, server)
    except (IndexError, struct.error) as error:
        raise BadMessage(f"cut short: {error}") from None


class _Reader:
    """One pass over one message."""

    __slots__ = ("_at", "_labels_left", "_names", "_question", "_reply")

    def __init__(self, reply: bytes, question: Question, question_wire: bytes) -> None:
        self._reply = reply
        self._question = question
        self._at = _HEADER.size + len(question_wire)
        self._names = {_HEADER.size: (question.name, len(question_wire) - 5)}
        """Names known so far by their offset, with their octets (less the root's)."""
        self._labels_left = len(reply)

    def answer(self, status: Status, server: str) -> Answer:
        question = self._question
        _, flags, _, ancount, nscount, arcount = _HEADER.unpack_from(self._reply)
        if not ancount and not nscount and (high_bits := self._extended_rcode(arcount)):
            code = high_bits << 4 | flags & _RCODE_MASK
            return Answer(question, Status.SERVFAIL, server=server, detail=f"rcode {code}")
        wanted = question.rdtype
        canonical: dict[str, tuple[str, int]] = {}
        found: dict[str, list[str]] = {}
        ttls: dict[str, int] = {}
        read = _RDATA_READERS[wanted]
        for _ in range(ancount):
            owner, rdtype, ttl_s, start, end = self._record()
            if rdtype == wanted:
                found.setdefault(owner, []).append(read(self, start, end))
                ttls[owner] = min(ttl_s, ttls.get(owner, ttl_s))
            elif rdtype == RdataType.CNAME:
                canonical.setdefault(owner, (self._name_ending_at(start, end), ttl_s))
        name, aliases, ttl_s = question.name, [], 0x7FFFFFFF
        while name not in found and name in canonical:
            name, hop_ttl_s = canonical[name]
            aliases.append(name)
            ttl_s = min(ttl_s, hop_ttl_s)
            if len(aliases) > MAX_ALIAS_HOPS:
                hops = tuple(dict.fromkeys(aliases))[:MAX_ALIAS_HOPS]
                return Answer(question, Status.ALIAS_LOOP, (), hops, ttl_s, server=server)
        records = tuple(dict.fromkeys(found.get(name, ())))
        if records:
            status, ttl_s = Status.OK, min(ttl_s, ttls[name])
        else:
            status = Status.NXDOMAIN if status is Status.NXDOMAIN else Status.NODATA
            ttl_s = min(ttl_s, self._negative_ttl(nscount))
        authenticated = bool(flags & _FLAG_AD)
        return Answer(question, status, records, tuple(aliases), ttl_s, authenticated, server)

    def _record(self) -> tuple[str, int, int, int, int]:
        owner = self._name()
        rdtype, rdclass, ttl_s, size = _RR.unpack_from(self._reply, self._at)
        start = self._at + _RR.size
        end = self._at = start + size
        if end > len(self._reply):
            raise BadMessage("record data runs past the end")
        if rdclass != _CLASS_IN and rdtype != _TYPE_OPT:  # the class of OPT is a size
            rdtype = 0
        return owner, rdtype, ttl_s if ttl_s <= 0x7FFFFFFF else 0, start, end  # RFC 2181, section 8

    def _negative_ttl(self, nscount: int) -> int:
        """Return the lesser of the SOA's own TTL and its MINIMUM field; 0 where there is no SOA."""
        for _ in range(nscount):
            _, rdtype, ttl_s, start, end = self._record()
            if rdtype == RdataType.SOA and end - start >= 22:  # two root names and five numbers
                minimum: int = struct.unpack_from("!I", self._reply, end - 4)[0]
                return min(ttl_s, minimum)
        return 0

    def _extended_rcode(self, arcount: int) -> int:
        """Return the upper eight bits of the response code: a lone BADVERS looks like "no data" without them."""
        for _ in range(arcount):
            _, rdtype, ttl_s, _, _ = self._record()
            if rdtype == _TYPE_OPT:
                return ttl_s >> 24  # RFC 6891, section 6.1.3
        return 0

    def _name(self) -> str:
        at = self._at
        first = self._reply[at]
        if first >= _POINTER:  # most owner names are one pointer to the question
            known = self._names.get((first & 0x3F) << 8 | self._reply[at + 1])
            if known is not None:
                self._at = at + 2
                return known[0]
        name, self._at = self._name_at(at)
        return name

    def _name_ending_at(self, start: int, end: int) -> str:
        name, after = self._name_at(start)
        if after != end:
            raise BadMessage("name does not fill its record")
        return name

    def _name_at(self, at: int) -> tuple[str, int]:
        """Return the name at an offset, and the offset after it.

        Pointers must lead backwards, so loops cannot be; what one has led to is kept, so that none is followed twice.
        """
        reply, names = self._reply, self._names
        labels: list[str] = []
        octets, after, lowest = 0, 0, at
        visited = [(at, 0, 0)]
        while length := reply[at]:
            if length >= _POINTER:
                after = after or at + 2
                at = (length & 0x3F) << 8 | reply[at + 1]
                if at >= lowest:
                    raise BadMessage("compression pointers do not lead backwards to a name")
                known = names.get(at)
                if known is not None:
                    if known[1]:  # else the root
                        labels.append(known[0])
                        octets += known[1]
                    break
                lowest = at
                visited.append((at, len(labels), octets))
                continue
            if length > 63:  # RFC 1035, section 4.1.4
                raise BadMessage("reserved label type")
            label = reply[at + 1 : at + 1 + length]
            if len(label) != length:
                raise BadMessage("label runs past the end")
            octets += length + 1
            if octets >= MAX_NAME_OCTETS:
                break
            labels.append(_label_text(label))
            at += length + 1
        if octets >= MAX_NAME_OCTETS:
            raise BadMessage(f"name over {MAX_NAME_OCTETS} octets")
        self._labels_left -= len(labels)
        if self._labels_left < 0:
            raise BadMessage("more labels than octets: names that begin inside of each other")
        for offset, index, before in visited:
            names[offset] = ".".join(labels[index:]), octets - before
        return names[visited[0][0]][0], after or at + 1

    def _ipv4(self, start: int, end: int) -> str:
        if end - start != 4:  # RFC 1035, section 3.4.1
            raise BadMessage("A record of a wrong size")
        return socket.inet_ntop(socket.AF_INET, self._reply[start:end])

    def _ipv6(self, start: int, end: int) -> str:
        if end - start != 16:  # RFC 3596, section 2.2
            raise BadMessage("AAAA record of a wrong size")
        return socket.inet_ntop(socket.AF_INET6, self._reply[start:end])

    def _exchange(self, start: int, end: int) -> str:
        if end - start < 3:  # a preference and a name
            raise BadMessage("MX record of a wrong size")
        return self._name_ending_at(start + 2, end)

    def _strings(self, start: int, end: int) -> str:
        strings = bytearray()
        at = start
        while at < end:
            length = self._reply[at]
            if at + 1 + length > end:
                raise BadMessage("TXT string runs past its record")
            strings += self._reply[at + 1 : at + 1 + length]
            at += 1 + length
        return strings.decode("utf-8", "backslashreplace")


_RDATA_READERS: Final[MappingProxyType[int, Callable[[_Reader, int, int], str]]] = MappingProxyType(
    {
        RdataType.A: _Reader._ipv4,
        RdataType.AAAA: _Reader._ipv6,
        RdataType.NS: _Reader._name_ending_at,
        RdataType.CNAME: _Reader._name_ending_at,
        RdataType.PTR: _Reader._name_ending_at,
        RdataType.MX: _Reader._exchange,
        RdataType.TXT: _Reader._strings,
    }
)


def _label_text(label: bytes) -> str:
    """Return a label as lower-case text, with other octets escaped (RFC 1035, section 5.1)."""
    if _PLAIN_LABEL.fullmatch(label):
        return label.decode("ascii").lower()
    return "".join([_OCTET_TEXT[octet] for octet in label])


def _octet_text(octet: int) -> str:
    character = chr(octet).lower() if octet < 128 else ""  # ASCII
    if character.isalnum() or character in ("-", "_"):
        return character
    if 0x20 < octet < 0x7F:  # printable ASCII
        return f"\\{character}" if character in '."();@$\\' else character
    return f"\\{octet:03d}"


_OCTET_TEXT: Final = tuple(map(_octet_text, range(256)))
