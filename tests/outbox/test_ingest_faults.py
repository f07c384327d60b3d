"""The faults of an ingest service, over real connections, through the whole way from the spool.

`test_http_destination.py` has what each of them is taken for, `test_shipper.py` what a shipper makes of that; here is
what matters: whatever the service does, every batch stays in the spool, and when it is mended all of them arrive.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from spyder.outbox.destinations import Destination, Timeouts, destination_of
from spyder.outbox.payload import decode
from spyder.outbox.shipper import HOLD_S, Fate, Shipper
from spyder.outbox.spool import Name, Place, Spool
from tests.outbox.ingest_peers import Peer, Pki, Talk, answering, batch_of, saying
from tests.outbox.shipping import Clock, at, fill

_BATCHES = 8
_HASTY = Timeouts(connect_s=0.3, wait_s=0.15, slowest_bytes_per_s=1 << 20)
_DAY_S = 86_400.0


class _Outbox:
    """A spool with some batches, and a shipper that waits no longer than it must, by a clock that a test sets."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.clock = Clock()
        self.said: list[str] = []
        self.names = fill(spool, _BATCHES)
        self._destinations: list[Destination] = []
        self.shipper: Shipper[Name] | None = None

    def ship_to(self, peer: Peer, url: str | None = None, **settings: Any) -> Shipper[Name]:
        """Ship to a peer, from the next pass on."""
        destination = destination_of(url or peer.url, base=Path("/nonexistent"), timeouts=_HASTY, **settings)
        self._destinations.append(destination)
        if self.shipper is None:
            self.shipper = Shipper(
                self.spool,
                destination,
                concurrency=2,
                clock=self.clock,
                uniform=lambda least, _most: least,
                on_event=self.said.append,
            )
            self.shipper.start()
        else:
            self.shipper.redirect(destination)
        return self.shipper

    def close(self) -> None:
        """Stop it."""
        if self.shipper is not None:
            self.shipper.stop()
            assert self.shipper.join(10) == 0
        for destination in self._destinations:
            destination.close()

    def hold(self, *, held: bool) -> None:
        """See that nothing has left the spool, that nothing was parked, and that a person is told if one must act."""
        assert self.shipper is not None
        assert self.spool.names(Place.READY, limit=100) == self.names
        assert self.spool.names(Place.DEAD, limit=100) == self.spool.names(Place.BAD, limit=100) == []
        assert self.shipper.statistics().held is held
        assert sum("is held" in line for line in self.said) == held, self.said

    def drain(self, peer: Peer) -> None:
        """See that all goes to a peer that is sound by now, each batch once."""
        assert self.shipper is not None
        peer.requests.clear()
        self.clock.now += _DAY_S
        self.shipper.run_pass()
        assert self.spool.usage().files == 0
        assert sorted(_ids_of(peer)) == at(self.names)
        # a service that names its time is waited for without a word
        assert not self.said or self.said[-1] == "shipping goes on"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[_Outbox]:
    """An outbox, stopped at the end."""
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0) as spool:
        opened = _Outbox(spool)
        yield opened
        opened.close()


def _ids_of(peer: Peer) -> list[str]:
    """Return the batches that a peer was sent, in the order they came."""
    return [orjson.loads(request.partition(b"\r\n\r\n")[2])["batch_id"] for request in peer.requests]


# faults of the service, which mends itself


def _cut(talk: Talk) -> None:
    talk.read_request()
    talk.stream.sendall(b'HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"batch_id":')


def _never_answers(talk: Talk) -> None:
    talk.read_request()
    talk.stall()


def _never_reads(talk: Talk) -> None:
    talk.stall()


def _reads_slowly(talk: Talk) -> None:
    while not talk.peer.over.wait(0.1):
        talk.stream.recv(16)


def _drips(talk: Talk) -> None:
    talk.read_request()
    talk.drip(b"HTTP/1.1 200 OK\r\nX: y", 0.05)


def _closes(talk: Talk) -> None:
    talk.read_request()


def _hangs_up(_talk: Talk) -> None:
    pass


def _once(status: int, body: bytes = b"", *headers: str) -> Callable[[Talk], None]:
    """Return a server that answers one request, and closes: the next connection may find it mended."""

    def serve(talk: Talk) -> None:
        talk.read_request()
        talk.answer(status, body, *headers, "Connection: close")

    return serve


LATER = {
    "408": _once(408),
    "425": _once(425),
    "429": _once(429, b"", "Retry-After: 30"),
    "500": _once(500),
    "502": _once(502, b"<html>bad gateway</html>", "Content-Type: text/html"),
    "503": _once(503, b"", "Retry-After: Fri, 01 Jan 2100 00:00:00 GMT"),
    "504": _once(504),
    "a web page": _once(200, b"<html>log in</html>", "Content-Type: text/html"),
    "an answer about another batch": _once(200, b'{"batch_id": "another"}'),
    "an answer cut in the middle": _cut,
    "no answer": _never_answers,
    "a slow reader": _reads_slowly,
    "no reader": _never_reads,
    "an answer that drips": _drips,
    "closed without an answer": _closes,
    "closed at once": _hangs_up,
    "no HTTP": saying(b"220 mail.example ESMTP\r\n"),
}
HELD = {
    **{str(status): _once(status, b"", "Location: http://127.0.0.1:9/") for status in (301, 302, 303, 307, 308)},
    **{str(status): _once(status) for status in (401, 403, 404, 405, 407)},
}


class _Mending:
    """A service that is out of order until it is mended."""

    def __init__(self, fault: Callable[[Talk], None]) -> None:
        self.serve = fault

    def __call__(self, talk: Talk) -> None:
        """Serve one connection as it is done at the moment."""
        self.serve(talk)


@pytest.mark.parametrize("fault", LATER)
def test_a_service_out_of_order_costs_nothing(fault: str, outbox: _Outbox) -> None:
    """Nothing leaves the spool, nobody is called; when it works again everything arrives by itself."""
    service = _Mending(LATER[fault])
    with Peer(service) as peer:
        shipper = outbox.ship_to(peer)
        shipper.run_pass()
        outbox.hold(held=False)
        assert shipper.statistics().fates.get(Fate.LATER, 0) > 0
        service.serve = answering(200)
        outbox.drain(peer)


@pytest.mark.parametrize("fault", HELD)
def test_a_service_that_will_not_have_us_holds_everything(fault: str, outbox: _Outbox) -> None:
    """Nothing is sent but what was under way; nothing is parked; one line says what to mend."""
    service = _Mending(HELD[fault])
    with Peer(service) as peer:
        shipper = outbox.ship_to(peer)
        for _ in range(5):
            shipper.run_pass()
        assert len(peer.requests) <= 2
        outbox.hold(held=True)
        service.serve = answering(200)
        outbox.drain(peer)


def test_nobody_is_there(outbox: _Outbox) -> None:
    """A refused connection is an outage as any other."""
    with Peer(answering(200)) as gone:
        pass
    outbox.ship_to(gone).run_pass()
    outbox.hold(held=False)
    with Peer(answering(200)) as peer:
        outbox.ship_to(peer)
        outbox.drain(peer)


# papers and settings, which a person mends


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ("server", "expired_client"),
        ("server", "strange_client"),
        ("server", None),
        ("expired_server", "client"),
        ("wrong_name", "client"),
        ("strange_server", "client"),
    ],
)
def test_wrong_papers_hold_everything_until_they_are_renewed(
    server: str, client: str | None, pki: Pki, outbox: _Outbox
) -> None:
    """A certificate of either side that is expired, of strangers, of another name or absent: held, and none parked."""
    ours: dict[str, Any] = {"mtls_ca": pki.ours.path, "mtls_cert": pki.client.cert, "mtls_key": pki.client.key}
    theirs: dict[str, Any] = {"mtls_ca": pki.ours.path}
    if client:
        shown = getattr(pki, client)
        theirs |= {"mtls_cert": shown.cert, "mtls_key": shown.key}
    with Peer(answering(200), getattr(pki, server).context(pki.ours.path)) as peer:
        shipper = outbox.ship_to(peer, **theirs)
        for _ in range(12):
            shipper.run_pass()
            outbox.clock.now += 60
        outbox.hold(held=True)
        assert peer.requests == []
    with Peer(answering(200), pki.server.context(pki.ours.path)) as peer:
        outbox.ship_to(peer, **ours)
        outbox.drain(peer)


def test_tls_where_there_is_none_holds_everything(pki: Pki, outbox: _Outbox) -> None:
    """`https://` for a service that speaks plain HTTP."""
    with Peer(_answers_anything) as peer:
        outbox.ship_to(peer, f"https://127.0.0.1:{peer.port}/", mtls_ca=pki.ours.path).run_pass()
        outbox.hold(held=True)
    with Peer(answering(200)) as peer:
        outbox.ship_to(peer)
        outbox.drain(peer)


def test_plain_http_to_a_tls_port_costs_nothing(pki: Pki, outbox: _Outbox) -> None:
    """`http://` for a service that speaks TLS, which hangs up."""
    with Peer(answering(200), pki.server.context()) as peer:
        outbox.ship_to(peer, f"http://127.0.0.1:{peer.port}/").run_pass()
        outbox.hold(held=False)
    with Peer(answering(200)) as peer:
        outbox.ship_to(peer)
        outbox.drain(peer)


def _answers_anything(talk: Talk) -> None:
    talk.stream.recv(65536)
    talk.stream.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_a_new_token_drains_the_spool(tmp_path: Path, outbox: _Outbox) -> None:
    """A token that is no longer accepted holds everything; the new one is used at the next try, without a reload."""

    def serve(talk: Talk) -> None:
        while True:
            accepted = b"\r\nAuthorization: Bearer new-token\r\n" in talk.read_request()
            talk.answer(200 if accepted else 401)

    headers = tmp_path / "headers"
    _write_token(headers, "old-token")
    with Peer(serve) as peer:
        shipper = outbox.ship_to(peer, headers_file=headers)
        for _ in range(5):
            shipper.run_pass()
        outbox.hold(held=True)
        assert not any("old-token" in line for line in outbox.said)
        _write_token(headers, "new-token")
        shipper.run_pass()
        outbox.hold(held=True)  # its time has not come yet
        outbox.clock.now += HOLD_S
        shipper.run_pass()
        assert outbox.spool.usage().files == 0
        assert outbox.said[-1] == "shipping goes on"


def _write_token(path: Path, token: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(f"Authorization: Bearer {token}\n")
    new.chmod(0o600)
    new.rename(path)


# batches that are at fault themselves


@pytest.mark.parametrize("status", [400, 415, 422])
def test_poison_is_parked_and_the_rest_flows(status: int, outbox: _Outbox) -> None:
    """One batch that is always refused ends in dead/ after ten minutes, with what the service said; no other waits."""
    poison = outbox.names[3].batch_id

    def serve(talk: Talk) -> None:
        while True:
            refused = poison.encode() in talk.read_request()
            talk.answer(status if refused else 200, b'{"detail": "odd"}' if refused else b"")

    with Peer(serve) as peer:
        shipper = outbox.ship_to(peer)
        shipper.run_pass()
        assert at(outbox.spool.names(Place.READY, limit=9)) == [poison]
        for _ in range(2):
            outbox.clock.now += 301
            shipper.run_pass()
    (dead,) = outbox.spool.names(Place.DEAD, limit=9)
    why = decode(outbox.spool.why(dead))
    assert (dead.batch_id, why["http_status"], why["attempts"]) == (poison, status, 3)
    assert why["excerpt"] == '{"detail": "odd"}'
    assert outbox.spool.usage().files == 0


def test_too_large_a_batch_arrives_in_parts(outbox: _Outbox) -> None:
    """A limit of the service on the length of a request splits what is beyond it, and no record is missing."""
    outbox.spool.write(*batch_of(_BATCHES, edges=40))
    taken: list[dict[str, Any]] = []

    def serve(talk: Talk) -> None:
        while True:
            body = talk.read_request().partition(b"\r\n\r\n")[2]
            if len(body) > 2000:
                talk.answer(413)
            else:
                taken.append(decode(body))
                talk.answer(200)

    with Peer(serve) as peer:
        outbox.ship_to(peer).run_pass()
    assert outbox.spool.usage().files == outbox.spool.usage().dead == 0
    targets = [edge["target"] for batch in taken for edge in batch["edges"] if edge["source"].startswith("h8.")]
    assert sorted(targets) == sorted(f"mx{each}.example.com" for each in range(40))
    assert len({batch["batch_id"] for batch in taken}) == len(taken) > _BATCHES + 1
