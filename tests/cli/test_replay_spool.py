"""`spyderctl replay-spool` as a process: against a real HTTP server, beside a running shipper, on SPYDER's files."""

import json
import os
import pty
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from spyder.outbox.destinations.delivery import Delivery
from spyder.outbox.replay_sources import from_spyder
from spyder.outbox.shipper import BadFile, Shipper
from spyder.outbox.spool import Name, Place, Spool, new_batch_id
from tests.cli.spyderctl import Ended, finish, run, start
from tests.outbox.ingest_peers import batch_id_of, batch_of, lines_of
from tests.outbox.shipping import DELIVERED
from tests.waiting import started, wait_until

Answer = tuple[int, dict[str, str]]


class Ingest:
    """A small HTTP server that answers as a script says and remembers what it took."""

    def __init__(self, script: Callable[[str], Answer]) -> None:
        self.script = script
        self.asked: list[str] = []
        self.taken: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, str]] = []
        ingest = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                key = self.headers["Idempotency-Key"]
                ingest.headers.append({name.lower(): value for name, value in self.headers.items()})
                ingest.asked.append(key)
                status, headers = ingest.script(key)
                if status < 300:
                    ingest.taken[key] = orjson.loads(body)
                self.send_response(status)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/batch"

    @contextmanager
    def serving(self) -> Iterator["Ingest"]:
        """Serve until the end of the block."""
        thread = started(lambda: self._server.serve_forever(0.02))
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    """A server that takes everything."""
    with Ingest(lambda _key: (201, {})).serving() as serving:
        yield serving


def _spool(path: Path, count: int = 5) -> Path:
    with Spool(path, reserve_bytes=0, reserve_files=0) as spool:
        for number in range(count):
            spool.write(*batch_of(number))
    return path


def _ready(path: Path) -> list[str]:
    return sorted(each.name for each in path.glob("*.json"))


def _replay(path: Path, ingest: Ingest, *arguments: str | Path) -> tuple[Ended, dict[str, Any]]:
    ended = run("replay-spool", "--dir", path, "--to", ingest.url, "--json", *arguments)
    assert ended.stdout, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    return ended, report


# --- what is spooled


def test_all_is_sent_and_a_second_run_sends_nothing(tmp_path: Path, ingest: Ingest) -> None:
    """Every batch once, with its id as the key; the spool is empty, status 0 both times."""
    path = _spool(tmp_path / "spool", 25)
    first = run("replay-spool", "--dir", path, "--set", f"output.ingest={ingest.url}")
    assert first.status == 0
    assert first.stdout.decode().startswith("sent 25 batches (")
    assert sorted(ingest.asked) == [batch_id_of(number) for number in range(25)]
    assert ingest.taken[batch_id_of(3)] == json.loads(batch_of(3)[1])
    assert _ready(path) == []
    ended, report = _replay(path, ingest)
    assert (ended.status, report["delivered"], report["left"], len(ingest.asked)) == (0, 0, 0, 25)


def test_without_an_ingest_it_goes_beside_the_spool(tmp_path: Path) -> None:
    """As the daemon does: JSON lines in the directory `batches`."""
    path = _spool(tmp_path / "spool")
    assert run("replay-spool", "--set", f"output.spool_dir={path}").status == 0
    assert sorted(str(line["batch_id"]) for line in lines_of(tmp_path / "batches")) == [
        batch_id_of(n) for n in range(5)
    ]


def test_dry_run_sends_nothing(tmp_path: Path, ingest: Ingest) -> None:
    """It says how many; status 1, since they are left to be sent."""
    path = _spool(tmp_path / "spool")
    ended, report = _replay(path, ingest, "--dry-run")
    assert (ended.status, report["would_send"], report["left"], ingest.asked) == (1, 5, 5, [])
    assert len(_ready(path)) == 5


def test_keep_leaves_what_was_sent(tmp_path: Path, ingest: Ingest) -> None:
    """All are sent and all stay; the next run sends them again, with the same keys."""
    path = _spool(tmp_path / "spool")
    for _ in range(2):
        ended, report = _replay(path, ingest, "--keep")
        assert (ended.status, report["delivered"], report["left"]) == (0, 5, 0)
    assert len(_ready(path)) == 5
    assert sorted(ingest.asked) == sorted([batch_id_of(number) for number in range(5)] * 2)


def test_the_dead_are_sent_when_asked(tmp_path: Path, ingest: Ingest) -> None:
    """--dead sends those too; what is refused again stays there with its reason, and the rest is gone."""
    path = _spool(tmp_path / "spool", 4)
    with Spool(path) as spool:
        for name in spool.ready(limit=2):
            claim = spool.claim(name)
            assert claim is not None
            with claim:
                claim.bury({"detail": "HTTP 400", "attempts": 3})
    ingest.script = lambda key: (400, {}) if key == batch_id_of(1) else (201, {})
    _, report = _replay(path, ingest)
    assert (report["delivered"], report["left"]) == (2, 0)
    ended, report = _replay(path, ingest, "--dead")
    assert (ended.status, report["delivered"], report["left"]) == (1, 1, 1)
    assert [(each["place"], each["fate"]) for each in report["errors"]] == [("dead", "refused")]
    with Spool(path) as spool:
        [name] = spool.names(Place.DEAD, limit=9)
        assert (name.batch_id, json.loads(spool.why(name))["attempts"]) == (batch_id_of(1), 3)


def test_only_what_was_begun_in_the_window_is_sent(tmp_path: Path, ingest: Ingest) -> None:
    """--since and --until take an age and a time."""
    now = time.time()
    with Spool(tmp_path / "spool", reserve_bytes=0, reserve_files=0) as spool:
        ids = [new_batch_id(now - hours * 3600) for hours in (30, 5, 1)]
        for batch_id in ids:
            spool.write(batch_id, b'{"batch_id":"%s"}' % batch_id.encode())
    _, report = _replay(tmp_path / "spool", ingest, "--since", "24h", "--until", "2h", "--keep")
    assert (ingest.asked, report["left"]) == ([ids[1]], 0)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 7200))
    _replay(tmp_path / "spool", ingest, "--since", moment)
    assert ingest.asked == [ids[1], ids[2]]
    assert len(_ready(tmp_path / "spool")) == 2


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "-5h", ""])
def test_what_is_no_time_is_wrong_usage(tmp_path: Path, text: str) -> None:
    """Status 2, with both forms."""
    ended = run("replay-spool", "--dir", tmp_path, "--since", text)
    assert (ended.status, "2h" in ended.stderr) == (2, True)


def test_a_rate_is_kept(tmp_path: Path, ingest: Ingest) -> None:
    """--rate 20: eleven batches take half a second."""
    path = _spool(tmp_path / "spool", 11)
    moments: list[float] = []
    ingest.script = lambda _key: moments.append(time.monotonic()) or (201, {})  # type: ignore[func-returns-value]
    _replay(path, ingest, "--rate", "20")
    assert moments[-1] - moments[0] >= 0.45


def test_what_is_refused_is_left_with_the_reason(tmp_path: Path, ingest: Ingest) -> None:
    """The rest is sent; status 1; nothing is parked by a replay."""
    path = _spool(tmp_path / "spool", 6)
    ingest.script = lambda key: (422, {}) if key == batch_id_of(2) else (201, {})
    ended, report = _replay(path, ingest)
    assert (ended.status, report["delivered"], report["left"]) == (1, 5, 1)
    [error] = report["errors"]
    assert (error["fate"], batch_id_of(2) in error["file"], "422" in error["detail"]) == ("refused", True, True)
    assert len(_ready(path)) == 1
    assert list((path / "dead").iterdir()) == []


def test_an_endpoint_that_is_down_is_given_up_soon(tmp_path: Path) -> None:
    """After a few failures it ends with the reason, and everything is still there."""
    path = _spool(tmp_path / "spool", 30)
    begun = time.monotonic()
    ended = run("replay-spool", "--dir", path, "--to", "http://127.0.0.1:9/")
    assert time.monotonic() - begun < 20
    assert (ended.status, len(_ready(path))) == (1, 30)
    assert "left: 30" in ended.stdout.decode()
    assert "refused" in ended.stdout.decode()


def test_wrong_credentials_end_it_at_once(tmp_path: Path, ingest: Ingest) -> None:
    """401: one look is enough; everything stays, and the reason is named."""
    path = _spool(tmp_path / "spool", 30)
    ingest.script = lambda _key: (401, {})
    ended, report = _replay(path, ingest)
    assert (ended.status, report["left"], "401" in report["reason"]) == (1, 30, True)
    assert len(ingest.asked) <= 4


def test_a_busy_endpoint_is_waited_for(tmp_path: Path, ingest: Ingest) -> None:
    """429 with Retry-After 1 is obeyed, and then all is sent."""
    path = _spool(tmp_path / "spool", 8)
    first: list[float] = []

    def script(_key: str) -> Answer:
        if not first:
            first.append(time.monotonic())
            return 429, {"Retry-After": "1"}
        return (201, {})

    ingest.script = script
    ended, report = _replay(path, ingest, "--set", "output.concurrency=1")
    assert (ended.status, report["delivered"]) == (0, 8)
    assert time.monotonic() - first[0] >= 1


def test_damaged_files_are_named_and_moved(tmp_path: Path, ingest: Ingest) -> None:
    """They go to bad/, the others are sent; status 1 once, and 0 when the rest is gone."""
    path = _spool(tmp_path / "spool", 4)
    damaged = path / _ready(path)[1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    ended, report = _replay(path, ingest)
    assert (ended.status, report["delivered"], report["damaged"], report["left"]) == (1, 3, 1, 0)
    assert (report["errors"][0]["file"], report["errors"][0]["fate"]) == (damaged.name, "bad")
    assert (path / "bad" / damaged.name).exists()
    assert _replay(path, ingest)[0].status == 0


def test_a_directory_made_by_hand_is_a_spool(tmp_path: Path, ingest: Ingest) -> None:
    """Batch files that were copied somewhere are sent from there."""
    origin = _spool(tmp_path / "origin", 3)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in _ready(origin):
        (copy / name).write_bytes((origin / name).read_bytes())
    (copy / "notes.txt").write_text("mine")
    ended, report = _replay(copy, ingest)
    assert (ended.status, report["delivered"], _ready(copy)) == (0, 3, [])
    assert (copy / "notes.txt").exists()


def test_headers_are_for_the_place_of_the_settings_alone(tmp_path: Path, ingest: Ingest) -> None:
    """A token of output.headers is not sent to another place by --to; to the same place it is."""
    path = _spool(tmp_path / "spool", 1)
    config = tmp_path / "s.yaml"
    config.write_text("output: {ingest: 'https://ingest.example/', headers: {Authorization: Bearer secret-token}}")
    ended, _ = _replay(path, ingest, "--keep", "--config", config)
    assert "authorization" not in ingest.headers[0]
    assert "are not sent elsewhere" in ended.stderr
    config.write_text(f"output: {{ingest: '{ingest.url}x', headers: {{Authorization: Bearer secret-token}}}}")
    _replay(path, ingest, "--config", config)
    assert ingest.headers[1]["authorization"] == "Bearer secret-token"


# --- beside a running shipper


def test_what_a_running_shipper_holds_is_not_sent(tmp_path: Path, ingest: Ingest) -> None:
    """A batch in the middle of a sending is left to its holder, and named; all others are sent."""
    path = _spool(tmp_path / "spool", 5)
    go_on = threading.Event()

    class Slow:
        def send(self, _batch_id: str, _payload: bytes) -> Delivery:
            go_on.wait(30)
            return DELIVERED

        def close(self) -> None:
            pass

    with Spool(path) as spool:  # as the daemon owns it
        shipper = Shipper(spool, Slow(), concurrency=1)
        shipper.start()
        thread = started(shipper.run_pass)
        wait_until(lambda: shipper.statistics().in_flight)
        ended, report = _replay(path, ingest)
        assert (ended.status, report["delivered"], report["left"]) == (1, 4, 1)
        assert report["errors"][0]["fate"] == "elsewhere"
        assert batch_id_of(0) not in ingest.asked
        go_on.set()
        thread.join(10)
        shipper.stop()
        assert shipper.join(10) == 0
    assert _ready(path) == []


def test_a_daemon_and_two_replays_send_each_batch_once(tmp_path: Path, ingest: Ingest) -> None:
    """While a shipper is at work two replays run; every batch is sent by one of them."""
    path = _spool(tmp_path / "spool", 300)
    mine: list[str] = []

    class Own:
        def send(self, batch_id: str, _payload: bytes) -> Delivery:
            mine.append(batch_id)
            time.sleep(0.005)
            return DELIVERED

        def close(self) -> None:
            pass

    running = [start("replay-spool", "--dir", path, "--to", ingest.url) for _ in range(2)]
    wait_until(lambda: ingest.asked)
    with Spool(path) as spool:
        shipper = Shipper(spool, Own(), concurrency=2)
        shipper.start()
        shipper.run_pass()
        for process in running:
            assert finish(process).status == 0
        shipper.run_pass()
        shipper.stop()
        assert shipper.join(10) == 0
    assert sorted(mine + ingest.asked) == [batch_id_of(number) for number in range(300)]


# --- how it stops


def test_ctrl_c_stops_after_what_is_being_sent(tmp_path: Path, ingest: Ingest) -> None:
    """What was answered is gone, the rest is there, status 1; the next run sends the rest and nothing twice."""
    path = _spool(tmp_path / "spool", 200)
    ingest.script = lambda _key: time.sleep(0.02) or (201, {})  # type: ignore[func-returns-value]
    process = start("replay-spool", "--dir", path, "--to", ingest.url)
    wait_until(lambda: len(ingest.asked) > 10)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.status, "stopped" in ended.stdout.decode()) == (1, True)
    assert 0 < len(_ready(path)) < 190
    ingest.script = lambda _key: (201, {})
    assert _replay(path, ingest)[0].status == 0
    assert sorted(ingest.asked) == [batch_id_of(number) for number in range(200)]


def test_a_second_ctrl_c_cuts_off(tmp_path: Path, ingest: Ingest) -> None:
    """An endpoint that never answers holds nobody after the second one."""
    path = _spool(tmp_path / "spool", 5)
    go_on = threading.Event()
    ingest.script = lambda _key: (201, {}) if go_on.wait(60) else (500, {})
    process = start("replay-spool", "--dir", path, "--to", ingest.url)
    try:
        wait_until(lambda: ingest.asked)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # a signal that comes while one is pending is lost
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert finish(process, 15).status == 1
    finally:
        go_on.set()
    assert len(_ready(path)) == 5


def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, ingest: Ingest) -> None:
    """Killed over and over, it sends everything in the end; what comes twice has the same key."""
    path = _spool(tmp_path / "spool", 150)
    ingest.script = lambda _key: time.sleep(0.01) or (201, {})  # type: ignore[func-returns-value]
    for _ in range(4):
        process = start("replay-spool", "--dir", path, "--to", ingest.url)
        before = len(ingest.asked)
        wait_until(lambda before=before: len(ingest.asked) > before + 7)  # type: ignore[misc]
        process.kill()
        finish(process)
    assert _replay(path, ingest)[0].status == 0
    assert sorted(ingest.taken) == [batch_id_of(number) for number in range(150)]
    assert len(ingest.asked) <= 150 + 4 * 4
    assert _ready(path) == []


# --- usage and settings


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--to", "gopher://x/"), 2, "--to"),
        (("--to", "http://user:pass@127.0.0.1/"), 2, "--to"),
        (("--to", "stdout:", "--json"), 2, "--json"),
        (("--rate", "0"), 2, "--rate"),
        (("--set", "output.ingest=nonsense"), 78, "output.ingest"),
        (("--set", "output.spool_dir=/nowhere/at/all"), 78, "output.spool_dir"),
        (("--dir", "/nowhere/at/all"), 2, "--dir"),
        (("--config", "/nowhere/at/all"), 78, "/nowhere"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    """Status 2 for the command line, 78 for the settings; nothing is sent or moved."""
    path = _spool(tmp_path / "spool", 1)
    here = () if any("dir" in each for each in arguments) else ("--dir", str(path))
    ended = run("replay-spool", *here, *arguments)
    assert (ended.status, words in ended.stderr) == (status, True), ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(_ready(path)) == 1


def test_a_key_that_is_no_key_is_bad_settings(tmp_path: Path, pem: Path) -> None:
    """A client certificate that cannot be loaded: status 78, and the spool untouched."""
    path = _spool(tmp_path / "spool", 1)
    settings = (f"output.mtls_cert={pem}", f"output.mtls_key={pem}", "output.ingest=https://127.0.0.1:9/")
    ended = run("replay-spool", "--dir", path, *(word for each in settings for word in ("--set", each)))
    assert (ended.status, "output.mtls_cert" in ended.stderr) == (78, True)
    assert len(_ready(path)) == 1


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A file that is no certificate."""
    path = tmp_path / "x.pem"
    path.write_text("no certificate")
    return path


def test_batches_on_standard_output_stay_alone_there(tmp_path: Path) -> None:
    """--to stdout: prints the batches there, and the summary on standard error."""
    path = _spool(tmp_path / "spool", 3)
    ended = run("replay-spool", "--dir", path, "--to", "stdout:", "--keep")
    assert sorted(batch["batch_id"] for batch in ended.batches) == [batch_id_of(number) for number in range(3)]
    assert "sent 3 batches" in ended.stderr


def test_a_terminal_shows_progress(tmp_path: Path, ingest: Ingest) -> None:
    """A bar on standard error when it is a terminal."""
    path = _spool(tmp_path / "spool", 40)
    ingest.script = lambda _key: time.sleep(0.05) or (201, {})  # type: ignore[func-returns-value]
    master, slave = pty.openpty()
    process = start("replay-spool", "--dir", path, "--to", ingest.url, stderr=slave)
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65536):
            seen += chunk
    except OSError:  # the other side is closed
        pass
    os.close(master)
    assert finish(process).status == 0
    assert b"sending" in seen
    assert b"/40" in seen


# --- SPYDER's own spool


def _go_batch(number: int) -> dict[str, Any]:
    """Return a batch as SPYDER's Go encoder writes it: lists that are empty are null, times have nanoseconds."""
    seen = "2026-01-01T00:00:00.123456789Z"
    host = f"h{number}.example.com"
    return {
        "probe_id": "go-1",
        "run_id": "run-1767225600",
        "nodes_domain": [{"host": host, "apex": "example.com", "first_seen": seen, "last_seen": seen}],
        "nodes_ip": None,
        "nodes_cert": None,
        "edges": [
            {"type": "USES_NS", "source": host, "target": "ns.example.com", "observed_at": seen}
            | {"probe_id": "go-1", "run_id": "run-1767225600"}
        ],
    }


def _go_spool(path: Path, count: int = 3) -> Path:
    path.mkdir(exist_ok=True)
    for number in range(count):
        text = json.dumps(_go_batch(number), separators=(",", ":")) + "\n"
        (path / f"20260101T00000{number}.123456789.json").write_text(text)
    return path


def test_spyders_files_are_sent_in_our_schema(tmp_path: Path, ingest: Ingest) -> None:
    """What they have is kept; null is empty, and what is missing is added; the files are gone."""
    path = _go_spool(tmp_path / "go")
    ended, report = _replay(path, ingest)
    assert (ended.status, report["delivered"], _ready(path)) == (0, 3, [])
    batch = ingest.taken[ingest.asked[0]]
    own = _go_batch(int(batch["nodes_domain"][0]["host"][1]))
    assert {key: batch[key] for key in ("probe_id", "run_id", "nodes_domain", "edges")} == {
        key: own[key] for key in ("probe_id", "run_id", "nodes_domain", "edges")
    }
    assert (batch["nodes_ip"], batch["nodes_cert"], batch["outcomes"]) == ([], [], [])
    assert (batch["schema_version"], batch["batch_id"]) == (1, ingest.asked[0])
    assert batch["timestamp"].startswith("2026-01-01T00:00:0")
    assert list(path.iterdir()) == []


def test_the_reference_receiver_takes_spyders_batches(tmp_path: Path) -> None:
    """They are valid by the published schema."""
    from spyder.outbox.receiver import checked

    for number in range(3):
        content = json.dumps(_go_batch(number)).encode()
        batch_id, payload = from_spyder("20260101T000000.123456789.json", content)
        assert checked(payload, batch_id) == batch_id
        assert Name.parse(str(Name.of(batch_id, payload)))


def test_a_second_replay_has_the_same_keys(tmp_path: Path, ingest: Ingest) -> None:
    """The id is made of the content: kept files, and files that are copied elsewhere, come under the same keys."""
    path = _go_spool(tmp_path / "go")
    _replay(path, ingest, "--keep")
    _replay(_go_spool(tmp_path / "other"), ingest)
    assert len(ingest.asked) == 6
    assert len(set(ingest.asked)) == 3


def test_damaged_files_of_spyder_are_named_and_left(tmp_path: Path, ingest: Ingest) -> None:
    """Cut short, empty, no batch, a list that is none, a link, a time that is none: the others are sent; status 1."""
    path = _go_spool(tmp_path / "go", 2)
    whole = json.dumps(_go_batch(7)).encode()
    bad = {
        "20260102T000001.000000000.json": whole[:-20],
        "20260102T000002.000000000.json": b"",
        "20260102T000003.000000000.json": b'{"a":1}',
        "20260102T000004.000000000.json": b'{"edges":{}}',
        "20261302T000005.000000000.json": whole,
    }
    for name, content in bad.items():
        (path / name).write_bytes(content)
    (path / "20260102T000006.000000000.json").symlink_to("/etc/hostname")
    (path / "other.json").write_bytes(whole)
    ended, report = _replay(path, ingest)
    assert (ended.status, report["delivered"], report["left"]) == (1, 2, 6)
    assert sorted(each["file"] for each in report["errors"]) == sorted([*bad, "20260102T000006.000000000.json"])
    assert len(_ready(path)) == 7


def test_a_spool_that_both_have_used_is_emptied(tmp_path: Path, ingest: Ingest) -> None:
    """Files of SPYDER beside ours, as after a change of program in place: all are sent."""
    path = _go_spool(_spool(tmp_path / "spool", 4))
    ended, report = _replay(path, ingest)
    assert (ended.status, report["delivered"], _ready(path)) == (0, 7, [])


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b'{"edges":1}', b'{"edges":[]', b"\xff", b'{"edges":[]}' * 2, b"[" * 100_000, b'{"x":1}'],
)
def test_what_is_no_batch_of_spyders_is_a_bad_file(content: bytes) -> None:
    """Whatever a file holds: a batch, or `BadFile`."""
    with pytest.raises(BadFile):
        from_spyder("20260101T000000.123456789.json", content)


def test_an_id_that_is_there_is_kept() -> None:
    """A batch that has an id of ours, a timestamp and outcomes keeps them; an id that is none is replaced."""
    own: dict[str, Any] = {
        "batch_id": batch_id_of(5),
        "timestamp": "2025-01-01T00:00:00Z",
        "outcomes": [],
        "edges": None,
    }
    batch_id, payload = from_spyder("20260101T000000.123456789.json", json.dumps(own).encode())
    assert (batch_id, json.loads(payload)["timestamp"]) == (batch_id_of(5), "2025-01-01T00:00:00Z")
    for wrong in ("../../x", "x\r\nHost: y", "", 5, ["a"]):
        batch_id, payload = from_spyder(
            "20260101T000000.123456789.json", json.dumps(own | {"batch_id": wrong}).encode()
        )
        assert Name.of(batch_id, payload).batch_id == json.loads(payload)["batch_id"] == batch_id
