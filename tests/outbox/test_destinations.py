"""What holds for every destination: one suite, run against all of them."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from spyder.outbox.destinations import ConfigurationError, Destination, Timeouts, Verdict, destination_of
from spyder.outbox.receiver import Receiver, server_context
from tests.outbox.ingest_peers import Pki, batch_id_of, batch_of, lines_of

FAST = Timeouts(connect_s=1.0, wait_s=2.0)


@dataclass
class Case:
    """A destination, and what is to be known of the place behind it."""

    destination: Destination
    arrived: Callable[[], list[dict[str, Any]]]
    """What arrived there, in order."""
    ruin: Callable[[], object]
    """Makes the place such that nothing can be delivered any more."""


@contextlib.contextmanager
def _ingest(tmp_path: Path, pki: Pki, *, tls: bool, compress: bool) -> Iterator[Case]:
    directory = tmp_path / "received"
    context = server_context(pki.server.cert, pki.server.key, pki.ours.path) if tls else None
    receiver = Receiver(("127.0.0.1", 0), directory, context=context, connections=8)
    receiver.start()

    def stop() -> None:
        receiver.stop()
        assert receiver.join(5)

    papers: dict[str, Any] = (
        {"mtls_cert": pki.client.cert, "mtls_key": pki.client.key, "mtls_ca": pki.ours.path} if tls else {}
    )
    destination = destination_of(receiver.url, base=tmp_path, compress=compress, timeouts=FAST, **papers)
    try:
        yield Case(destination, lambda: list(lines_of(directory)), stop)
    finally:
        destination.close()
        receiver.stop()
        receiver.join(5)


@contextlib.contextmanager
def _file(tmp_path: Path, pki: Pki) -> Iterator[Case]:
    directory = tmp_path / "out"
    destination = destination_of("file:out", base=tmp_path)

    def ruin() -> None:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        directory.write_text("in the way")

    yield Case(destination, lambda: list(lines_of(directory)), ruin)
    destination.close()


@contextlib.contextmanager
def _stdout(tmp_path: Path, pki: Pki) -> Iterator[Case]:
    reader, writer = os.pipe()
    printed = bytearray()

    def read() -> None:
        while chunk := os.read(reader, 65536):
            printed.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    ends = {"writer": writer}

    def arrived() -> list[dict[str, Any]]:
        if "writer" in ends:
            os.close(ends.pop("writer"))
            thread.join()
        return [orjson.loads(line) for line in bytes(printed).splitlines()]

    def ruin() -> None:
        # a pipe without a reader under the same number
        other_reader, other_writer = os.pipe()
        os.dup2(other_writer, writer)
        os.close(other_writer)
        os.close(other_reader)
        thread.join()

    destination = destination_of("stdout:", base=tmp_path, stdout_fd=writer)
    yield Case(destination, arrived, ruin)
    destination.close()
    arrived()
    os.close(reader)


KINDS: dict[str, Callable[[Path, Pki], contextlib.AbstractContextManager[Case]]] = {
    "http": lambda path, pki: _ingest(path, pki, tls=False, compress=False),
    "https-mtls": lambda path, pki: _ingest(path, pki, tls=True, compress=False),
    "https-mtls-gzip": lambda path, pki: _ingest(path, pki, tls=True, compress=True),
    "file": _file,
    "stdout": _stdout,
}


@pytest.fixture(params=list(KINDS))
def case(request: pytest.FixtureRequest, tmp_path: Path, pki: Pki) -> Iterator[Case]:
    """One destination of each kind."""
    with KINDS[request.param](tmp_path, pki) as made:
        yield made


def test_a_delivered_batch_is_there_as_it_was_sent(case: Case) -> None:
    """DELIVERED means that the whole batch is at the other side, and nothing else is."""
    batch_id, payload = batch_of(1, edges=500)
    sent = case.destination.send(batch_id, payload)
    assert sent.verdict is Verdict.DELIVERED, sent
    assert case.arrived() == [orjson.loads(payload)]


def test_batches_follow_one_another(case: Case) -> None:
    """One destination takes many batches, in order, halves of a batch among them."""
    batches = [batch_of(number) for number in range(20)]
    batch_id, payload = batch_of(20)
    halves = (f"{batch_id}.0", f"{batch_id}.1")
    batches += [(half, orjson.dumps(orjson.loads(payload) | {"batch_id": half})) for half in halves]
    for each in batches:
        assert case.destination.send(*each).verdict is Verdict.DELIVERED
    assert case.arrived() == [orjson.loads(payload) for _, payload in batches]


def test_a_batch_that_is_sent_again_is_kept_once(case: Case) -> None:
    """A second copy under the same id counts as delivered, and does not arrive twice."""
    batch = batch_of(1)
    for _ in range(3):
        assert case.destination.send(*batch).verdict is Verdict.DELIVERED
    assert [each["batch_id"] for each in case.arrived()] == [batch[0]]


def test_many_threads_may_send(case: Case) -> None:
    """What eight threads send arrives whole, each batch once."""
    batches = [batch_of(number, edges=number % 7 * 50) for number in range(80)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = {each.verdict for each in pool.map(lambda each: case.destination.send(*each), batches)}
    assert verdicts == {Verdict.DELIVERED}
    arrived = sorted(case.arrived(), key=lambda each: str(each["batch_id"]))
    assert arrived == [orjson.loads(payload) for _, payload in batches]


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b'{"batch_id": NaN}', b"\xff\xfe", b'{"a":1}{"b":2}'])
def test_what_is_no_batch_is_refused(case: Case, payload: bytes) -> None:
    """Bytes that are not one JSON object are a candidate for dead/, and leave no trace at the other side."""
    sent = case.destination.send(batch_id_of(1), payload)
    assert sent.verdict is Verdict.REFUSED
    assert sent.detail.isprintable()
    assert case.arrived() == []


def test_a_place_that_is_gone_delivers_nothing_and_raises_nothing(case: Case) -> None:
    """Whatever happens to the other side is a verdict with one line for people, and keeps the batch."""
    assert case.destination.send(*batch_of(1)).verdict is Verdict.DELIVERED
    case.ruin()
    sent = case.destination.send(*batch_of(2))
    assert sent.verdict in (Verdict.TRY_LATER, Verdict.HOLD)
    assert sent.detail
    assert sent.detail.isprintable()


def test_close_may_be_called_twice_and_send_after_it_does_not_raise(case: Case) -> None:
    """A shipper that is late at a stop gets a verdict like any other."""
    case.destination.send(*batch_of(1))
    case.destination.close()
    case.destination.close()
    assert case.destination.send(*batch_of(2)).verdict in (Verdict.DELIVERED, Verdict.TRY_LATER)


@pytest.mark.parametrize(
    "ingest",
    [
        "",
        "ftp://127.0.0.1/",
        "127.0.0.1:80",
        "file:",
        "file://host/dir",
        "http://user:secret@127.0.0.1/",
        "https://127.0.0.1:99999/",
        "http://bücher.example/",
        "http://127.0.0.1/a b",
        "https://",
    ],
)
def test_what_names_no_destination_is_a_configuration_error(ingest: str, tmp_path: Path) -> None:
    """It is told at the start, with the setting's name and without a secret."""
    with pytest.raises(ConfigurationError, match=r"output\.ingest") as caught:
        destination_of(ingest, base=tmp_path)
    assert "secret" not in str(caught.value)


def test_a_file_destination_that_can_never_be_is_a_configuration_error(tmp_path: Path) -> None:
    """A file in the place of the directory is told at the start."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ConfigurationError, match="Not a directory"):
        destination_of("file:out", base=tmp_path)


def test_file_takes_absolute_and_relative_directories(tmp_path: Path) -> None:
    """`file:DIR` is relative to the base; `file:/DIR` and `file:///DIR` are absolute."""
    for ingest in ("file:a/b", f"file:{tmp_path}/c", f"file://{tmp_path}/d"):
        assert destination_of(ingest, base=tmp_path).send(*batch_of(1)).verdict is Verdict.DELIVERED
    assert all(list(lines_of(tmp_path / name)) for name in ("a/b", "c", "d"))


def test_stdout_prints_the_formats_of_the_settings(tmp_path: Path) -> None:
    """`jsonl` is a record a line and `csv` an edge a line, header first, as `spyder.outbox.formats` has them."""
    batch_id, payload = batch_of(1, edges=2)
    printed = {}
    for form in ("jsonl", "csv"):
        path = tmp_path / form
        with path.open("wb") as file:
            destination = destination_of("stdout:", base=tmp_path, form=form, stdout_fd=file.fileno())
            assert destination.send(batch_id, payload).verdict is Verdict.DELIVERED
            assert destination.send(batch_id, b'{"edges":[{"type":"NO_SUCH"}]}').verdict is (
                Verdict.REFUSED if form == "csv" else Verdict.DELIVERED
            )
        printed[form] = path.read_bytes().splitlines()
    kinds = [orjson.loads(line)["type"] for line in printed["jsonl"]]
    assert kinds == ["edge", "edge", "node_domain", "node_ip", "outcome"]
    assert printed["csv"][0].startswith(b"batch_id,timestamp,probe_id,run_id,edge_type,source")
    assert [row.split(b",")[6] for row in printed["csv"][1:]] == [b"mx0.example.com", b"mx1.example.com"]


def test_stdout_on_a_full_disk_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """A line that a full disk cut is finished when there is room: no reader ever sees half a batch."""
    import resource  # the limit stands for the disk; the signal of it is ignored by Python

    first, second = batch_of(1), batch_of(2)
    path = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("wb") as file:
        destination = destination_of("stdout:", base=tmp_path, stdout_fd=file.fileno())
        assert destination.send(*first).verdict is Verdict.DELIVERED
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(first[1]) + 100, limits[1]))
        try:
            assert destination.send(*second).verdict in (Verdict.TRY_LATER, Verdict.HOLD)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert destination.send(*second).verdict is Verdict.DELIVERED
    assert [orjson.loads(line)["batch_id"] for line in path.read_bytes().splitlines()] == [first[0], second[0]]
