"""One connection to one address, against servers that own every octet: sound, odd, slow, endless and broken ones."""

import errno
import fcntl
import gzip
import os
import socket
import ssl
import struct
import termios
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from spyder.lab.ca import Authority, server_context
from spyder.lab.records import Certificate, CertificateKind
from spyder.model.outcomes import Status
from spyder.net.http import (
    Connection,
    Dialer,
    Endpoint,
    Limits,
    Response,
    StaleConnection,
    TransportError,
    VerificationError,
)
from spyder.runtime.watchdog import Watchdog
from tests.net.raw_server import Peer, RawServer, Script, again, once

HOST = "site.test"
LIMITS = Limits(connect_timeout_s=0.3, tls_timeout_s=0.3, header_timeout_s=0.3, exchange_timeout_s=0.4)
ANSWER_S = 1.2
"""No exchange takes longer: the longest limit, a tick of the watchdog, and what a busy machine adds."""
PATIENCE_S = 10.0
"""Longer than anything here takes: a test that meets it has failed."""
CPU_LIMIT_S = 0.8
CAP_BYTES = 10_000
OK = b"HTTP/1.1 200 OK\r\n"
SOUND = OK + b"Content-Type: text/html\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs."""
    return Authority(1)


@pytest.fixture(scope="module")
def ca_bundle(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of authorities that the dialer trusts."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(authority.root_pem)
    return path


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """What cuts connections off."""
    running = Watchdog()
    running.start()
    yield running
    running.stop()
    assert running.join(PATIENCE_S)


@pytest.fixture
def dialer(watchdog: Watchdog, ca_bundle: Path) -> Dialer:
    """What is under test."""
    return Dialer(watchdog, user_agent="spyder-test/1", limits=LIMITS, ca_bundle=str(ca_bundle))


@pytest.fixture
def certificate(authority: Authority, tmp_path: Path) -> Callable[..., ssl.SSLContext]:
    """Make a server's context for a certificate of a kind."""

    def make(kind: CertificateKind = "good", name: str = HOST) -> ssl.SSLContext:
        return server_context(authority.pem(Certificate((name,), f"key of {name}", kind)), tmp_path / "leaf.pem")

    return make


@contextmanager
def _connected(
    dialer: Dialer,
    script: Script,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    budget_s: float = PATIENCE_S,
    verify: bool = True,
) -> Iterator[tuple[Connection, RawServer]]:
    with RawServer(script, tls=tls, host=host) as server:
        endpoint = Endpoint(host, server.port, tls is not None)
        connection = dialer.open(HOST, endpoint, deadline=time.monotonic() + budget_s, verify=verify)
        try:
            yield connection, server
        finally:
            connection.close()


def _get(connection: Connection, *, cap: int = CAP_BYTES, budget_s: float = PATIENCE_S) -> Response:
    """GET / in bounded time."""
    started = time.monotonic()
    try:
        return connection.get("/", max_body_bytes=cap, deadline=started + budget_s)
    finally:
        assert time.monotonic() - started < ANSWER_S


def _fetch(dialer: Dialer, script: Script, *, tls: ssl.SSLContext | None = None, cap: int = CAP_BYTES) -> Response:
    with _connected(dialer, script, tls=tls) as (connection, _):
        return _get(connection, cap=cap)


# --- answers that are taken -------------------------------------------------------------------------------------------

_DEFLATED = zlib.compress(b"hello")
_RAW_DEFLATED = zlib.compress(b"hello", wbits=-15)


def _coded(coding: bytes, body: bytes) -> bytes:
    return OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding, len(body)) + body


TAKEN: dict[str, tuple[bytes, bool]] = {
    # the answer, and whether the connection can be used again; each says hello
    "length": (SOUND, True),
    "length, connection closes": (OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", False),
    "chunks": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", True),
    "chunk extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n', True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nContent-Type: text/evil\r\n\r\n", True),
    "blanks after the chunk size": (CHUNKED + b"5   \r\nhello\r\n0\r\n\r\n", True),
    "up to the end of the connection": (OK + b"\r\nhello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
    "HTTP/1.0 kept alive": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", True),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", True),
    "bare LF": (OK.replace(b"\r", b"") + b"Content-Length: 5\n\nhello", True),
    "CRLF and bare LF": (OK + b"Server: x\nContent-Length: 5\r\n\nhello", True),
    "folded field": (OK + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", True),
    "blank before the colon": (OK + b"Content-Length : 5\r\n\r\nhello", True),
    "control characters in a value": (OK + b"X: a\x01b\x00c\r\nContent-Length: 5\r\n\r\nhello", True),
    "octets that are not ASCII": (
        "HTTP/1.1 200 d'accord, ça va\r\nX: é€\r\nContent-Length: 5\r\n\r\nhello".encode(),
        True,
    ),
    "length beside chunks": (
        OK + b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        False,  # RFC 9112, section 6.3
    ),
    "Upgrade offered, as by Apache": (
        OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
        True,
    ),
    "empty line before": (b"\r\n" + SOUND, True),
    "100 Continue before": (b"HTTP/1.1 100 Continue\r\n\r\n" + SOUND, True),
    "16 early hints before": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 16 + SOUND, True),
    "an unknown coding, left alone": (_coded(b"br", b"hello"), True),
    "identity": (_coded(b"identity", b"hello"), True),
    "gzip": (_coded(b"gzip", gzip.compress(b"hello")), True),
    "x-gzip": (_coded(b"X-GZIP", gzip.compress(b"hello")), True),
    "deflate as it should be": (_coded(b"deflate", _DEFLATED), True),
    "deflate as it should not": (_coded(b"deflate", _RAW_DEFLATED), True),
    "raw deflate in chunks of one octet": (
        OK
        + b"Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % octet for octet in _RAW_DEFLATED)
        + b"0\r\n\r\n",
        True,
    ),
    "gzip and junk": (_coded(b"gzip", gzip.compress(b"hello") + b"junk" * 9), True),
    "junk after the answer": (SOUND + b"junk", False),
    "another answer after it": (SOUND + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", False),
    "300 fields of another answer": (SOUND + OK + b"X: y\r\n" * 300 + b"\r\n", False),
    "an upgrade after it": (SOUND + b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", False),
    "junk after an answer that closes": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhellojunk", False),
}


@pytest.mark.parametrize("case", TAKEN)
def test_an_answer_is_taken(dialer: Dialer, case: str) -> None:
    """What servers send is read whole, and the connection is used again only where that is safe."""
    answer, reusable = TAKEN[case]
    with _connected(dialer, once(answer)) as (connection, _):
        response = _get(connection)
        assert (response.status, response.body, response.truncated) == (200, b"hello", False)
        assert connection.reusable is reusable


@pytest.mark.parametrize("case", TAKEN)
def test_an_answer_is_taken_octet_by_octet(dialer: Dialer, case: str) -> None:
    """However it is cut into packets, it is the same answer."""
    answer, _ = TAKEN[case]

    def script(peer: Peer) -> None:
        peer.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.read_request()
        for octet in answer:
            peer.send(bytes([octet]))

    response = _fetch(dialer, script)
    assert (response.status, response.body, response.truncated) == (200, b"hello", False)


def test_fields_are_kept_as_they_first_came(dialer: Dialer) -> None:
    """Lower-case names, the first of repeated fields, nothing of interim answers and trailers."""
    response = _fetch(
        dialer,
        once(
            b"HTTP/1.1 103 Early Hints\r\nLocation: /early\r\n\r\n",
            OK + b"LOCATION: /a\r\nlocation: /b\r\nTransfer-Encoding: chunked\r\nX: caf\xe9\r\n\r\n",
            b"2\r\nhi\r\n0\r\nLate: yes\r\n\r\n",
        ),
    )
    assert response.headers == {"location": "/a", "transfer-encoding": "chunked", "x": "café"}
    assert response.content_type == ""


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_without_a_body_needs_none(dialer: Dialer, code: int) -> None:
    """204 and 304 end with their header, whatever it says of a length."""
    with _connected(dialer, again(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % code)) as (connection, _):
        response = _get(connection)
        assert (response.status, response.body, connection.reusable) == (code, b"", True)


# --- answers that end early -------------------------------------------------------------------------------------------

PART = OK + b"Content-Length: 500\r\n\r\nhello"


def _reset_after(*pieces: bytes) -> Script:
    """Send, wait until the client has it all, and reset."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(*pieces)
        peer.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while _unacknowledged(peer.stream):
            os.sched_yield()
        peer.reset()

    return script


def _unacknowledged(stream: socket.socket) -> int:
    """The octets that have not reached the other side (SIOCOUTQ of tcp(7))."""
    return int(struct.unpack("i", fcntl.ioctl(stream, termios.TIOCOUTQ, b"\0" * 4))[0])


def _drip_after(head: bytes, octets: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(head)
        peer.drip(octets)

    return script


def _hold_after(*pieces: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(*pieces)
        peer.hold()

    return script


def _pour_after(head: bytes, piece: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(head)
        peer.pour(piece)

    return script


CUT: dict[str, tuple[Script, int]] = {
    # the script, and the octets that there must be of a body
    "closed before the length is reached": (once(PART), 5),
    "closed inside a chunk": (once(CHUNKED + b"ff\r\nhello"), 5),
    "closed before the last chunk": (once(CHUNKED + b"5\r\nhello\r\n"), 5),
    "silence in the body": (_hold_after(PART), 5),
    "drip in the body": (_drip_after(PART, b"x" * 400), 6),
    "drip in a chunk size": (_drip_after(CHUNKED + b"5\r\nhello\r\n", b"0" * 400), 5),
    "drip in a trailer": (_drip_after(CHUNKED + b"5\r\nhello\r\n0\r\nX: ", b"x" * 400), 5),
    "endless body": (_pour_after(OK + b"\r\n", b"x" * 65536), CAP_BYTES),
    "body longer than its cap": (once(OK + b"Content-Length: 50000\r\n\r\n" + b"x" * 50000), CAP_BYTES),
    "endless chunks": (_pour_after(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"), CAP_BYTES),
    "endless chunk extension": (_pour_after(CHUNKED + b"5\r\nhello\r\n5;", b"x" * 65536), 5),
    "endless zeros before a chunk size": (_pour_after(CHUNKED + b"5\r\nhello\r\n", b"0" * 65536), 5),
    "gzip bomb": (once(_coded(b"gzip", gzip.compress(b"\0" * 50_000_000))), CAP_BYTES),
    "deflate bomb": (once(_coded(b"deflate", zlib.compress(b"\0" * 50_000_000))), CAP_BYTES),
}


@pytest.mark.parametrize("case", CUT)
def test_what_there_is_of_a_body_is_taken(dialer: Dialer, case: str) -> None:
    """A body that is slow, endless or broken is cut off in time, and said to be cut off."""
    script, octets = CUT[case]
    with _connected(dialer, script) as (connection, _):
        response = _get(connection)
        assert (response.status, response.truncated, connection.reusable) == (200, True, False)
        assert octets <= len(response.body) <= CAP_BYTES


def test_a_reset_leaves_what_came_before_it(dialer: Dialer) -> None:
    """RST in the middle of a body."""
    response = _fetch(dialer, _reset_after(PART))
    assert (response.body, response.truncated) == (b"hello", True)


@pytest.mark.parametrize("rest", [b"", b"\xff" * 1000])
def test_a_coded_body_that_stops_or_breaks_is_cut_off(dialer: Dialer, rest: bytes) -> None:
    """What was decoded before is kept, and is said not to be all."""
    coded = gzip.compress(" ".join(map(str, range(1500))).encode())[:1000]
    head = OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (coded, rest) if chunk]
    response = _fetch(dialer, once(head, *chunks, b"0\r\n\r\n"))
    assert response.body.startswith(b"0 1 2 3 ")
    assert response.truncated


def test_gzip_that_is_none_has_no_body(dialer: Dialer) -> None:
    """A coding that is not what it says yields nothing, and says so."""
    response = _fetch(dialer, once(_coded(b"gzip", b"<html>")))
    assert (response.status, response.body, response.truncated) == (200, b"", True)


def test_a_body_of_exactly_its_cap_is_whole(dialer: Dialer) -> None:
    """The cap is what may be read, plain or decoded."""
    whole = b"x" * CAP_BYTES
    for answer in (OK + b"Content-Length: %d\r\n\r\n" % CAP_BYTES + whole, _coded(b"gzip", gzip.compress(whole))):
        response = _fetch(dialer, once(answer))
        assert (response.body, response.truncated) == (whole, False)


# --- answers that are none --------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Script, Status, str]] = {
    "closed before a header": (once(), Status.BAD_RESPONSE, "closed before its header"),
    "closed inside the header": (once(OK + b"Content-"), Status.BAD_RESPONSE, "closed before its header"),
    "reset before a header": (_reset_after(b""), Status.BAD_RESPONSE, "Connection reset by peer"),
    "silence": (_hold_after(), Status.TIMEOUT, "too slow"),
    "drip in the status line": (_drip_after(b"", OK + b"x" * 400), Status.TIMEOUT, "too slow"),
    "drip in the header": (_drip_after(OK, b"X: " + b"x" * 400), Status.TIMEOUT, "too slow"),
    "drip in the first chunk size": (_drip_after(CHUNKED, b"0" * 400), Status.TIMEOUT, "too slow"),
    "a header and nothing else": (_hold_after(OK + b"Content-Length: 5\r\n\r\n"), Status.TIMEOUT, "too slow"),
    "endless 100 Continue": (
        _pour_after(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        Status.BAD_RESPONSE,
        "endless interim answers",
    ),
    "17 early hints": (
        once(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + SOUND),
        Status.BAD_RESPONSE,
        "endless interim answers",
    ),
    "dripping 100 Continue": (_drip_after(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 20), Status.TIMEOUT, "too slow"),
    "endless header": (_pour_after(OK, b"X: " + b"x" * 1000 + b"\r\n"), Status.TOO_LARGE, "header beyond its cap"),
    "endless line": (_pour_after(OK + b"X: ", b"x" * 65536), Status.TOO_LARGE, "header beyond its cap"),
    "endless status line": (_pour_after(b"HTTP/1.1 200 ", b"x" * 65536), Status.TOO_LARGE, "header beyond its cap"),
    "endless empty lines": (_pour_after(b"", b"\r\n" * 30000), Status.TOO_LARGE, "header beyond its cap"),
    "a line of 70 KB": (
        _hold_after(OK + b"X: " + b"x" * 70_000 + b"\r\n"),
        Status.TOO_LARGE,
        "header beyond its cap",
    ),
    "300 fields": (once(OK + b"X: y\r\n" * 300 + b"\r\n"), Status.TOO_LARGE, "too many header fields"),
    "endless trailers": (
        _pour_after(CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: y\r\n" * 1000),
        Status.TOO_LARGE,
        "too many header fields",
    ),
    "101 Switching Protocols": (
        once(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        Status.BAD_RESPONSE,
        "switches protocols unasked",
    ),
    "101 without an upgrade": (once(b"HTTP/1.1 101 S\r\n\r\n" + SOUND), Status.BAD_RESPONSE, ""),
    "HTTP/0.9": (once(b"<html>hello"), Status.BAD_RESPONSE, ""),
    "SSH": (once(b"SSH-2.0-OpenSSH_9.2\r\n"), Status.BAD_RESPONSE, ""),
    "a request": (once(b"GET / HTTP/1.1\r\n\r\n"), Status.BAD_RESPONSE, ""),
    "zeros": (once(bytes(100)), Status.BAD_RESPONSE, ""),
    "a status of one digit": (once(b"HTTP/1.1 2 OK\r\n\r\n"), Status.BAD_RESPONSE, ""),
    "a status of four digits": (once(b"HTTP/1.1 2000 OK\r\n\r\n"), Status.BAD_RESPONSE, ""),
    "two lengths that differ": (
        once(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        Status.BAD_RESPONSE,
        "",
    ),
    # RFC 9110, section 8.6 lets us refuse it, and the parser has no mercy to be asked for
    "two lengths that agree": (
        once(OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        Status.BAD_RESPONSE,
        "",
    ),
    "a negative length": (once(OK + b"Content-Length: -5\r\n\r\nhello"), Status.BAD_RESPONSE, ""),
    "a length beyond all numbers": (once(OK + b"Content-Length: 9" + b"9" * 20), Status.BAD_RESPONSE, ""),
    "a chunk size beyond all numbers": (once(CHUNKED + b"fffffffffffffffff\r\n"), Status.BAD_RESPONSE, ""),
    "a chunk size that is none": (once(CHUNKED + b"xyz\r\n"), Status.BAD_RESPONSE, ""),
    "a NUL in a field's name": (once(OK + b"X\0: y\r\n\r\n"), Status.BAD_RESPONSE, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_answer_is_a_typed_error_in_time(dialer: Dialer, case: str) -> None:
    """Whatever comes, the exchange ends in time with the status that says what was wrong."""
    script, status, words = REFUSED[case]
    with _connected(dialer, script) as (connection, _):
        with pytest.raises(TransportError) as failure:
            _get(connection)
        assert failure.value.status is status
        assert words in failure.value.detail
        assert not isinstance(failure.value, StaleConnection)
        assert not connection.reusable


def test_a_budget_that_is_over_is_told_apart_from_a_slow_answer(dialer: Dialer) -> None:
    """The host's deadline cuts what the limits of the exchange would have let run on."""
    with _connected(dialer, _hold_after()) as (connection, _), pytest.raises(TransportError) as failure:
        _get(connection, budget_s=0.1)
    assert failure.value.status is Status.BUDGET_SPENT


# --- cost -------------------------------------------------------------------------------------------------------------

HALF_MIB = 512 * 1024
COSTLY = {
    "chunks of one octet": CHUNKED + b"1\r\nx\r\n" * 200_000,
    "gzip in chunks of one octet": OK
    + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"1\r\n%c\r\n" % octet for octet in gzip.compress(os.urandom(150_000))),
    "junk after gzip in chunks of one octet": OK
    + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"1\r\n%c\r\n" % octet for octet in gzip.compress(b"hello"))
    + b"1\r\nx\r\n" * 180_000,
    "a bomb of 500 MB": _coded(b"gzip", gzip.compress(b"\0" * 500_000_000, 1)),
    "a header of 60 KB": OK + b"X: y\r\n" * 200 + b"Y: " + b"y" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", COSTLY)
def test_an_answer_costs_little_whatever_it_is_made_of(dialer: Dialer, case: str) -> None:
    """CPU and memory are bounded by what may be read."""
    with _connected(dialer, _hold_after(COSTLY[case])) as (connection, _):
        tracemalloc.start()
        started = time.thread_time()
        connection.get("/", max_body_bytes=HALF_MIB, deadline=time.monotonic() + PATIENCE_S)
        spent_s = time.thread_time() - started
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert spent_s < 3 * CPU_LIMIT_S  # a good part of which is the tracing
    assert peak_bytes < 16 * 2**20


# --- the connection ---------------------------------------------------------------------------------------------------


def test_one_connection_serves_several_requests(dialer: Dialer, certificate: Callable[..., ssl.SSLContext]) -> None:
    """Robots and page over one connection and one handshake; SNI and Host are the host's name."""
    requests: list[bytes] = []
    names: list[str | None] = []
    context = certificate()
    context.sni_callback = lambda _stream, name, _context: names.append(name)

    def script(peer: Peer) -> None:
        while request := peer.read_request():
            requests.append(request)
            peer.send(SOUND)

    with _connected(dialer, script, tls=context) as (connection, server):
        for path in ("/robots.txt", "/?q=%20"):
            response = connection.get(path, max_body_bytes=CAP_BYTES, deadline=time.monotonic() + PATIENCE_S)
            assert (response.body, connection.reusable) == (b"hello", True)
        assert connection.certificate is not None
        assert server.connections == 1
    first, second = requests
    assert first.startswith(b"GET /robots.txt HTTP/1.1\r\nHost: site.test:%d\r\n" % server.port)
    assert second.startswith(b"GET /?q=%20 HTTP/1.1\r\n")
    assert b"\r\nUser-Agent: spyder-test/1\r\n" in first
    assert names == [HOST]


def test_a_connection_that_was_closed_while_idle_is_stale(dialer: Dialer) -> None:
    """The peer tired of it: told apart, since the request may be sent once more (RFC 9112, section 9.3.1)."""
    with _connected(dialer, once(SOUND)) as (connection, _):
        assert _get(connection).body == b"hello"
        assert connection.reusable
        with pytest.raises(StaleConnection):
            _get(connection)


def test_silence_on_a_used_connection_is_not_staleness(dialer: Dialer) -> None:
    """What is slow is not asked again."""
    with _connected(dialer, again(SOUND)) as (connection, _):
        _get(connection)
        with pytest.raises(TransportError) as failure:
            _get(connection)
        assert (failure.value.status, type(failure.value)) == (Status.TIMEOUT, TransportError)


def test_an_idle_connection_lives_to_the_host_s_deadline(ca_bundle: Path) -> None:
    """The limits of one phase do not cut a connection off that waits for the next."""
    now_s = 1000.0
    watchdog = Watchdog(clock=lambda: now_s)
    watchdog.start()
    dialer = Dialer(watchdog, user_agent="t", limits=LIMITS, ca_bundle=str(ca_bundle), clock=lambda: now_s)
    with RawServer(again(SOUND, SOUND)) as server, ExitStack() as stack:
        stack.callback(watchdog.join, PATIENCE_S)
        stack.callback(watchdog.stop)
        connection = dialer.open(HOST, Endpoint("127.0.0.1", server.port, False), deadline=now_s + 30)
        stack.callback(connection.close)
        for _ in range(2):
            now_s += 10
            _let_the_watchdog_look(watchdog)
            assert connection.get("/", max_body_bytes=9, deadline=1030.0).body == b"hello"


def _let_the_watchdog_look(watchdog: Watchdog) -> None:
    """Return when it has looked at every deadline once."""
    ours, theirs = socket.socketpair()
    with ours, theirs, watchdog.watch(ours, 0.0):
        assert ours.recv(1) == b""


def test_ipv6(dialer: Dialer) -> None:
    """The address may be of either family."""
    with _connected(dialer, once(SOUND), host="::1") as (connection, _):
        assert _get(connection).body == b"hello"
        assert connection.certificate is None


def test_a_closed_port_is_refused(dialer: Dialer) -> None:
    """The kernel's word, at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = Endpoint("127.0.0.1", probe.getsockname()[1], tls=True)
        with pytest.raises(TransportError) as failure:
            dialer.open(HOST, endpoint, deadline=time.monotonic() + PATIENCE_S)
    assert failure.value.status is Status.CONNECT_FAILED
    assert failure.value.detail == "connect to 127.0.0.1: Connection refused"


@contextmanager
def _black_hole() -> Iterator[int]:
    """A port whose backlog is full: the kernel drops every further SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        yield listener.getsockname()[1]


@pytest.mark.parametrize(("budget_s", "status"), [(PATIENCE_S, Status.TIMEOUT), (0.1, Status.BUDGET_SPENT)])
def test_a_black_hole_is_left_in_time(dialer: Dialer, budget_s: float, status: Status) -> None:
    """A connect that nobody answers ends at its limit, or at the host's."""
    with _black_hole() as port:
        started = time.monotonic()
        with pytest.raises(TransportError) as failure:
            dialer.open(HOST, Endpoint("127.0.0.1", port, tls=False), deadline=started + budget_s)
        assert time.monotonic() - started < ANSWER_S
    assert failure.value.status is status
    assert failure.value.detail == "connect to 127.0.0.1: too slow"


def test_no_descriptor_is_a_failed_connect(dialer: Dialer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a full table of descriptors nor a machine without IPv6 raises anything but the typed error."""

    def exhausted(*_args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", exhausted)
    with pytest.raises(TransportError) as failure:
        dialer.open(HOST, Endpoint("::1", 443, tls=True), deadline=time.monotonic() + PATIENCE_S)
    assert failure.value.status is Status.CONNECT_FAILED


# --- TLS --------------------------------------------------------------------------------------------------------------

UNVERIFIED: dict[str, tuple[CertificateKind, str, str]] = {
    "expired": ("expired", HOST, "certificate has expired"),
    "not yet valid": ("not_yet_valid", HOST, "certificate is not yet valid"),
    "self-signed": ("self_signed", HOST, "self-signed certificate"),
    "unknown authority": ("unknown_issuer", HOST, "unable to get local issuer certificate"),
    "missing intermediate": ("missing_intermediate", HOST, "unable to get local issuer certificate"),
    "wrong name": ("good", "other.test", "Hostname mismatch, certificate is not valid for 'site.test'."),
}


@pytest.mark.parametrize("case", UNVERIFIED)
def test_a_certificate_that_does_not_verify_says_why_and_can_be_had(
    dialer: Dialer, certificate: Callable[..., ssl.SSLContext], case: str
) -> None:
    """OpenSSL's words in the error; a second handshake without verification yields the certificate."""
    kind, name, words = UNVERIFIED[case]
    context = certificate(kind, name)
    with pytest.raises(VerificationError) as failure, _connected(dialer, again(), tls=context):
        pass
    assert (failure.value.status, failure.value.detail) == (Status.TLS_FAILED, words)
    with _connected(dialer, again(), tls=context, verify=False) as (connection, _):
        der = connection.certificate
    assert der is not None
    assert der[:1] == b"\x30"


def test_a_chain_with_its_intermediate_verifies(dialer: Dialer, certificate: Callable[..., ssl.SSLContext]) -> None:
    """What the server sends along is used."""
    assert _fetch(dialer, once(SOUND), tls=certificate("with_intermediate")).body == b"hello"


def _close_at_once(peer: Peer) -> None:
    peer.stream.recv(4096)


def _reset_at_once(peer: Peer) -> None:
    peer.stream.recv(4096)
    peer.reset()


SPOILT_HANDSHAKES: dict[str, tuple[Script, str]] = {
    "plain HTTP": (lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "wrong version number"),
    "an alert": (lambda peer: peer.send(b"\x15\x03\x03\x00\x02\x02\x28"), "alert handshake failure"),
    "unrecognized name": (lambda peer: peer.send(b"\x15\x03\x03\x00\x02\x02\x70"), "unrecognized name"),
    "closed": (_close_at_once, ""),
    "reset": (_reset_at_once, "Connection reset by peer"),
    "noise": (lambda peer: peer.send(b"\x16\x03\x03\x00\x20" + b"\xff" * 32), ""),
    "endless noise": (lambda peer: peer.pour(b"\x16\x03\x03\x40\x00" + b"\x02" * 16384), ""),
}


@pytest.mark.parametrize("case", SPOILT_HANDSHAKES)
def test_a_handshake_that_goes_wrong_is_a_typed_error(dialer: Dialer, case: str) -> None:
    """What does not speak TLS is `tls_failed`, with OpenSSL's words."""
    script, words = SPOILT_HANDSHAKES[case]
    with RawServer(script) as server:
        started = time.monotonic()
        with pytest.raises(TransportError) as failure:
            dialer.open(HOST, Endpoint("127.0.0.1", server.port, tls=True), deadline=started + PATIENCE_S)
        assert time.monotonic() - started < ANSWER_S
    assert (failure.value.status, type(failure.value)) == (Status.TLS_FAILED, TransportError)
    assert words in failure.value.detail


SLOW_HANDSHAKES: dict[str, Script] = {
    "silence": lambda peer: peer.hold(),
    "drip": lambda peer: peer.drip(b"\x16\x03\x03\x40\x00" + b"\x02" * 1000),
    "drip of warnings": lambda peer: peer.drip(b"\x15\x03\x03\x00\x02\x01\x70" * 100),
}


@pytest.mark.parametrize("case", SLOW_HANDSHAKES)
@pytest.mark.parametrize(("budget_s", "status"), [(PATIENCE_S, Status.TIMEOUT), (0.1, Status.BUDGET_SPENT)])
def test_a_handshake_that_is_slow_is_cut_off(dialer: Dialer, case: str, budget_s: float, status: Status) -> None:
    """At its own limit, or at the host's deadline, whichever comes first."""
    with RawServer(SLOW_HANDSHAKES[case]) as server:
        started = time.monotonic()
        with pytest.raises(TransportError) as failure:
            dialer.open(HOST, Endpoint("127.0.0.1", server.port, tls=True), deadline=started + budget_s)
        assert time.monotonic() - started < ANSWER_S
    assert failure.value.detail == "TLS handshake: too slow"
    assert failure.value.status is status


@pytest.mark.parametrize("case", ["silence", "drip in the header", "endless header", "closed before a header"])
def test_what_goes_wrong_inside_tls_is_the_same(
    dialer: Dialer, certificate: Callable[..., ssl.SSLContext], case: str
) -> None:
    """The watchdog and the caps reach through TLS."""
    script, status, words = REFUSED[case]
    with _connected(dialer, script, tls=certificate()) as (connection, _):
        with pytest.raises(TransportError) as failure:
            _get(connection)
        assert failure.value.status is status
        assert words in failure.value.detail


@pytest.mark.parametrize("case", ["drip in the body", "endless body", "closed before the length is reached"])
def test_what_there_is_of_a_body_is_taken_inside_tls(
    dialer: Dialer, certificate: Callable[..., ssl.SSLContext], case: str
) -> None:
    """A TLS connection that ends without saying goodbye is one that was cut off."""
    script, octets = CUT[case]
    response = _fetch(dialer, script, tls=certificate())
    assert response.truncated
    assert octets <= len(response.body) <= CAP_BYTES


def test_a_body_up_to_the_end_of_a_tls_connection(dialer: Dialer, certificate: Callable[..., ssl.SSLContext]) -> None:
    """Many servers never say goodbye: the end is the end."""
    response = _fetch(dialer, once(OK + b"\r\nhello"), tls=certificate())
    assert (response.body, response.truncated) == (b"hello", False)


def test_a_stale_tls_connection(dialer: Dialer, certificate: Callable[..., ssl.SSLContext]) -> None:
    """Closed while idle, through TLS as well."""
    with _connected(dialer, once(SOUND), tls=certificate()) as (connection, _):
        assert _get(connection).body == b"hello"
        with pytest.raises(StaleConnection):
            _get(connection)


def test_a_server_that_wants_our_certificate(
    dialer: Dialer, certificate: Callable[..., ssl.SSLContext], ca_bundle: Path
) -> None:
    """In TLS 1.3 that is said only after the handshake: the certificate is there, the answer is not."""
    context = certificate()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca_bundle)
    with _connected(dialer, once(SOUND), tls=context) as (connection, _):
        assert connection.certificate is not None
        with pytest.raises(TransportError) as failure:
            _get(connection)
    assert failure.value.status is Status.BAD_RESPONSE


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused_but_its_certificate_can_be_seen(
    dialer: Dialer, certificate: Callable[..., ssl.SSLContext], version: str
) -> None:
    """The verifying context speaks TLS 1.2 and above; the lenient one whatever OpenSSL can."""
    context = certificate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(TransportError) as failure, _connected(dialer, again(), tls=context):
        pass
    assert failure.value.status is Status.TLS_FAILED
    with _connected(dialer, once(SOUND), tls=context, verify=False) as (connection, _):
        assert connection.certificate is not None
        assert _get(connection).body == b"hello"
