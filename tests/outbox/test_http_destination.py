"""The table of ingest faults, over real sockets and real TLS: what each does to a batch, and in how long."""

import email.utils
import gc
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from spyder.outbox.destinations import ConfigurationError, Delivery, Destination, Timeouts, Verdict, destination_of
from spyder.outbox.destinations.answers import AnswerReader, BadAnswer, retry_after_s
from spyder.outbox.destinations.delivery import DETAIL_CHARS, EXCERPT_CHARS, printable
from tests.outbox.ingest_peers import Peer, Pki, Talk, answering, batch_of, saying

EASY = Timeouts(connect_s=2.0, wait_s=2.0, slowest_bytes_per_s=1 << 24)
HASTY = Timeouts(connect_s=0.25, wait_s=0.25, slowest_bytes_per_s=1 << 26)
"""For peers who never come to an end."""
SLACK_S = 0.4
"""Two shared cores: a thread may wake so much later than it should."""

BATCH_ID, PAYLOAD = batch_of(1)
LARGE = PAYLOAD.replace(b'"run-1"', b'"' + b"r" * (8 << 20) + b'"', 1)
"""More than the buffers of a connection take."""


def destination(url: str, **others: Any) -> Destination:
    """Return a destination with time limits that only a slow peer meets."""
    arguments: dict[str, Any] = {"base": Path("/nonexistent"), "timeouts": EASY} | others
    return destination_of(url, **arguments)


def send_once(peer: Peer, payload: bytes = PAYLOAD, **others: Any) -> Delivery:
    """Send one batch; hold that it took no longer than it may."""
    sender = destination(peer.url, **others)
    begun = time.monotonic()
    try:
        return sender.send(BATCH_ID, payload)
    finally:
        took_s = time.monotonic() - begun
        sender.close()
        assert took_s < others.get("timeouts", EASY).total_s(len(payload)) + SLACK_S


# what is sent


def test_the_request_is_as_documented() -> None:
    """POST, JSON, an explicit length, the id as Idempotency-Key, the headers of the settings, and no more."""
    with Peer(answering(200)) as peer:
        sent = send_once(peer, headers={"X-Team": "blue", "content-type": "application/vnd.batch+json"})
    assert sent.verdict is Verdict.DELIVERED
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert first == "POST /ingest HTTP/1.1"
    assert body == PAYLOAD
    assert fields.pop("User-Agent").startswith("spyder/")
    assert fields == {
        "Host": f"127.0.0.1:{peer.port}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/vnd.batch+json",
        "Content-Length": str(len(PAYLOAD)),
        "Idempotency-Key": BATCH_ID,
        "X-Team": "blue",
    }


def test_compress_sends_gzip() -> None:
    """With `compress` the body is gzip, and says so."""
    with Peer(answering(200)) as peer:
        assert send_once(peer, compress=True).verdict is Verdict.DELIVERED
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in head
    assert gzip.decompress(body) == PAYLOAD


def test_the_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no .netrc, no CA bundle of a variable comes in between (F24)."""
    with Peer(answering(200)) as canary, Peer(answering(200)) as peer:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password hunter22\n")
        netrc.chmod(0o600)
        for name, value in (
            ("http_proxy", canary.url),
            ("HTTPS_PROXY", canary.url),
            ("ALL_PROXY", canary.url),
            ("NETRC", str(netrc)),
            ("REQUESTS_CA_BUNDLE", "/nonexistent"),
        ):
            monkeypatch.setenv(name, value)
        assert send_once(peer).verdict is Verdict.DELIVERED
        assert canary.connections == 0
    assert b"uthorization" not in peer.requests[0]


def test_a_connection_is_kept_for_the_next_batch() -> None:
    """Batches follow one another on one connection."""
    with Peer(answering(200)) as peer:
        sender = destination(peer.url)
        assert {sender.send(*batch_of(number)).verdict for number in range(5)} == {Verdict.DELIVERED}
        sender.close()
        assert peer.connections == 1


def test_a_connection_that_the_service_closed_meanwhile_costs_nothing() -> None:
    """Whether its end is seen beforehand or only by the next batch, that batch goes over a new connection at once."""

    def serve(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200)

    def rude(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200)
        talk.stream.recv(1)  # closes when the next batch is on its way: its end cannot be seen beforehand

    for each in (serve, rude):
        with Peer(each) as peer:
            sender = destination(peer.url)
            for number in range(3):
                assert sender.send(*batch_of(number)).verdict is Verdict.DELIVERED
                if each is serve:
                    time.sleep(0.02)  # lets the end arrive; without it this is the other case
            sender.close()


# status codes

STATUSES = {
    Verdict.DELIVERED: [200, 201, 202, 204, 226, 299],
    Verdict.HOLD: [300, 301, 302, 303, 304, 307, 308, 399, 401, 403, 404, 405, 407, 410, 421, 426, 431],
    Verdict.TRY_LATER: [408, 409, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599, 700, 999],
    Verdict.TOO_LARGE: [413],
    Verdict.REFUSED: [400, 402, 406, 411, 414, 415, 418, 422, 451, 499],
}


@pytest.mark.parametrize(
    ("status", "verdict"), [(each, verdict) for verdict, many in STATUSES.items() for each in many]
)
def test_every_status_code_has_its_verdict(status: int, verdict: Verdict) -> None:
    """Protocol (b), step 5: what the receiver says decides whether the batch leaves, waits, is split, or is poison."""
    body = b"" if status in (204, 304) else b"because"
    with Peer(answering(status, body)) as peer:
        sent = send_once(peer)
    assert (sent.verdict, sent.http_status, sent.excerpt) == (verdict, status, body.decode()), sent
    assert str(status) in sent.detail
    assert sent.detail.isprintable()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    """Nobody else is contacted, so no token is handed on (C11); the place is named for people."""
    with Peer(answering(200)) as canary, Peer(answering(status, b"", f"Location: {canary.url}")) as peer:
        sent = send_once(peer, headers={"Authorization": "Bearer tok-secret-1"})
        assert canary.connections == 0
    assert sent.verdict is Verdict.HOLD
    assert canary.url in sent.detail


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("1000000000", 3600.0),
        ("9" * 5000, 3600.0),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("\u0662", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 3600.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-26 00:00:30 GMT", 30.0),
        ("Thu Jan  1 00:00:30 2026", 30.0),
        ("Thu, 99 Jan 2026 00:00:30 GMT", None),
        ("Thu, 01 Jan 999999999999999999 00:00:30 GMT", None),
        ("Thu, 01 Jan 2026 00:00:30 +99999999", 0.0),
        ("," * 60, None),
    ],
)
def test_retry_after_is_read_in_every_form_and_clamped(value: str, seconds: float | None) -> None:
    """Seconds or a date, 0 to 3600 s; nonsense of any length and kind is no wish at all (C6)."""
    now_s = email.utils.mktime_tz((2026, 1, 1, 0, 0, 0, 0, 0, 0, 0))
    found = retry_after_s(value, now_s)
    assert found is None or 0 <= found <= 3600
    if value[:6] != "Thu, 9" and "+9999" not in value and "99999999999999" not in value:
        assert found == seconds


def test_retry_after_of_an_answer_is_handed_on() -> None:
    """The shipper waits as long as it is asked to."""
    with Peer(answering(503, b"", "Retry-After: 7")) as peer:
        assert send_once(peer).retry_after_s == 7.0


@pytest.mark.parametrize(
    "body", [b"400 The plain HTTP request was sent to HTTPS port", b"<h1>400 The SSL certificate error</h1>"]
)
def test_a_400_about_tls_holds(body: bytes) -> None:
    """So nginx says of a client certificate or scheme that is wrong: no batch may be parked for it."""
    with Peer(answering(400, body)) as peer:
        assert send_once(peer).verdict is Verdict.HOLD


def test_a_415_that_names_its_codings_holds_where_gzip_is_not_among_them() -> None:
    """It is `output.compress` that is wrong, and not the batch (RFC 9110, section 15.5.16)."""
    with Peer(answering(415, b"", "Accept-Encoding: identity")) as peer:
        assert send_once(peer, compress=True).verdict is Verdict.HOLD
        assert send_once(peer, compress=False).verdict is Verdict.REFUSED


# answers that are not our receiver's

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(OK + b"Content-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", id="html-by-type"),
        pytest.param(OK + b"Content-Length: 22\r\n\r\n \n<!DOCTYPE html><html>", id="html-by-look"),
        pytest.param(OK + b"Content-Length: 10\r\n\r\nshort", id="cut-by-length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", id="cut-chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", id="no-last-chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad-chunk"),
        pytest.param(OK + b"Content-Length: 2", id="cut-header"),
        pytest.param(OK + b"Content-Length: -5\r\n\r\n", id="negative-length"),
        pytest.param(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two-lengths"),
        pytest.param(OK + b'Content-Length: 22\r\n\r\n{"batch_id":"another"}', id="another-batch"),
        pytest.param(OK + b"Content-Length: 99999999\r\n\r\n" + b"x" * 200_000, id="endless-length"),
        pytest.param(OK + b"\r\n" + b"x" * 200_000, id="endless-body"),
        pytest.param(OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n", id="endless-field"),
        pytest.param(OK + b"X: y\r\n" * 30_000 + b"\r\n", id="endless-header"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, id="many-continues"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 -1 No\r\n\r\n", id="status-negative"),
        pytest.param(b"HTTP/1.1 20 No\r\n\r\n", id="status-two-digits"),
        pytest.param(b"HTTP/1.1 200\x00 OK\r\n\r\n", id="nul"),
        pytest.param(b"<html>hello</html>", id="http-0.9"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
        pytest.param(b"\x00" * 100, id="nuls"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_answer_that_is_no_sound_2xx_leaves_the_batch_where_it_is(raw: bytes) -> None:
    """Portals, proxies that die, endless and broken answers are all "not now" (C12)."""
    with Peer(saying(raw)) as peer:
        sent = send_once(peer)
    assert sent.verdict is Verdict.TRY_LATER, sent
    assert sent.detail.isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(OK + b"Content-Length: 0\r\n\r\n", id="empty"),
        pytest.param(OK + b"\r\nstored", id="ended-by-close"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", id="http-1.0"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: trailer\r\n\r\n", id="chunked"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Type: text/html\r\n\r\n"
            + OK
            + b"Content-Length: 2\r\n\r\nok",
            id="interim",
        ),
        pytest.param(OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\n\r\n", id="another-behind"),
    ],
)
def test_every_sound_form_of_a_2xx_delivers(raw: bytes) -> None:
    """Lengths, chunks, interim answers and HTTP/1.0 are all RFC 9112."""
    with Peer(saying(raw)) as peer:
        assert send_once(peer).verdict is Verdict.DELIVERED


def test_a_2xx_that_comes_before_the_whole_batch_was_sent_is_none() -> None:
    """Who answers and closes in the middle of the batch cannot have it."""

    def serve(talk: Talk) -> None:
        talk.stream.recv(1000)
        talk.answer(200)

    with Peer(serve) as peer:
        sent = send_once(peer, LARGE)
    assert sent.verdict is Verdict.TRY_LATER
    assert "before the whole batch was sent" in sent.detail or "no answer" in sent.detail


def test_a_413_that_comes_before_the_whole_batch_was_sent_counts() -> None:
    """Servers refuse a large body by its length, and stop reading: the answer that lies there is read."""

    def serve(talk: Talk) -> None:
        talk.stream.recv(1000)
        talk.answer(413)
        talk.stream.shutdown(socket.SHUT_WR)
        while talk.stream.recv(65536):
            pass

    with Peer(serve) as peer:
        assert send_once(peer, LARGE).verdict is Verdict.TOO_LARGE


def test_what_a_service_says_is_safe_to_print() -> None:
    """Colours, line breaks, direction marks and invalid bytes are escaped, lengths bounded (F19)."""
    body = b"\x1b[31mred\r\nnext \xff\xe2\x80\xae" + b"z" * 60_000
    with Peer(answering(302, body, "Location: http://\u202e\u0085")) as peer:
        sent = send_once(peer)
    assert sent.excerpt.startswith("\\x1b[31mred\\r\\nnext ")
    assert sent.excerpt.isprintable()
    assert len(sent.excerpt) == EXCERPT_CHARS
    assert sent.detail.isprintable()
    assert len(printable("\x00" * 10_000, DETAIL_CHARS)) == DETAIL_CHARS


def test_a_token_that_the_service_repeats_is_not_printed() -> None:
    """Some services answer with what they were sent (H4)."""
    with Peer(answering(400, b'{"headers": "Authorization: Bearer tok-secret-1"}')) as peer:
        sent = send_once(peer, headers={"Authorization": "Bearer tok-secret-1"})
    assert "tok-secret-1" not in sent.excerpt
    assert "***" in sent.excerpt


# time


def _full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """Return a listener that takes no connection more: connecting to it takes for ever."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(8):
        stream = socket.socket()
        stream.setblocking(False)
        stream.connect_ex(listener.getsockname())
        waiting.append(stream)
    return listener, waiting


def test_connecting_ends_in_time() -> None:
    """A black hole costs the connect time-out (F1)."""
    listener, waiting = _full_backlog()
    sender = destination(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeouts=HASTY)
    begun = time.monotonic()
    sent = sender.send(BATCH_ID, PAYLOAD)
    assert 0.2 < time.monotonic() - begun < HASTY.connect_s + SLACK_S
    assert (sent.verdict, "too slow" in sent.detail) == (Verdict.TRY_LATER, True)
    for each in (listener, *waiting):
        each.close()


def test_a_refused_connection_is_tried_later() -> None:
    """Nobody listens: the ingest service is down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        sent = destination(f"http://{host}:{port}/").send(BATCH_ID, PAYLOAD)
        assert (sent.verdict, "refused" in sent.detail) == (Verdict.TRY_LATER, True)


def test_a_name_with_several_addresses_is_tried_through() -> None:
    """`localhost` has ::1 first on many machines, where nobody may listen."""
    with Peer(answering(200)) as peer:
        sender = destination(peer.url.replace("127.0.0.1", "localhost"))
        assert sender.send(BATCH_ID, PAYLOAD).verdict is Verdict.DELIVERED
        sender.close()


def _never(talk: Talk) -> None:
    talk.read_request()
    talk.stall()


def _drip(data: bytes) -> Callable[[Talk], None]:
    def serve(talk: Talk) -> None:
        talk.read_request()
        talk.drip(data, 0.05)

    return serve


def _drip_body(talk: Talk) -> None:
    talk.read_request()
    talk.stream.sendall(OK + b"Content-Length: 60000\r\n\r\n")
    talk.drip(b"x", 0.05)


def _continue_for_ever(talk: Talk) -> None:
    talk.read_request()
    while not talk.peer.over.wait(0.02):
        talk.stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def _trailers_for_ever(talk: Talk) -> None:
    talk.read_request()
    talk.stream.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    while not talk.peer.over.wait(0.02):
        talk.stream.sendall(b"X: y\r\n")


def _read_slowly(talk: Talk) -> None:
    while not talk.peer.over.wait(0.05):
        talk.stream.recv(4096)


def _half_an_answer(talk: Talk) -> None:
    talk.read_request()
    talk.stream.sendall(OK + b"Content-Length: 10\r\n\r\nhalf")
    talk.stall()


def _silent(talk: Talk) -> None:
    talk.stall()


SLOW = {
    "never answers": _never,
    "drips its header": _drip(OK + b"X: y"),
    "drips its body": _drip_body,
    "endless 100": _continue_for_ever,
    "endless trailers": _trailers_for_ever,
    "stops in the body": _half_an_answer,
    "reads slowly": _read_slowly,
    "does not read": _silent,
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("how", list(SLOW))
def test_no_slow_peer_keeps_us_beyond_the_total(how: str, tls: bool, pki: Pki) -> None:
    """The end of a whole sending holds, whatever trickles in (C2, C3, F6, F7)."""
    payload = LARGE if "read" in how else PAYLOAD
    with Peer(SLOW[how], pki.server.context() if tls else None) as peer:
        sent = send_once(peer, payload, timeouts=HASTY, **({"mtls_ca": pki.ours.path} if tls else {}))
    assert sent.verdict is Verdict.TRY_LATER, sent
    assert "too slow" in sent.detail


def test_a_wait_that_begins_near_the_end_is_no_longer_than_what_is_left() -> None:
    """Else a peer who says something just then gets a whole wait more."""

    def serve(talk: Talk) -> None:
        talk.read_request()
        talk.peer.over.wait(0.9)
        talk.stream.sendall(b"H")
        talk.stall()

    with Peer(serve) as peer:
        assert send_once(peer, timeouts=Timeouts(connect_s=0.1, wait_s=1.0)).verdict is Verdict.TRY_LATER


def test_a_tls_record_that_drips_ends_in_time(pki: Pki) -> None:
    """A record that never becomes whole is one read for us, and that read has an end."""

    def serve(talk: Talk) -> None:
        talk.read_request()
        assert isinstance(talk.stream, ssl.SSLSocket)
        plain = socket.socket(fileno=os.dup(talk.stream.fileno()))
        with plain:
            plain.sendall(b"\x17\x03\x03\x40\x00")
            while not talk.peer.over.wait(0.05):
                plain.sendall(b"\x00")

    with Peer(serve, pki.server.context()) as peer:
        sent = send_once(peer, mtls_ca=pki.ours.path, timeouts=HASTY)
    assert (sent.verdict, "too slow" in sent.detail) == (Verdict.TRY_LATER, True)


@pytest.mark.parametrize("drip", [b"", b"\x16\x03\x03\x40\x00\x02\x00\x3f\xf0"], ids=["silence", "drip"])
def test_a_handshake_that_never_ends_is_ended(drip: bytes, pki: Pki) -> None:
    """The handshake has a part in the connect time-out."""

    def serve(talk: Talk) -> None:
        if drip:
            talk.drip(drip, 0.05)
        talk.stall()

    with Peer(serve) as peer:
        sender = destination(peer.url.replace("http:", "https:"), mtls_ca=pki.ours.path, timeouts=HASTY)
        begun = time.monotonic()
        sent = sender.send(BATCH_ID, PAYLOAD)
        assert time.monotonic() - begun < HASTY.connect_s + SLACK_S
    assert (sent.verdict, "too slow" in sent.detail) == (Verdict.TRY_LATER, True)


def test_close_ends_a_sending_at_once(pki: Pki) -> None:
    """A stop does not wait for a service that is silent."""
    reached = threading.Event()

    def serve(talk: Talk) -> None:
        talk.read_request()
        reached.set()
        talk.stall()

    for context, papers in ((None, {}), (pki.server.context(), {"mtls_ca": pki.ours.path})):
        reached.clear()
        with Peer(serve, context) as peer:
            sender = destination(peer.url, timeouts=Timeouts(), **papers)
            found: list[Delivery] = []
            thread = threading.Thread(target=lambda at=sender, to=found: to.append(at.send(BATCH_ID, PAYLOAD)))
            thread.start()
            assert reached.wait(5)
            begun = time.monotonic()
            sender.close()
            thread.join(5)
            assert time.monotonic() - begun < 1
        assert [each.verdict for each in found] == [Verdict.TRY_LATER]


# TLS


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("strange_server", "local issuer|self-signed"),
        ("wrong_name", "mismatch"),
        ("expired_server", "expired"),
    ],
)
def test_a_certificate_that_does_not_verify_holds_everything(server: str, words: str, pki: Pki) -> None:
    """Wrong authority, wrong name, expired: nothing is sent, and nothing less safe is tried (C14)."""
    with Peer(answering(200), getattr(pki, server).context()) as peer:
        sent = send_once(peer, mtls_ca=pki.ours.path)
    assert sent.verdict is Verdict.HOLD
    assert "does not verify" in sent.detail
    assert any(word in sent.detail for word in words.split("|")), sent.detail
    assert peer.requests == []


def test_the_systems_authorities_do_not_know_ours(pki: Pki) -> None:
    """Without `mtls_ca` the system's authorities decide."""
    with Peer(answering(200), pki.server.context()) as peer:
        assert send_once(peer).verdict is Verdict.HOLD


def _blunt(raw: bytes) -> Callable[[Talk], None]:
    def serve(talk: Talk) -> None:
        talk.stream.recv(65536)
        talk.stream.sendall(raw)

    return serve


def test_plain_http_on_the_tls_port_holds(pki: Pki) -> None:
    """The scheme in `output.ingest` is wrong, in this direction."""
    with Peer(_blunt(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")) as peer:
        sent = destination(peer.url.replace("http:", "https:"), mtls_ca=pki.ours.path).send(BATCH_ID, PAYLOAD)
    assert (sent.verdict, "no TLS there?" in sent.detail) == (Verdict.HOLD, True), sent


def test_tls_on_the_plain_port_holds() -> None:
    """And in the other, where the server says so by an alert (RFC 8446, section 6)."""
    with Peer(_blunt(b"\x15\x03\x03\x00\x02\x02\x0a")) as peer:
        sent = destination(peer.url).send(BATCH_ID, PAYLOAD)
    assert (sent.verdict, "https://" in sent.detail) == (Verdict.HOLD, True), sent


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("client", ["expired_client", "strange_client", None])
def test_a_client_certificate_that_is_not_accepted_holds(
    client: str | None, size: str, version: ssl.TLSVersion, pki: Pki
) -> None:
    """Expired, of strangers, or absent: with TLS 1.3 the alert comes only after the handshake, amid the batch."""
    context = pki.server.context(pki.ours.path)
    context.minimum_version = context.maximum_version = version
    papers: dict[str, Any] = {"mtls_ca": pki.ours.path}
    if client:
        papers |= {"mtls_cert": getattr(pki, client).cert, "mtls_key": getattr(pki, client).key}
    with Peer(answering(200), context) as peer:
        sent = send_once(peer, LARGE if size == "large" else PAYLOAD, **papers)
    assert sent.verdict is Verdict.HOLD, sent
    assert peer.requests == []


def test_the_client_certificate_is_shown(pki: Pki) -> None:
    """The settings are really used: the server saw ours, and took the batch."""
    seen: list[Any] = []

    def serve(talk: Talk) -> None:
        assert isinstance(talk.stream, ssl.SSLSocket)
        seen.append(talk.stream.getpeercert(binary_form=True))
        talk.read_request()
        talk.answer(200)

    with Peer(serve, pki.server.context(pki.ours.path)) as peer:
        papers: dict[str, Any] = {"mtls_cert": pki.client.cert, "mtls_key": pki.client.key, "mtls_ca": pki.ours.path}
        assert send_once(peer, PAYLOAD, **papers).verdict is Verdict.DELIVERED
    assert ssl.DER_cert_to_PEM_cert(seen[0]).split() == pki.client.cert.read_text().split()


def test_an_end_without_a_closure_alert_delivers_only_what_has_a_length(pki: Pki) -> None:
    """RFC 9112, section 9.8: else anybody on the way could cut the answer, and it would count as whole."""
    for raw, verdict in (
        (OK + b"\r\nstored", Verdict.TRY_LATER),
        (OK + b"Content-Length: 6\r\n\r\nstored", Verdict.DELIVERED),
    ):
        with Peer(saying(raw), pki.server.context()) as peer:
            sent = send_once(peer, mtls_ca=pki.ours.path)
        assert sent.verdict is verdict
        assert "Content-Length" in sent.detail or verdict is Verdict.DELIVERED


def _encrypted(pki: Pki, directory: Path) -> Path:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pki.client.key.read_bytes(), None)
    path = directory / "locked.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return path


@pytest.mark.parametrize("fault", ["cert absent", "key absent", "key alone", "mismatch", "no pem", "ca absent", "ca"])
def test_client_papers_that_cannot_be_used_are_a_configuration_error(fault: str, pki: Pki, tmp_path: Path) -> None:
    """They are told at the start, with setting and file, and never left out (C15)."""
    empty, absent = tmp_path / "empty.pem", tmp_path / "absent.pem"
    empty.write_text("nothing")
    papers = {
        "cert absent": {"mtls_cert": absent, "mtls_key": pki.client.key},
        "key absent": {"mtls_cert": pki.client.cert, "mtls_key": absent},
        "key alone": {"mtls_key": pki.client.key},
        "mismatch": {"mtls_cert": pki.client.cert, "mtls_key": pki.server.key},
        "no pem": {"mtls_cert": empty, "mtls_key": empty},
        "ca absent": {"mtls_ca": absent},
        "ca": {"mtls_ca": empty},
    }[fault]
    with pytest.raises(ConfigurationError, match=r"output\.mtls_"):
        destination("https://127.0.0.1:1/", **papers)


def test_an_encrypted_key_is_a_configuration_error_and_asks_nobody(pki: Pki, tmp_path: Path) -> None:
    """OpenSSL would ask for the password on the terminal, where a daemon has none."""
    with pytest.raises(ConfigurationError, match="nobody to ask"):
        destination("https://127.0.0.1:1/", mtls_cert=pki.client.cert, mtls_key=_encrypted(pki, tmp_path))


def test_papers_that_http_would_leave_unused_are_a_configuration_error(pki: Pki) -> None:
    """Who sets a client certificate believes that it is shown."""
    with pytest.raises(ConfigurationError, match=r"output\.mtls_cert"):
        destination("http://127.0.0.1:1/", mtls_cert=pki.client.cert, mtls_key=pki.client.key)


def test_http_to_another_machine_warns() -> None:
    """Batches and tokens would cross the network in the clear (H12)."""
    for url, warned in (
        ("http://ingest.example/", True),
        ("http://127.0.0.1:1/", False),
        ("https://a.example/", False),
    ):
        warnings: list[str] = []
        destination(url, on_warning=warnings.append).close()
        assert bool(warnings) is warned


# headers of a file


def _rewrite(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.chmod(0o600)
    other.replace(path)


def test_headers_of_a_file_are_rotated_without_a_restart(tmp_path: Path) -> None:
    """A new token is used from the next batch on; one of the settings gives way to the file's (C9)."""
    path = tmp_path / "headers"
    _rewrite(path, "# token of January\nauthorization: Bearer one\n\nX-More: 1\n")
    with Peer(answering(200)) as peer:
        sender = destination(peer.url, headers_file=path, headers={"Authorization": "Bearer none"})
        sender.send(*batch_of(1))
        _rewrite(path, "Authorization: Bearer two\r\n")
        sender.send(*batch_of(2))
        sender.close()
    assert [b"Bearer one" in each for each in peer.requests] == [True, False]
    assert [b"Bearer two" in each for each in peer.requests] == [False, True]
    assert [b"X-More" in each for each in peer.requests] == [True, False]


@pytest.mark.parametrize(
    "text", ["Authorization Bearer two\n", "", "Host: evil\n", "A: b\nA: c\n", "A: b\x00\n", "A:\n", "B ad: c\n", None]
)
def test_headers_that_become_malformed_leave_the_last_good_ones(text: str | None, tmp_path: Path) -> None:
    """It warns once, without the value, and goes on; at the start the same is a configuration error."""
    path = tmp_path / "headers"
    _rewrite(path, "Authorization: Bearer one\n")
    warnings: list[str] = []
    with Peer(answering(200)) as peer:
        sender = destination(peer.url, headers_file=path, on_warning=warnings.append)
        path.unlink()
        if text is not None:
            _rewrite(path, text)
        for number in range(3):
            assert sender.send(*batch_of(number)).verdict is Verdict.DELIVERED
        assert len(warnings) == 1
        assert "two" not in warnings[0]
        _rewrite(path, "Authorization: Bearer three\n")
        sender.send(*batch_of(3))
        sender.close()
    assert [b"Bearer one" in each for each in peer.requests] == [True, True, True, False]
    if text is None:
        path.unlink()
    else:
        _rewrite(path, text)
    with pytest.raises(ConfigurationError, match=r"output\.headers_file"):
        destination("http://127.0.0.1:1/", headers_file=path)


def test_a_headers_file_that_all_can_read_warns(tmp_path: Path) -> None:
    """A token is for its owner (H3)."""
    path = tmp_path / "headers"
    path.write_text("Authorization: Bearer one\n")
    warnings: list[str] = []
    for mode in (0o640, 0o644):
        path.chmod(mode)
        destination("http://127.0.0.1:1/", headers_file=path, on_warning=warnings.append)
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "headers", [{"Host": "x"}, {"Idempotency-Key": "x"}, {"A b": "x"}, {"A": "x\r\nB: y"}, {"A": ""}]
)
def test_headers_that_would_change_the_message_are_a_configuration_error(headers: dict[str, str]) -> None:
    """No setting can smuggle a line into a request."""
    with pytest.raises(ConfigurationError, match=r"output\.headers"):
        destination("http://127.0.0.1:1/", headers=headers)


# nothing is left behind


def _descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_socket_is_left_open_whatever_happened(pki: Pki) -> None:
    """After every kind of end the process has as many descriptors as before."""
    before = _descriptors()
    for serve in (answering(200), answering(500), saying(b""), saying(OK), saying(b"junk\r\n\r\n"), _half_an_answer):
        for context, papers in ((None, {}), (pki.server.context(), {"mtls_ca": pki.ours.path})):
            with Peer(serve, context) as peer:
                send_once(peer, PAYLOAD, timeouts=HASTY, **papers)
    with Peer(answering(200), pki.strange_server.context()) as peer:
        send_once(peer)
    assert _descriptors() == before


def test_the_reader_ends_on_every_beginning_of_an_answer() -> None:
    """An answer that is cut after any of its bytes is never taken for a whole one."""
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Type: text/plain\r\nContent-Length: 4\r\n\r\nokay"
    for end in range(len(whole)):
        reader = AnswerReader()
        try:
            reader.feed(whole[:end])
            reader.feed(b"")
        except BadAnswer:
            continue
        assert not reader.complete
        assert reader.fault


def test_the_reader_takes_an_answer_byte_by_byte() -> None:
    """Where a read ends has no meaning."""
    reader = AnswerReader()
    body = orjson.dumps({"batch_id": BATCH_ID})
    for byte in OK + b"content-length: %d\r\n\r\n%s" % (len(body), body):
        assert not reader.done
        reader.feed(bytes([byte]))
    assert (reader.status, reader.body, reader.complete, reader.reusable) == (200, body, True, True)
