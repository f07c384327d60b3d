"""The reference receiver: what it takes, what it refuses, and that it forgets nothing."""

import contextlib
import gzip
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from spyder.outbox.batch_log import BatchLog
from spyder.outbox.destinations import Timeouts, Verdict, destination_of
from spyder.outbox.receiver import Problem, Receiver, server_context, unpacked
from tests.outbox.ingest_peers import Pki, batch_id_of, batch_of, lines_of

ROOT = Path(__file__).resolve().parents[2]
BATCH_ID, PAYLOAD = batch_of(1)
MAX_BYTES = 100_000


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver on loopback, with small bounds."""
    found = Receiver(("127.0.0.1", 0), tmp_path / "received", max_bytes=MAX_BYTES, connections=4, request_s=1.0)
    found.start()
    yield found
    found.stop()
    assert found.join(5)


def talk(receiver: Receiver, raw: bytes, *, end: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and return status, header and body of the one answer; status 0 where the connection just ends."""
    port = int(receiver.url.rsplit(":", 1)[1].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(raw)
        if end:
            stream.shutdown(socket.SHUT_WR)
        data = b""
        while b"\r\n\r\n" not in data:
            if not (chunk := stream.recv(65536)):
                return 0, {}, data
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers["content-length"]):
            body += stream.recv(65536)
        return int(first.split()[1]), headers, body


def post(receiver: Receiver, body: bytes, *headers: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """POST, and return status, header and the JSON of the answer."""
    lines = ("POST /any/path HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers)
    status, found, answer = talk(receiver, "".join(f"{line}\r\n" for line in (*lines, "")).encode() + body)
    return status, found, orjson.loads(answer)


def changed(**others: Any) -> bytes:
    """Return the batch with some of its fields changed; None takes a field out."""
    whole = orjson.loads(PAYLOAD) | others
    return orjson.dumps({name: value for name, value in whole.items() if value is not None})


def test_a_batch_is_on_disk_when_it_is_answered(receiver: Receiver, tmp_path: Path) -> None:
    """201 names the batch; the same once more is 200, and is not written again."""
    assert post(receiver, PAYLOAD)[::2] == (201, {"batch_id": BATCH_ID, "status": "stored"})
    assert list(lines_of(tmp_path / "received")) == [orjson.loads(PAYLOAD)]
    assert post(receiver, PAYLOAD)[::2] == (200, {"batch_id": BATCH_ID, "status": "known"})
    assert len(list(lines_of(tmp_path / "received"))) == 1


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"[" * 50_000, None),
        (changed(batch_id=None), "$"),
        (changed(batch_id="no-id"), "$.batch_id"),
        (changed(batch_id=BATCH_ID + "\n"), "$.batch_id"),
        (changed(batch_id=BATCH_ID + ".0" * 500), "$.batch_id"),
        (changed(edges=None), "$"),
        (changed(edges={}), "$.edges"),
        (changed(edges=[{"type": "RESOLVES_TO"}]), "$.edges[0]"),
        (changed(schema_version=2), "$.schema_version"),
        (changed(nodes_ip=[{"ip": "300.1.1.1", "first_seen": "x", "last_seen": "x"}]), "$.nodes_ip[0].ip"),
        (changed(surprise=1), "$"),
        (changed(run_id="\u202e" * 30_000, edges=3), "$.edges"),
    ],
)
def test_what_is_no_batch_is_refused_with_its_place(
    body: bytes, where: str | None, receiver: Receiver, tmp_path: Path
) -> None:
    """400 with a problem in JSON (RFC 9457) that says where the fault is; nothing is kept."""
    status, headers, problem = post(receiver, body)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert problem.get("where") == where
    assert problem["detail"]
    assert len(problem["detail"]) <= 300
    assert list(lines_of(tmp_path / "received")) == []


def test_the_key_must_be_the_batchs_own(receiver: Receiver) -> None:
    """`Idempotency-Key` names the batch, or is absent."""
    assert post(receiver, PAYLOAD, f"Idempotency-Key: {batch_id_of(2)}")[0] == 400
    assert post(receiver, PAYLOAD, f"Idempotency-Key: {BATCH_ID}")[0] == 201


def test_gzip_is_taken_and_bounded(receiver: Receiver) -> None:
    """A bomb is 413 before it is unpacked; a cut or damaged stream is 400; another coding 415, with what is taken."""
    packed = gzip.compress(PAYLOAD)
    gzipped = "Content-Encoding: gzip"
    assert post(receiver, packed, gzipped)[0] == 201
    assert post(receiver, gzip.compress(b" " * (50 << 20)), gzipped)[0] == 413
    assert post(receiver, packed[:-4], gzipped)[0] == 400
    assert post(receiver, packed + packed, gzipped)[0] == 400
    assert post(receiver, b"junk", gzipped)[0] == 400
    status, headers, _ = post(receiver, PAYLOAD, "Content-Encoding: br")
    assert (status, headers["accept-encoding"]) == (415, "gzip")


def test_a_bomb_is_not_unpacked() -> None:
    """What is made of it is bounded, and not only judged afterwards."""
    bomb = gzip.compress(b" " * (50 << 20))
    tracemalloc.start()
    with pytest.raises(Problem):
        unpacked(bomb, "gzip", MAX_BYTES)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10 * MAX_BYTES


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_what_is_no_sound_request_is_refused(raw: bytes, status: int, receiver: Receiver) -> None:
    """Every refusal is an answer, although not all was read, and the connection ends."""
    assert talk(receiver, raw)[0] == status
    assert post(receiver, PAYLOAD)[0] == 201


def test_a_large_body_is_refused_by_its_length_and_the_answer_arrives(receiver: Receiver, tmp_path: Path) -> None:
    """413 reaches a sender that is still sending, who then splits the batch."""
    sender = destination_of(receiver.url, base=tmp_path, timeouts=Timeouts(connect_s=1, wait_s=2))
    sent = sender.send(*batch_of(2, edges=60_000))
    sender.close()
    assert sent.verdict is Verdict.TOO_LARGE, sent


def test_who_still_sends_after_a_refusal_is_not_reset(receiver: Receiver) -> None:
    """A reset may overtake the answer on its way; so what comes after it is read for a while (RFC 9112, 9.6)."""
    port = int(receiver.url.rsplit(":", 1)[1].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        assert stream.recv(65536).startswith(b"HTTP/1.1 413 ")
        while stream.recv(65536):
            pass
        for _ in range(20):
            stream.sendall(b"x" * 65536)


def test_a_body_that_is_cut_short_is_not_kept(receiver: Receiver, tmp_path: Path) -> None:
    """The sender will come again."""
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(PAYLOAD) + 1, PAYLOAD)
    assert talk(receiver, raw, end=True)[0] == 0
    assert list(lines_of(tmp_path / "received")) == []


def test_slow_clients_do_not_keep_the_others_out(receiver: Receiver) -> None:
    """Four silent connections fill all places; at their deadline they are cut off, and a batch gets through."""
    port = int(receiver.url.rsplit(":", 1)[1].strip("/"))
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.05):
            for each in slow:
                with contextlib.suppress(OSError):
                    each.send(b"P")

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    assert post(receiver, PAYLOAD)[0] == 201
    assert time.monotonic() - begun < 4.5  # the deadline, the watchdog's tick, and the time to linger
    over.set()
    thread.join()
    for each in slow:
        each.close()


def test_a_full_disk_is_answered_with_a_wish_to_wait(tmp_path: Path) -> None:
    """507 and `Retry-After`: the sender tries later, and nothing half-written is left."""
    import resource  # the limit of a file's size stands for the disk

    receiver = Receiver(("127.0.0.1", 0), tmp_path / "received", connections=2)
    receiver.start()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        status, headers, _ = post(receiver, PAYLOAD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, headers["retry-after"]) in ((507, "10"), (500, "10"))
    assert post(receiver, PAYLOAD)[0] == 201
    assert len(list(lines_of(tmp_path / "received"))) == 1
    receiver.stop()
    assert receiver.join(5)


def test_ids_are_remembered_across_restarts(tmp_path: Path) -> None:
    """All of them, from all files: what is known is what is in the files."""
    directory = tmp_path / "received"
    for life in range(3):
        receiver = Receiver(("127.0.0.1", 0), directory, max_file_bytes=2000, connections=2)
        assert receiver.known == 8 * life
        receiver.start()
        for number in range(8 * (life + 1)):
            assert post(receiver, batch_of(number)[1])[0] == (200 if number < 8 * life else 201)
        receiver.stop()
        assert receiver.join(5)
    assert len(list(directory.glob("batches-*.jsonl"))) > 3


def test_a_client_certificate_is_asked_for(tmp_path: Path, pki: Pki) -> None:
    """With a client CA, a stranger's batch is not even read."""
    context = server_context(pki.server.cert, pki.server.key, pki.ours.path)
    receiver = Receiver(("127.0.0.1", 0), tmp_path / "received", context=context, connections=2)
    receiver.start()
    for client, verdict in ((pki.client, Verdict.DELIVERED), (pki.strange_client, Verdict.HOLD)):
        sender = destination_of(
            receiver.url, base=tmp_path, mtls_cert=client.cert, mtls_key=client.key, mtls_ca=pki.ours.path
        )
        assert sender.send(*batch_of(1)).verdict is verdict
        sender.close()
    receiver.stop()
    assert receiver.join(5)


def test_the_packaged_schema_is_the_published_one() -> None:
    """The receiver checks against the very file that the documentation publishes."""
    published = (ROOT / "docs" / "batch.schema.json").read_bytes()
    assert (ROOT / "spyder" / "outbox" / "batch.schema.json").read_bytes() == published


# the command


def _start(*arguments: str) -> tuple["subprocess.Popen[str]", str]:
    program = "from spyder.cli.spyderctl import main; main()"
    command = [sys.executable, "-c", program, "receive", "--listen", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"listening on (\S+);", process.stdout.readline())
    assert found is not None
    return process, found[1]


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path, pki: Pki) -> None:
    """`spyderctl receive` prints where it listens, takes batches over mTLS, and ends with status 0 on SIGTERM."""
    process, url = _start(
        "--dir",
        str(tmp_path / "received"),
        *("--tls-cert", str(pki.server.cert), "--tls-key", str(pki.server.key), "--client-ca", str(pki.ours.path)),
    )
    papers: dict[str, Any] = {"mtls_cert": pki.client.cert, "mtls_key": pki.client.key, "mtls_ca": pki.ours.path}
    sender = destination_of(url, base=tmp_path, **papers)
    assert sender.send(*batch_of(1)).verdict is Verdict.DELIVERED
    sender.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_a_killed_receiver_has_every_batch_that_it_answered_once(tmp_path: Path) -> None:
    """SIGKILL at random moments of four senders' work, eight times: each answered batch is there, and none twice."""
    directory = tmp_path / "received"
    chance = random.Random(3)
    sending = _Sending()
    for _ in range(8):
        process, url = _start("--dir", str(directory))
        threads = [threading.Thread(target=sending.until_it_dies, args=(url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.02, 0.2))
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
        assert process.stdout is not None
        process.stdout.close()
    BatchLog(directory, max_file_bytes=1 << 30).open()  # cuts a torn line back, as the next receiver would
    kept = [each["batch_id"] for each in lines_of(directory)]
    assert len(kept) == len(set(kept))
    assert sending.answered <= set(kept) <= sending.sent
    assert len(sending.answered) > 20


class _Sending:
    """Batches that are sent, every third one for the second time; and which of them were answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = 0
        self.sent: set[object] = set()
        self.answered: set[object] = set()

    def until_it_dies(self, url: str) -> None:
        sender = destination_of(url, base=Path("/nonexistent"), timeouts=Timeouts(connect_s=1, wait_s=2))
        verdict = Verdict.DELIVERED
        while verdict is Verdict.DELIVERED:
            batch_id, payload = self._next()
            verdict = sender.send(batch_id, payload).verdict
            if verdict is Verdict.DELIVERED:
                self.answered.add(batch_id)
        sender.close()

    def _next(self) -> tuple[str, bytes]:
        with self._lock:
            self._turn += 1
            number = self._turn - 10 * (self._turn % 3 == 0)
            batch = batch_of(max(1, number), edges=number % 40)
            self.sent.add(batch[0])
            return batch


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--listen", "127.0.0.1", "--dir", "D"], 2),
        (["--listen", "127.0.0.1:99999", "--dir", "D"], 2),
        (["--listen", "127.0.0.1:0", "--dir", "D", "--client-ca", "CERT"], 2),
        (["--listen", "127.0.0.1:0", "--dir", "D", "--tls-cert", "NOTHING"], 78),
        (["--listen", "127.0.0.1:0", "--dir", "NOTHING"], 2),
        (["--listen", "192.0.2.1:0", "--dir", "D"], 78),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], status: int, tmp_path: Path, pki: Pki) -> None:
    """Usage is 2, what cannot be used is 78, each with one line and without a trace."""
    from click.testing import CliRunner

    from spyder.cli.spyderctl import main

    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    names = {"D": str(tmp_path / "d"), "CERT": str(pki.server.cert), "NOTHING": str(nothing)}
    result = CliRunner().invoke(main, ["receive", *(names.get(each, each) for each in arguments)])
    assert result.exit_code == status
    assert result.stderr
