"""Moving DNS messages, against a real name server on loopback that lies, dawdles and falls silent."""

import errno
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from spyder.net.dns import exchange, wire
from spyder.net.dns.exchange import Exchange, NameServer
from spyder.runtime.randomness import Randomness
from tests.net.name_server import QR, Query, Script, ScriptedNameServer, TcpScript, address, framed, silence

SHORT_S = 0.3
PATIENCE_S = 5.0
"""Longer than anything here takes: a test that meets it has failed."""
QUESTION = wire.encode_question(wire.encode_name("www.example.com"), 1)
GOOD = address("192.0.2.1")
FORGED = address("6.6.6.6")


@contextmanager
def exchanging(*servers: NameServer, bits: Callable[[int], int] | None = None) -> Iterator[Exchange]:
    """An exchange that runs, and is gone after the test."""
    running = Exchange(servers, bits or Randomness().bits)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        assert running.join(PATIENCE_S)


@contextmanager
def _asking(script: Script, *, tcp: TcpScript | None = None) -> Iterator[tuple[Exchange, ScriptedNameServer]]:
    with ScriptedNameServer(script, tcp=tcp) as server, exchanging(server.at) as running:
        yield running, server


def _ask_one(running: Exchange, server: NameServer, *, timeout_s: float = SHORT_S) -> bytes | OSError | None:
    return running.ask(server, [QUESTION], timeout_s=timeout_s)[0]


def _others_id(query: Query) -> bytes:
    return bytes(octet ^ 0xFF for octet in query.wire[:2])


# --- what is taken for a reply ----------------------------------------------------------------------------------------

FORGERIES: dict[str, Callable[[Query], list[bytes]]] = {
    "wrong ID": lambda query: [query.reply(FORGED, message_id=_others_id(query))] * 50,
    "wrong case": lambda query: [query.reply(FORGED, question=QUESTION.swapcase())],
    "wrong name": lambda query: [query.reply(FORGED, question=wire.encode_question(b"\x04bank\x04test\x00", 1))],
    "wrong type": lambda query: [query.reply(FORGED, question=QUESTION[:-4] + b"\0\x1c\0\1")],
    "wrong class": lambda query: [query.reply(FORGED, question=QUESTION[:-2] + b"\0\3")],
    "a query": lambda query: [query.reply(FORGED, flags=0x0100)],
    "an update": lambda query: [query.reply(FORGED, flags=QR | 5 << 11)],
    "no question, no error": lambda query: [query.error(0)],
    "no question, no such name": lambda query: [query.error(3)],
    "one octet": lambda query: [query.wire[:1]],
    "no octet": lambda _query: [b""],
    "the ID alone": lambda query: [query.wire[:2]],
    "eleven octets": lambda query: [query.reply(FORGED)[:11]],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_reply_is_counted_and_the_wait_goes_on(forgery: str) -> None:
    """Whatever comes before it, the reply that is taken is the true one."""
    with _asking(lambda query: [*FORGERIES[forgery](query), query.reply(GOOD)]) as (running, server):
        reply = _ask_one(running, server.at, timeout_s=PATIENCE_S)
        assert isinstance(reply, bytes)
        assert reply.endswith(GOOD)
        assert running.stats().ignored == len(FORGERIES[forgery](server.queries[0]))
        assert running.stats().received == 1


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_reply_alone_is_silence(forgery: str) -> None:
    """Nothing is returned for it, and the time limit holds."""
    with _asking(FORGERIES[forgery]) as (running, server):
        started = time.monotonic()
        assert _ask_one(running, server.at, timeout_s=0.1) is None
        assert time.monotonic() - started < 1.0


def test_a_reply_from_another_port_is_not_seen() -> None:
    """Right in every octet, but not from the server's port: the kernel keeps it from us (RFC 5452, section 9.1)."""

    def answer(query: Query) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.sendto(query.reply(FORGED), query.source)
        return query.reply(GOOD)

    with _asking(answer) as (running, server):
        reply = _ask_one(running, server.at, timeout_s=PATIENCE_S)
        assert isinstance(reply, bytes)
        assert reply.endswith(GOOD)
        assert running.stats().ignored == 0


def test_the_first_of_two_true_replies_counts() -> None:
    """The second finds nobody who waits."""
    with _asking(lambda query: [query.reply(GOOD), query.reply(FORGED)]) as (running, server):
        reply = _ask_one(running, server.at, timeout_s=PATIENCE_S)
        assert isinstance(reply, bytes)
        assert reply.endswith(GOOD)
        assert isinstance(_ask_one(running, server.at, timeout_s=PATIENCE_S), bytes)  # the reader has seen both by then
        assert running.stats().ignored >= 1


def test_a_late_reply_is_ignored() -> None:
    """What comes after the wait answers nobody, and not the next question either."""
    held: list[Query] = []

    def answer(query: Query) -> list[bytes]:
        held.append(query)
        return [] if len(held) == 1 else [held[0].reply(FORGED), query.reply(GOOD)]

    with _asking(answer) as (running, server):
        assert _ask_one(running, server.at, timeout_s=0.05) is None
        reply = _ask_one(running, server.at, timeout_s=PATIENCE_S)
        assert isinstance(reply, bytes)
        assert reply.endswith(GOOD)


def test_an_error_without_a_question_is_taken() -> None:
    """A server that refuses before it parses is heard."""
    with _asking(lambda query: query.error(5)) as (running, server):
        reply = _ask_one(running, server.at, timeout_s=PATIENCE_S)
        assert isinstance(reply, bytes)
        assert wire.rcode(reply) == 5


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_all_questions_are_in_the_air_at_once() -> None:
    """The server has every question before it answers the first."""
    held: list[Query] = []

    def answer_all_at_last(query: Query) -> list[bytes]:
        held.append(query)
        if len(held) == 5:
            for each in held[:4]:
                server.udp.sendto(each.reply(GOOD), each.source)
            return [query.reply(GOOD)]
        return []

    questions = [wire.encode_question(wire.encode_name(f"n{n}.test"), 1) for n in range(5)]
    with _asking(answer_all_at_last) as (running, server):
        replies = running.ask(server.at, questions, timeout_s=PATIENCE_S)
        for question, reply in zip(questions, replies, strict=True):
            assert isinstance(reply, bytes)
            assert wire.is_reply_to(reply, question)


def test_silence_ends_with_the_timeout() -> None:
    """What has no reply is None; what has one is there."""
    quiet = wire.encode_question(wire.encode_name("quiet.test"), 1)
    with _asking(lambda query: None if query.name == "quiet.test" else query.reply(GOOD)) as (running, server):
        started = time.monotonic()
        first, second = running.ask(server.at, [quiet, QUESTION], timeout_s=0.1)
        assert 0.09 < time.monotonic() - started < 1.0
        assert first is None
        assert isinstance(second, bytes)


def test_no_question_is_answered_at_once() -> None:
    """An empty list waits for nothing."""
    with _asking(silence) as (running, server):
        started = time.monotonic()
        assert running.ask(server.at, [], timeout_s=PATIENCE_S) == []
        assert time.monotonic() - started < 1.0


def _closed_port() -> NameServer:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return NameServer("127.0.0.1", probe.getsockname()[1])


def test_a_closed_port_is_told_at_once() -> None:
    """ICMP ends the wait for every question that left, also those from one port together."""
    nobody = _closed_port()
    with exchanging(nobody, bits=lambda count: random.getrandbits(count) & ~0x7F) as running:  # one port for all
        started = time.monotonic()
        replies = running.ask(nobody, [QUESTION] * 6, timeout_s=PATIENCE_S)
        assert time.monotonic() - started < 1.0
        assert [type(reply) for reply in replies] == [ConnectionRefusedError] * 6


def test_no_descriptor_is_an_error_and_no_exception() -> None:
    """Where sockets cannot be had each question has the kernel's word; later, when they can, questions are answered."""
    with _asking(lambda query: query.reply(GOOD)) as (running, server):
        before = _open_descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, hard))
        try:
            replies = running.ask(server.at, [QUESTION] * 2, timeout_s=PATIENCE_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [getattr(reply, "errno", None) for reply in replies] == [errno.EMFILE] * 2
        assert _open_descriptors() == before
        assert isinstance(_ask_one(running, server.at), bytes)


def test_a_reply_over_ipv6() -> None:
    """Servers may have IPv6 addresses."""
    with ScriptedNameServer(lambda query: query.reply(GOOD), host="::1") as server, exchanging(server.at) as running:
        assert isinstance(_ask_one(running, server.at, timeout_s=PATIENCE_S), bytes)


# --- ports and IDs ----------------------------------------------------------------------------------------------------


def test_ports_and_ids_are_many_and_random() -> None:
    """Each question leaves from a port and with an ID of its own (RFC 5452, section 9.2)."""
    with _asking(lambda query: query.reply(GOOD)) as (running, server):
        for _ in range(100):
            running.ask(server.at, [QUESTION] * 5, timeout_s=PATIENCE_S)
        ports = [query.source[1] for query in server.queries]
        ids = [query.wire[:2] for query in server.queries]
    assert len(ports) == 500
    assert len(set(ports)) > 110  # of 128, by chance 125 on average
    assert len(set(ids)) > 480
    steps = {later - earlier for earlier, later in zip(_ids_of(ids), _ids_of(ids)[1:], strict=False)}
    assert len(steps) > 400


def _ids_of(ids: list[bytes]) -> list[int]:
    return [int.from_bytes(each) for each in ids]


def test_equal_questions_never_share_an_id_on_a_port() -> None:
    """Where the generator repeats itself, another ID is drawn."""
    drawn = iter([0x1234_0000, 0x1234_0000, 0x9999])
    with (
        ScriptedNameServer(lambda query: query.reply(GOOD)) as server,
        exchanging(server.at, bits=lambda _count: next(drawn)) as running,
    ):
        replies = running.ask(server.at, [QUESTION, QUESTION], timeout_s=PATIENCE_S)
        assert [reply and not isinstance(reply, OSError) and reply[:2] for reply in replies] == [
            b"\x12\x34",
            b"\x99\x99",
        ]


def test_a_port_is_replaced_after_its_share_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """No port lives long enough to be learned, and none is closed while a reply is expected there."""
    monkeypatch.setattr(exchange, "QUERIES_PER_PORT", 2)
    before = _open_descriptors()
    with _asking(lambda query: query.reply(GOOD)) as (running, server):
        held = threading.Thread(
            target=lambda: running.ask(
                server.at, [wire.encode_question(wire.encode_name("quiet.test"), 1)] * 200, timeout_s=SHORT_S
            )
        )
        server._script = lambda query: None if query.name == "quiet.test" else query.reply(GOOD)
        held.start()
        for _ in range(200):
            replies = running.ask(server.at, [QUESTION] * 5, timeout_s=PATIENCE_S)
            assert all(isinstance(reply, bytes) for reply in replies)
        held.join()
        for _ in range(200):
            running.ask(server.at, [QUESTION] * 5, timeout_s=PATIENCE_S)
        ports = {query.source[1] for query in server.queries}
        assert len(ports) > 600
        assert _open_descriptors() - before < 128 + 40
    assert _open_descriptors() == before


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- many workers -----------------------------------------------------------------------------------------------------


def _address_of(name: str) -> bytes:
    """The address that a name of these tests has: `h1234.test` is 10.0.4.210."""
    return b"\x0a" + int(name[1:-5]).to_bytes(3)


def _answer_by_name(query: Query) -> bytes:
    return query.reply(address(socket.inet_ntoa(_address_of(query.name.lower()))))


def test_256_workers_are_answered_right() -> None:
    """51,200 names over one exchange: each reply is to the question it is given for, and descriptors stay flat."""
    workers, flights, names_a_flight = 256, 25, 8
    wrong: list[str] = []

    def work(worker: int) -> None:
        for flight in range(flights):
            first = (worker * flights + flight) * names_a_flight
            names = [f"h{first + k}.test" for k in range(names_a_flight)]
            questions = [wire.encode_question(wire.encode_name(name), 1) for name in names]
            replies = running.ask(server.at, questions, timeout_s=PATIENCE_S)
            for name, reply in zip(names, replies, strict=True):
                if not isinstance(reply, bytes) or reply[-4:] != _address_of(name):
                    wrong.append(f"{name}: {reply!r}")

    with _asking(_answer_by_name) as (running, server):
        work(0)
        before = _open_descriptors()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        assert _open_descriptors() == before
        assert wrong == []
        assert len(server.queries) == (workers + 1) * flights * names_a_flight  # none was lost


def test_a_burst_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that start together do not send more at once than a small server's buffer holds, and all are answered."""
    monkeypatch.setattr(exchange, "PATIENCE_PER_WAITER_S", 10.0)  # a busy machine is no reason to give up waiting
    most = 0
    lock = threading.Lock()
    held: list[Query] = []
    begun = threading.Barrier(256)
    full, done = threading.Event(), threading.Event()

    def hold(query: Query) -> None:
        nonlocal most
        with lock:
            held.append(query)
            most = max(most, len(held))
            if most >= exchange.MAX_OUTSTANDING:
                full.set()

    def answer_slowly() -> None:
        full.wait(PATIENCE_S)
        while not done.wait(0.001):
            with lock:
                some, held[:] = held[:64], held[64:]
            for query in some:
                server.udp.sendto(query.reply(GOOD), query.source)

    def work(_worker: int) -> list[bytes | OSError | None]:
        begun.wait()
        return running.ask(server.at, [QUESTION] * 6, timeout_s=2 * PATIENCE_S)

    with _asking(hold) as (running, server):
        answering = threading.Thread(target=answer_slowly)
        answering.start()
        with ThreadPoolExecutor(256) as pool:
            replies = [reply for flight in pool.map(work, range(256)) for reply in flight]
        done.set()
        answering.join()
        assert all(isinstance(reply, bytes) for reply in replies)
    assert most < exchange.MAX_OUTSTANDING + 6  # one flight may go beyond it


def test_a_server_that_is_silent_does_not_keep_others_from_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the room taken by questions that nobody answers, a worker is held up for milliseconds, not for ever."""
    monkeypatch.setattr(exchange, "MAX_OUTSTANDING", 8)
    with _asking(lambda query: None if query.name == "quiet.test" else query.reply(GOOD)) as (running, server):
        quiet = wire.encode_question(wire.encode_name("quiet.test"), 1)
        with ThreadPoolExecutor(20) as pool:
            silent = [pool.submit(running.ask, server.at, [quiet] * 6, timeout_s=0.6) for _ in range(20)]
            while len(server.queries) < 120:
                os.sched_yield()
            started = time.monotonic()
            assert isinstance(_ask_one(running, server.at, timeout_s=PATIENCE_S), bytes)
            assert time.monotonic() - started < 0.5
            assert all(flight.result() == [None] * 6 for flight in silent)
        assert {route.outstanding for route in running._routes.values()} == {0}


def test_waiting_for_room_counts_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the air is, the time limit of a call holds."""
    monkeypatch.setattr(exchange, "MAX_OUTSTANDING", 1)
    monkeypatch.setattr(exchange, "PATIENCE_PER_WAITER_S", 10.0)
    with _asking(silence) as (running, server), ThreadPoolExecutor(10) as pool:
        started = time.monotonic()
        flights = [pool.submit(running.ask, server.at, [QUESTION] * 6, timeout_s=SHORT_S) for _ in range(10)]
        assert all(flight.result() == [None] * 6 for flight in flights)
        assert time.monotonic() - started < SHORT_S + 0.5


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_stop_ends_every_wait() -> None:
    """Who waits when the exchange stops is told, and so is who asks afterwards."""
    with ScriptedNameServer(silence) as server, ThreadPoolExecutor(1) as pool:
        running = Exchange([server.at], Randomness().bits)
        running.start()
        waiting = pool.submit(running.ask, server.at, [QUESTION] * 6, timeout_s=60)
        while len(server.queries) < 6:
            os.sched_yield()
        running.stop()
        running.stop()
        assert [getattr(reply, "errno", None) for reply in waiting.result(PATIENCE_S)] == [errno.ESHUTDOWN] * 6
        assert running.join(PATIENCE_S)
        assert running.join(PATIENCE_S)
        running.stop()
        assert isinstance(_ask_one(running, server.at), OSError)


def test_an_exchange_that_never_began_can_be_ended() -> None:
    """Nothing is left open of what was built and not used."""
    before = _open_descriptors()
    running = Exchange([NameServer("127.0.0.1")], Randomness().bits)
    running.stop()
    assert running.join(PATIENCE_S)
    assert _open_descriptors() == before


# --- TCP --------------------------------------------------------------------------------------------------------------


def _ask_tcp(running: Exchange, server: NameServer, *, within_s: float = SHORT_S) -> bytes:
    end = time.monotonic() + within_s
    return running.ask_tcp(server, QUESTION, remaining_s=lambda: end - time.monotonic())


def test_a_reply_over_tcp() -> None:
    """A reply of any length comes whole, in however many pieces."""
    records = [address(f"10.1.{n >> 8}.{n & 255}") for n in range(4000)]

    def send_in_pieces(query: Query, stream: socket.socket) -> None:
        message = framed(query.reply(*records))
        for at in range(0, len(message), 7001):
            stream.sendall(message[at : at + 7001])

    with _asking(silence, tcp=send_in_pieces) as (running, server):
        reply = _ask_tcp(running, server.at, within_s=PATIENCE_S)
        assert reply.endswith(b"".join(records))
        assert running.stats().tcp == 1
        assert server.queries[0].edns


def test_tcp_without_edns() -> None:
    """A server that choked on EDNS over UDP is not given it over TCP."""
    with _asking(lambda query: query.reply(GOOD)) as (running, server):
        running.ask_tcp(server.at, QUESTION, remaining_s=lambda: PATIENCE_S, edns=False)
        assert not server.queries[0].edns


def _drip(query: Query, stream: socket.socket) -> None:
    pause = threading.Event()
    for octet in framed(query.reply(*[GOOD] * 4000)):
        stream.sendall(bytes([octet]))
        pause.wait(0.05)


TCP_FAULTS: dict[str, tuple[TcpScript, type[Exception]]] = {
    "closes at once": (lambda _query, stream: stream.shutdown(socket.SHUT_RDWR), ConnectionError),
    "closes inside the length": (lambda _query, stream: _hang_up(stream, b"\0"), ConnectionError),
    "closes inside the message": (lambda query, stream: _hang_up(stream, framed(query.wire)[:-1]), ConnectionError),
    "promises more than it sends": (lambda query, stream: stream.sendall(b"\xff\xff" + query.wire), TimeoutError),
    "says nothing": (lambda _query, _stream: None, TimeoutError),
    "drips": (_drip, TimeoutError),
    "sends an empty message": (lambda _query, stream: stream.sendall(b"\0\0"), wire.BadMessage),
    "sends one octet": (lambda _query, stream: stream.sendall(b"\0\1x"), wire.BadMessage),
    "sends another ID": (
        lambda query, stream: stream.sendall(framed(query.reply(message_id=_others_id(query)))),
        wire.BadMessage,
    ),
    "answers another question": (
        lambda query, stream: stream.sendall(framed(query.reply(question=QUESTION.swapcase()))),
        wire.BadMessage,
    ),
    "sends the query back": (lambda query, stream: stream.sendall(framed(query.wire)), wire.BadMessage),
    "resets": (lambda _query, stream: _reset(stream), ConnectionError),
}  # fmt: skip


def _hang_up(stream: socket.socket, last: bytes) -> None:
    stream.sendall(last)
    stream.shutdown(socket.SHUT_RDWR)


def _reset(stream: socket.socket) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


@pytest.mark.parametrize("fault", TCP_FAULTS)
def test_tcp_that_goes_wrong_is_a_typed_error_in_time(fault: str) -> None:
    """Whatever the server does with the connection, the call ends in time with the error it promises."""
    script, expected = TCP_FAULTS[fault]
    before = _open_descriptors()
    with _asking(silence, tcp=script) as (running, server):
        started = time.monotonic()
        with pytest.raises(expected):
            _ask_tcp(running, server.at)
        assert time.monotonic() - started < SHORT_S + 0.5
    assert _open_descriptors() == before


def test_tcp_to_a_closed_port_is_refused() -> None:
    """The kernel's word is passed on."""
    nobody = _closed_port()
    with exchanging(nobody) as running, pytest.raises(ConnectionRefusedError):
        _ask_tcp(running, nobody)


def test_tcp_with_no_time_left_is_not_begun() -> None:
    """A deadline that is over costs no connection."""
    with _asking(silence) as (running, server):
        with pytest.raises(TimeoutError):
            running.ask_tcp(server.at, QUESTION, remaining_s=lambda: 0.0)
        assert server.queries == []
