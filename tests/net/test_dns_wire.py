"""Replies read into answers: held against dnspython on sound messages, against malice on all others."""

import json
import random
import struct
import time
from collections.abc import Callable
from itertools import pairwise

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from spyder.model.outcomes import Status
from spyder.net.dns import wire
from spyder.net.dns.wire import Answer, BadMessage, Question, RdataType
from tests.shared_data import shared

CPU_LIMIT_S = 0.5
HOST = "www.example.com"
QR, AA, TC, RD, RA, AD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020
POINTER_TO_QUESTION = b"\xc0\x0c"


def _name(text: str) -> bytes:
    return wire.encode_name(text)


def _record(owner: bytes, rdtype: int, rdata: bytes, *, ttl_s: int = 300, rdclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rdtype, rdclass, ttl_s, len(rdata)) + rdata


def _soa(ttl_s: int, minimum: int) -> bytes:
    return _record(_name("example.com"), RdataType.SOA, b"\0\0" + struct.pack("!5I", 1, 2, 3, 4, minimum), ttl_s=ttl_s)


def _reply(
    *answers: bytes,
    authority: tuple[bytes, ...] = (),
    additional: tuple[bytes, ...] = (),
    rdtype: int = RdataType.A,
    flags: int = QR | RD | RA,
    ancount: int | None = None,
) -> bytes:
    counts = len(answers) if ancount is None else ancount, len(authority), len(additional)
    header = struct.pack("!6H", 0x1234, flags, 1, *counts)
    return header + _question_wire(rdtype) + b"".join((*answers, *authority, *additional))


def _question_wire(rdtype: int = RdataType.A) -> bytes:
    return wire.encode_question(_name(HOST), rdtype)


def _read(message: bytes, rdtype: RdataType = RdataType.A) -> Answer:
    return wire.read_answer(message, Question(HOST, rdtype), _question_wire(rdtype))


# --- against dnspython ------------------------------------------------------------------------------------------------

_plain_labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12).map(str.encode)
_labels = st.one_of(_plain_labels, st.binary(min_size=1, max_size=6), st.just(b"x" * 63))
_names = st.lists(_labels, min_size=0, max_size=5).filter(lambda labels: sum(map(len, labels)) < 200)
_zones = st.sampled_from([(), (b"com",), (b"Example", b"com"), (b"cdn", b"example", b"NET")])
_ttls = st.integers(0, 2**32 - 1)


@st.composite
def _dns_names(draw: st.DrawFn) -> dns.name.Name:
    return dns.name.Name((*draw(_names), *draw(_zones), b""))


@st.composite
def _rdata_texts(draw: st.DrawFn, rdtype: RdataType) -> str:
    if rdtype is RdataType.A:
        return ".".join(str(draw(st.integers(0, 255))) for _ in range(4))
    if rdtype is RdataType.AAAA:
        return ":".join(f"{draw(st.integers(0, 65535)):x}" for _ in range(8))
    if rdtype is RdataType.TXT:
        strings = draw(st.lists(st.binary(max_size=20), min_size=1, max_size=3))
        return " ".join('"' + "".join(f"\\{octet:03d}" for octet in string) + '"' for string in strings)
    target = draw(_dns_names()).to_text()
    return f"{draw(st.integers(0, 65535))} {target}" if rdtype is RdataType.MX else target


@st.composite
def _sound_replies(draw: st.DrawFn) -> tuple[bytes, Question]:
    """A reply as an honest server writes it: a chain, records at its end, other people's records in between."""
    rdtype = draw(st.sampled_from([RdataType.A, RdataType.AAAA, RdataType.NS, RdataType.MX, RdataType.TXT]))
    host = draw(st.lists(_plain_labels, min_size=1, max_size=4).map(b".".join)).decode()
    query = dns.message.make_query(host + ".", rdtype.name, use_edns=draw(st.booleans()), id=1)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AD if draw(st.booleans()) else 0
    chain = [dns.name.from_text(host + "."), *draw(st.lists(_dns_names(), max_size=5))]
    chain = list(dict.fromkeys(chain))
    answers = [
        dns.rrset.from_text(owner, draw(_ttls), "IN", "CNAME", target.to_text()) for owner, target in pairwise(chain)
    ]
    texts = draw(st.lists(_rdata_texts(rdtype), max_size=4))
    if texts:
        answers.append(dns.rrset.from_text(chain[-1], draw(_ttls), "IN", rdtype.name, *texts))
    else:
        response.authority.append(
            dns.rrset.from_text(".", draw(_ttls), "IN", "SOA", f"a. b. 1 2 3 4 {draw(st.integers(0, 2**31 - 1))}")
        )
        if draw(st.booleans()):
            response.set_rcode(dns.rcode.NXDOMAIN)
    for owner in draw(st.lists(_dns_names(), max_size=2)):
        if owner not in chain:
            answers += [dns.rrset.from_text(owner, 1, "IN", rdtype.name, draw(_rdata_texts(rdtype)))]
    response.answer.extend(draw(st.permutations(answers)))
    return response.to_wire(max_size=65535, want_shuffle=False), Question(host, rdtype)


def _host_text(of: dns.name.Name) -> str:
    return of.canonicalize().to_text(omit_final_dot=True) if len(of) > 1 else ""


def _oracle_text(rdata: object, rdtype: RdataType) -> str:
    if rdtype is RdataType.NS:
        return _host_text(rdata.target)  # type: ignore[attr-defined]
    if rdtype is RdataType.MX:
        return _host_text(rdata.exchange)  # type: ignore[attr-defined]
    if rdtype is RdataType.TXT:
        return b"".join(rdata.strings).decode("utf-8", "backslashreplace")  # type: ignore[attr-defined]
    return str(rdata)


@settings(max_examples=300, deadline=None)
@given(_sound_replies())
def test_sound_messages_are_read_as_dnspython_reads_them(case: tuple[bytes, Question]) -> None:
    """Records, aliases, TTL, status and AD bit are those that dnspython finds in the same bytes."""
    message, question = case
    asked = wire.encode_question(_name(question.name), question.rdtype)
    assert wire.is_reply_to(message, asked)
    answer = wire.read_answer(message, question, asked, server="s")
    parsed = dns.message.from_wire(message)
    assert isinstance(parsed, dns.message.QueryMessage)
    chaining = parsed.resolve_chaining()
    expected = [_oracle_text(rdata, question.rdtype) for rdata in chaining.answer or ()]
    assert answer.records == tuple(dict.fromkeys(expected))
    assert answer.aliases == tuple(_host_text(cname[0].target) for cname in chaining.cnames)
    assert answer.ttl_s == chaining.minimum_ttl
    assert answer.authenticated == bool(parsed.flags & dns.flags.AD)
    if chaining.answer:
        assert answer.status is Status.OK
    else:
        assert answer.status is (Status.NXDOMAIN if parsed.rcode() == 3 else Status.NODATA)


@settings(max_examples=500, deadline=None)
@given(_sound_replies(), st.data())
def test_damaged_messages_end_in_an_answer_or_a_bad_message(case: tuple[bytes, Question], data: st.DataObject) -> None:
    """Whatever bytes are overwritten, put in or left out, nothing but BadMessage is raised."""
    message, question = bytearray(case[0]), case[1]
    asked = wire.encode_question(_name(question.name), question.rdtype)
    body = 12 + len(asked)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(4, len(message) - 1))
        if at >= 12 and at < body:
            continue
        cut = data.draw(st.integers(0, 3))
        message[at : at + cut] = data.draw(
            st.sampled_from([b"\xc0", b"\xff", b"\0", b"\x3f", b"\xc0\x0c", b"", b"\x40"])
        )
    _check_typed(bytes(message), question, asked)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(list(RdataType)), st.integers(0, 0xFFFF))
@example(b"", RdataType.A, 1)
def test_noise_after_the_question_ends_in_an_answer_or_a_bad_message(
    noise: bytes, rdtype: RdataType, ancount: int
) -> None:
    """Random octets where records should be raise nothing but BadMessage."""
    if rdtype is RdataType.SOA:
        return  # never asked for
    message = _reply(noise, rdtype=rdtype, ancount=ancount)
    _check_typed(message, Question(HOST, rdtype), _question_wire(rdtype))


@given(st.binary(max_size=40))
def test_any_datagram_can_be_held_against_a_question(datagram: bytes) -> None:
    """The check that decides what is a reply takes any octets at all."""
    assert wire.is_reply_to(datagram, _question_wire()) in (True, False)


def _check_typed(message: bytes, question: Question, asked: bytes) -> None:
    if not wire.is_reply_to(message, asked):
        return
    try:
        answer = wire.read_answer(message, question, asked)
    except BadMessage:
        return
    assert isinstance(answer, Answer)
    assert answer.ttl_s >= 0


# --- messages of others -----------------------------------------------------------------------------------------------


def _question_section(message: bytes) -> tuple[str, bytes]:
    """The question that a message repeats where it is plain, else one that it was no reply to."""
    at, labels = 12, []
    while at < len(message) and 0 < message[at] < 64:
        labels.append(message[at + 1 : at + 1 + message[at]])
        at += 1 + message[at]
    text = b".".join(labels)
    if not text.isascii() or b"" in labels or len(message) < at + 5:
        return HOST, _question_wire()
    return text.decode().lower() or HOST, message[12 : at + 5]


def _shared_messages() -> list[dict[str, object]]:
    messages: list[dict[str, object]] = json.loads(shared("dns/messages.json").read_text())
    return messages


def test_messages_of_others_end_in_an_answer_or_a_bad_message() -> None:
    """Sound and malformed messages out of other projects' test suites, read as a reply for each type."""
    started = time.thread_time()
    for case in _shared_messages():
        message = bytearray.fromhex(str(case["wire_hex"]))
        host, asked = _question_section(bytes(message))
        if len(message) > 2:
            message[2] |= QR >> 8
        for rdtype in set(RdataType) - {RdataType.SOA}:
            _check_typed(bytes(message), Question(host, rdtype), asked)
    assert time.thread_time() - started < 5 * CPU_LIMIT_S


def test_messages_of_others_say_what_is_expected() -> None:
    """Where the collection says what a message holds, that is what is read."""
    checked = 0
    for case in _shared_messages():
        expect = case["expect"]
        if not isinstance(expect, dict) or "CAA" in expect:
            continue
        message = bytes.fromhex(str(case["wire_hex"]))
        host, asked = _question_section(message)
        rdtype = RdataType(struct.unpack("!H", asked[-4:-2])[0])
        assert wire.is_reply_to(message, asked), case["id"]
        assert wire.is_truncated(message) == expect.get("tc", False)
        answer = wire.read_answer(message, Question(host, rdtype), asked)
        if expect["rcode"]:
            assert (answer.status, answer.detail) == (Status.SERVFAIL, f"rcode {expect['rcode']}"), case["id"]
        for key in ("A", "AAAA", "NS"):
            if key in expect:
                assert [text.rstrip(".") for text in expect[key]] == list(answer.records), case["id"]
        if "CNAME" in expect:
            assert [text.rstrip(".") for text in expect["CNAME"]] == list(answer.aliases)
        if "MX" in expect:
            assert [exchange.rstrip(".") for _, exchange in sorted(expect["MX"])] == sorted(answer.records)
        if "count_A" in expect:
            assert len(answer.records) == expect["count_A"]
        checked += 1
    assert checked >= 11


# --- cost -------------------------------------------------------------------------------------------------------------


def _fill(make: Callable[[int], bytes], room: int) -> tuple[bytes, ...]:
    records: list[bytes] = []
    while room > 0:
        records.append(make(len(records)))
        room -= len(records[-1])
    return tuple(records[:-1])


def _pointer(offset: int) -> bytes:
    return struct.pack("!H", 0xC000 | offset)


def _chain_of_pointers() -> bytes:
    """Names that each lead through a hundred pointers, one label after another, from starts of their own."""
    base = len(_reply()) + 11
    links = bytearray(b"\0")
    at = [base]
    for _ in range(120):
        at.append(base + len(links))
        links += b"\x01a" + _pointer(at[-2])
    first = _record(b"\0", 99, bytes(links))
    last = _pointer(at[-1])
    return _reply(
        first, *_fill(lambda n: _record(b"\x01" + bytes([n % 256]) + last, RdataType.NS, b"\x01z" + last), 64_000),
        rdtype=RdataType.NS,
    )  # fmt: skip


def _pointers_to_pointers() -> bytes:
    """Pointers that lead to pointers, thousands of them, each name beginning one later."""
    base = len(_reply()) + 11
    count = 7_500
    hops = b"\0" + b"".join(_pointer(base + max(2 * n - 1, 0)) for n in range(count))
    first = _record(b"\0", 99, hops)
    return _reply(
        first,
        *_fill(lambda n: _record(_pointer(base + 1 + 2 * (n % count)), RdataType.NS, POINTER_TO_QUESTION), 48_000),
        rdtype=RdataType.NS,
    )  # fmt: skip


def _overlapping_names() -> bytes:
    """Records whose owners begin at every octet of one region: each a name of its own, 192 octets to escape."""
    base = len(_reply()) + 11
    block = b"\x3f" * 190 + b"\0" * 66
    first = _record(b"\0", 99, block * 62)
    starts = [base + 256 * n + k for n in range(62) for k in range(190)]
    return _reply(
        first, *_fill(lambda n: _record(_pointer(starts[2 * n]), RdataType.NS, _pointer(starts[2 * n + 1])), 47_000),
        rdtype=RdataType.NS,
    )  # fmt: skip


def _short_labels() -> bytes:
    """The same with labels of one octet: up to 126 of them a name."""
    base = len(_reply()) + 11
    block = b"\x01a" * 126 + b"\0"
    first = _record(b"\0", 99, block * 62)
    starts = [base + 253 * n + 2 * k for n in range(62) for k in range(126)]
    return _reply(
        first, *_fill(lambda n: _record(_pointer(starts[2 * n]), RdataType.NS, _pointer(starts[2 * n + 1])), 47_000),
        rdtype=RdataType.NS,
    )  # fmt: skip


HOSTILE = {
    "chain of pointers": (_chain_of_pointers, RdataType.NS),
    "pointers to pointers": (_pointers_to_pointers, RdataType.NS),
    "overlapping names": (_overlapping_names, RdataType.NS),
    "short labels": (_short_labels, RdataType.NS),
    "4,000 addresses": (
        lambda: _reply(*_fill(lambda n: _record(POINTER_TO_QUESTION, 1, n.to_bytes(4)), 65_000)),
        RdataType.A,
    ),
    "the same address over and over": (
        lambda: _reply(*_fill(lambda _: _record(POINTER_TO_QUESTION, 1, b"\x01\x02\x03\x04"), 65_000)),
        RdataType.A,
    ),
    "an alias for thousands of names": (
        lambda: _reply(*_fill(lambda n: _record(_name(f"a{n}"), 5, _name(f"a{n + 1}")), 65_000)),
        RdataType.A,
    ),
    "64 KB of empty strings": (
        lambda: _reply(_record(POINTER_TO_QUESTION, 16, b"\0" * 65_000), rdtype=RdataType.TXT),
        RdataType.TXT,
    ),
    "64 KB of octets that are not UTF-8": (
        lambda: _reply(_record(POINTER_TO_QUESTION, 16, (b"\xff" * 256) * 253), rdtype=RdataType.TXT),
        RdataType.TXT,
    ),
    "a name without end": (lambda: _reply(b"\x01a" * 32_000, ancount=1), RdataType.A),
    "records promised, none sent": (lambda: _reply(ancount=0xFFFF), RdataType.A),
    "thousands of records in authority": (
        lambda: _reply(authority=_fill(lambda n: _record(POINTER_TO_QUESTION, 2, n.to_bytes(4)), 65_000)),
        RdataType.A,
    ),
    "thousands of records beside OPT": (
        lambda: _reply(additional=_fill(lambda n: _record(POINTER_TO_QUESTION, 2, n.to_bytes(4)), 65_000)),
        RdataType.A,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_64_kb_of_malice_cost_little(case: str) -> None:
    """The cost of a reply is bounded by its size, whatever its pointers and counts say."""
    make, rdtype = HOSTILE[case]
    message = make()
    assert len(message) <= 0xFFFF
    started = time.thread_time()
    _check_typed(message, Question(HOST, rdtype), _question_wire(rdtype))
    assert time.thread_time() - started < CPU_LIMIT_S


# --- one rule each ----------------------------------------------------------------------------------------------------


def test_labels_with_odd_octets_are_escaped() -> None:
    """A dot, a blank or a control character inside a label never becomes a separator (RFC 1035, section 5.1)."""
    target = b"\x04a.bC\x03\x00 \xe9\x02\\$\x00"
    answer = _read(_reply(_record(POINTER_TO_QUESTION, 2, target), rdtype=RdataType.NS), RdataType.NS)
    assert answer.records == (r"a\.bc.\000\032\233.\\\$",)


def test_a_null_mx_is_the_root() -> None:
    """A null MX (RFC 7505) reads as the empty name."""
    answer = _read(_reply(_record(POINTER_TO_QUESTION, 15, b"\0\0\0"), rdtype=RdataType.MX), RdataType.MX)
    assert (answer.status, answer.records) == (Status.OK, ("",))


def test_records_of_other_names_are_ignored() -> None:
    """What a server adds to the answer beside the chain is nobody's (reliability, E5)."""
    answer = _read(
        _reply(
            _record(_name("bank.test"), 1, b"\x06\x06\x06\x06"),
            _record(POINTER_TO_QUESTION, 5, _name("edge.test")),
            _record(POINTER_TO_QUESTION, 28, b"\0" * 16),
            _record(_name("edge.test"), 1, b"\x01\x02\x03\x04"),
            _record(_name("edge.test"), 1, b"\x07\x07\x07\x07", rdclass=3),
        )
    )
    assert (answer.records, answer.aliases) == (("1.2.3.4",), ("edge.test",))


def test_only_extras_are_no_data() -> None:
    """An answer section without a record of the name is no data."""
    assert _read(_reply(_record(_name("bank.test"), 1, b"\x06\x06\x06\x06"))).status is Status.NODATA


def test_the_case_of_names_does_not_matter() -> None:
    """A server that answers in its own letters answers all the same."""
    answer = _read(
        _reply(
            _record(_name("WWW.Example.COM"), 5, _name("Edge.Test")),
            _record(_name("eDGE.tEST"), 1, b"\x01\x02\x03\x04"),
        )
    )
    assert (answer.records, answer.aliases) == (("1.2.3.4",), ("edge.test",))


def _alias_chain(hops: int, *, end: bytes = b"") -> bytes:
    owners = [POINTER_TO_QUESTION, *(_name(f"n{n}.test") for n in range(1, hops + 1))]
    chain = [_record(owner, 5, target) for owner, target in pairwise(owners)]
    return _reply(*chain, *([_record(owners[-1], 1, end)] if end else []))


def test_a_chain_of_sixteen_is_followed() -> None:
    """Sixteen hops are an answer, every hop of which is told."""
    answer = _read(_alias_chain(16, end=b"\x01\x02\x03\x04"))
    assert answer.status is Status.OK
    assert answer.aliases == tuple(f"n{n}.test" for n in range(1, 17))


def test_a_chain_of_seventeen_is_a_loop() -> None:
    """Seventeen hops end with a status, and with the sixteen that were followed."""
    answer = _read(_alias_chain(17, end=b"\x01\x02\x03\x04"))
    assert answer.status is Status.ALIAS_LOOP
    assert answer.aliases == tuple(f"n{n}.test" for n in range(1, 17))
    assert answer.records == ()


def test_a_loop_is_told_with_each_hop_once() -> None:
    """Names that are aliases of each other are a loop."""
    answer = _read(
        _reply(_record(POINTER_TO_QUESTION, 5, _name("b.test")), _record(_name("b.test"), 5, POINTER_TO_QUESTION))
    )
    assert (answer.status, answer.aliases) == (Status.ALIAS_LOOP, ("b.test", HOST))


def test_an_alias_of_itself_is_a_loop() -> None:
    """So is a name that is its own alias."""
    answer = _read(_reply(_record(POINTER_TO_QUESTION, 5, POINTER_TO_QUESTION)))
    assert (answer.status, answer.aliases) == (Status.ALIAS_LOOP, (HOST,))


def test_a_dangling_alias_keeps_its_hops() -> None:
    """NXDOMAIN is said of the end of the chain; the hops stand (RFC 6604, section 3)."""
    answer = _read(
        _reply(_record(POINTER_TO_QUESTION, 5, _name("gone.test"), ttl_s=60), authority=(_soa(900, 300),), flags=QR | 3)
    )
    assert (answer.status, answer.aliases, answer.ttl_s) == (Status.NXDOMAIN, ("gone.test",), 60)


@pytest.mark.parametrize(("ttl_s", "minimum", "expected"), [(900, 300, 300), (60, 300, 60), (0xFFFFFFFF, 300, 0)])
def test_a_negative_answer_lives_by_its_soa(ttl_s: int, minimum: int, expected: int) -> None:
    """The lesser of the SOA's TTL and MINIMUM (RFC 2308, section 5); a TTL with its top bit set is none."""
    assert _read(_reply(authority=(_soa(ttl_s, minimum),), flags=QR | 3)).ttl_s == expected


def test_a_negative_answer_without_soa_does_not_live() -> None:
    """RFC 2308, section 5: not to be cached."""
    answer = _read(_reply(flags=QR | 3))
    assert (answer.status, answer.ttl_s) == (Status.NXDOMAIN, 0)


def test_the_least_ttl_counts() -> None:
    """An answer lives no longer than any record that it was made of, aliases included."""
    answer = _read(
        _reply(
            _record(POINTER_TO_QUESTION, 5, _name("edge.test"), ttl_s=30),
            _record(_name("edge.test"), 1, b"\x01\x02\x03\x04", ttl_s=300),
            _record(_name("edge.test"), 1, b"\x01\x02\x03\x05", ttl_s=20),
        )
    )
    assert answer.ttl_s == 20


def test_the_ad_bit_is_kept_and_asked_for() -> None:
    """The AD bit of the reply is told; a query asks for it, since else it would stay clear (RFC 6840, 5.7)."""
    answer = _record(POINTER_TO_QUESTION, 1, b"\x01\x02\x03\x04")
    assert _read(_reply(answer, flags=QR | AD)).authenticated
    assert not _read(_reply(answer)).authenticated
    query = dns.message.from_wire(wire.encode_query(1, _question_wire()))
    assert query.flags == dns.flags.RD | dns.flags.AD
    assert (query.edns, query.payload) == (0, 1232)


def test_a_query_without_edns_is_as_plain_as_can_be() -> None:
    """What chokes on EDNS is given nothing else to choke on."""
    query = dns.message.from_wire(wire.encode_query(1, _question_wire(), edns=False))
    assert (query.flags, query.edns, query.question[0].to_text()) == (dns.flags.RD, -1, f"{HOST}. IN A")


@pytest.mark.parametrize(
    ("rcode", "status"),
    [(1, Status.SERVFAIL), (2, Status.SERVFAIL), (3, Status.NXDOMAIN), (4, Status.SERVFAIL), (5, Status.REFUSED)],
)
def test_response_codes_are_told_apart(rcode: int, status: Status) -> None:
    """Each response code has its status, and what has none of its own is a failure of the server."""
    assert _read(_reply(flags=QR | rcode)).status is status


def test_an_extended_response_code_is_no_empty_answer() -> None:
    """BADVERS has four zero bits in the header and the rest in OPT (RFC 6891, section 6.1.3): not NODATA."""
    opt = _record(b"\0", 41, b"", rdclass=1232, ttl_s=1 << 24)
    answer = _read(_reply(additional=(opt,)))
    assert (answer.status, answer.detail) == (Status.SERVFAIL, "rcode 16")


def test_an_empty_answer_with_opt_is_no_data() -> None:
    """An OPT without an extended code changes nothing."""
    assert _read(_reply(additional=(_record(b"\0", 41, b"", rdclass=1232, ttl_s=0),))).status is Status.NODATA


def _headed(flags: int, *, qdcount: int = 1, ancount: int = 0, question: bytes | None = None) -> bytes:
    header = struct.pack("!6H", 1, flags, qdcount, ancount, 0, 0)
    return header + (_question_wire() if question is None else question)


@pytest.mark.parametrize(
    ("message", "taken"),
    [
        (_headed(QR), True),
        (_headed(RD), False),  # a query
        (_headed(QR | 5 << 11), False),  # an update
        (_headed(QR, question=wire.encode_question(_name("www.example.org"), 1)), False),
        (_headed(QR, question=wire.encode_question(_name("WWW.example.com"), 1)), False),
        (_headed(QR, question=wire.encode_question(_name(HOST), 28)), False),
        (_headed(QR, question=_name(HOST) + b"\0\x01\0\x03"), False),
        (_headed(QR, qdcount=2), False),
        (_headed(QR, question=_question_wire()[:-1]), False),
        (_headed(QR | 2, qdcount=0, question=b""), True),
        (_headed(QR | 1, qdcount=0, question=b""), True),
        (_headed(QR, qdcount=0, question=b""), False),
        (_headed(QR | 3, qdcount=0, question=b""), False),  # who knows that has read the question
        (_headed(QR | 2, qdcount=0, ancount=1, question=b""), False),
        (b"\0\x01\x80", False),
        (b"", False),
    ],
)
def test_what_is_a_reply_to_a_question(message: bytes, taken: bool) -> None:
    """A response to a query that repeats the question to the letter, or an error known before it was read."""
    assert wire.is_reply_to(message, _question_wire()) is taken


@pytest.mark.parametrize("text", ["", "a..b", ".a", "a.", "x" * 64, ".".join(["x" * 60] * 5), "é.test"])
def test_what_is_no_name_is_refused(text: str) -> None:
    """A name that cannot be written is a ValueError, not a packet."""
    with pytest.raises(ValueError, match=r".+"):
        wire.encode_name(text)


def test_the_longest_name_can_be_asked_for() -> None:
    """253 characters are 255 octets."""
    longest = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 61])
    assert len(longest) == 253
    assert wire.encode_name(longest) == dns.name.from_text(longest).to_wire()


def test_mixed_case_changes_letters_only() -> None:
    """0x20: every letter may change its case, lengths and digits never do."""
    plain = _name("a-1_z.example.com")
    drawn = {wire.mix_case(plain, random.Random(seed).getrandbits(8 * len(plain))) for seed in range(50)}
    assert len(drawn) > 40
    assert {each.lower() for each in drawn} == {plain}
    assert wire.mix_case(plain, 0) == plain
    assert wire.mix_case(plain, (1 << 8 * len(plain)) - 1) == plain.upper()


def test_a_name_may_point_at_the_root() -> None:
    """A pointer to a name that has been read and is the root ends the name that leads to it."""
    root_at = len(_reply(rdtype=RdataType.NS))
    first = _record(b"\0", RdataType.NS, b"\0")
    second = _record(POINTER_TO_QUESTION, RdataType.NS, b"\x01a" + _pointer(root_at))
    answer = _read(_reply(first, second, rdtype=RdataType.NS), RdataType.NS)
    assert answer.records == ("a",)


def test_a_name_over_255_octets_is_refused_even_through_pointers() -> None:
    """Two names of legal length make none together (RFC 1035, section 3.1)."""
    at = len(_reply(rdtype=RdataType.NS)) + 12 + len(POINTER_TO_QUESTION) - 2 + 2 - 2
    long_name = b"".join(b"\x3f" + b"x" * 63 for _ in range(3)) + b"\0"
    first = _record(b"\0", RdataType.NS, long_name)
    second = _record(POINTER_TO_QUESTION, RdataType.NS, b"\x3f" + b"y" * 63 + _pointer(at - 1))
    with pytest.raises(BadMessage, match="255"):
        _read(_reply(first, second, rdtype=RdataType.NS), RdataType.NS)
