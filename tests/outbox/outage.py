"""The outage story: the ingest endpoint is down for a while in the middle of a run, and nothing is missing after it.

    python -m tests.outbox.outage [--hosts N] [--workers N] [--before S] [--down S]

`spyderctl probe` works through a lab whose name server is a quarter of a second away, so that the rate tells of the
probe and not of what else this machine does. It ships to `spyderctl receive`, which is killed after a while, and
started again on the same port. When the probe has ended, `spyderctl replay-spool` sends what may still wait. Then the
receiver's files are held against what the lab expects. When each host was probed is told by its outcome. Exit status 0
if all is there.
"""
# ruff: noqa: T201

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson

from spyder.lab import Lab
from tests.cli.spyderctl import Ended, finish, run, start

_LIMIT_S: Final = 900.0
_POLL_S: Final = 0.1
_FAR_S: Final = 0.25
_FORGET_S: Final = 2.0
"""How long after its question an answer is handed on."""
_WARM_UP_S: Final = 2.0
"""The first hosts pay for caches that are empty."""


@dataclass(frozen=True)
class Story:
    """What happened."""

    hosts: int
    before: float
    """Hosts a second until the outage."""
    during: float
    """Hosts a second while the endpoint was down."""
    after: float
    most_spooled: int
    """Batches that waited in the spool when the endpoint came back."""
    batches: int
    twice: int
    """Batch ids that are at the receiver more than once."""
    missing: int
    """Edges that the lab expects, and the receiver does not have."""
    unexpected: int
    without_outcome: int
    """Hosts that have no outcome, or more than one."""
    left_for_replay: int
    """Batches that `probe` left in the spool at its end."""
    probe: Ended
    replay: Ended

    @property
    def is_whole(self) -> bool:
        """Whether everything is there, once."""
        return not (self.twice or self.missing or self.unexpected or self.without_outcome or self.replay.status)

    def __str__(self) -> str:
        return (
            f"{self.hosts} hosts; {self.before:.1f} hosts/s before, {self.during:.1f} during the outage "
            f"({self.during / self.before:.0%}), {self.after:.1f} after; {self.most_spooled} batches waited when it "
            f"ended, {self.left_for_replay} were left for replay-spool; at the receiver {self.batches} batches, "
            f"{self.twice} ids twice, {self.missing} edges missing, {self.unexpected} not expected, "
            f"{self.without_outcome} hosts without one outcome"
        )


class _FarNameServer:
    """Hands questions on to the lab's name server, late. A context manager, with a thread of its own."""

    def __init__(self, port: int) -> None:
        self._behind = ("127.0.0.1", port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="far-name-server", daemon=True)
        self._ready = threading.Event()
        self._asking: set[socket.socket] = set()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        tcp = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = tcp.sockets[0].getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", self.port))
        udp.setblocking(False)
        self._loop.add_reader(udp, self._take, udp)
        self._ready.set()
        self._loop.run_forever()
        self._loop.remove_reader(udp)
        udp.close()
        tcp.close()
        for each in list(self._asking):
            self._forget(each)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _take(self, udp: socket.socket) -> None:
        question, client = udp.recvfrom(4096)
        behind = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        behind.setblocking(False)
        behind.connect(self._behind)
        self._asking.add(behind)
        self._loop.call_later(_FAR_S, behind.send, question)
        self._loop.add_reader(behind, self._give, udp, behind, client)
        self._loop.call_later(_FAR_S + _FORGET_S, self._forget, behind)

    def _give(self, udp: socket.socket, behind: socket.socket, client: tuple[str, int]) -> None:
        with suppress(OSError):
            udp.sendto(behind.recv(4096), client)

    def _forget(self, behind: socket.socket) -> None:
        self._asking.discard(behind)
        self._loop.remove_reader(behind)
        behind.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(*self._behind)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while part := await source.read(65536):
                    sink.write(part)
            sink.close()

        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))


class Endpoint:
    """`spyderctl receive`, which can be taken away and brought back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start it, where it was before."""
        address = self.url.removeprefix("http://").rstrip("/") or "127.0.0.1:0"
        self._process = start("receive", "--listen", address, "--dir", self.directory, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().split()[2].rstrip(";")

    def down(self) -> None:
        """Kill it; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def batches(self) -> list[dict[str, Any]]:
        """Return what it has."""
        files = sorted(self.directory.glob("batches-*.jsonl"))
        return [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]


def tell(directory: Path, *, hosts: int, workers: int, before_s: float, down_s: float, flush_s: float = 2.0) -> Story:
    """Let it happen in a directory; `before_s` after the first delivery the endpoint goes, `down_s` later it comes."""
    receiver, spool = Endpoint(directory / "received"), directory / "spool"
    with Lab(directory / "lab", sites=hosts) as lab, _FarNameServer(lab.ports["dns"]) as name_server:
        receiver.up()
        places = ("--set", f"output.ingest={receiver.url}", "--set", f"output.spool_dir={spool}")
        shared = ("--config", lab.settings_path, *places)
        pace = {
            "crawling.concurrency": workers,
            "batch.flush_interval": flush_s,
            "dns.nameservers": f"[127.0.0.1:{name_server.port}]",
            "dns.timeout": "1s",  # of each try, of which a silent server costs two
        }
        paced = (word for key, value in pace.items() for word in ("--set", f"{key}={value}"))
        probe = start("probe", "-q", "-f", lab.hosts_path, *shared, *paced)
        try:
            begun = _first_delivery(receiver, probe)
            time.sleep(before_s)
            receiver.down()
            gone = time.time()
            time.sleep(down_s)
            assert probe.poll() is None, "the probe had ended before the endpoint came back: take more hosts"
            most_spooled = _spooled(spool)
            back = time.time()
            receiver.up()
            ended = finish(probe, _LIMIT_S)
            finished = time.time()
            left = _spooled(spool)
            replay = run("replay-spool", *shared)
        finally:
            probe.kill()
            receiver.down()
        expected = lab.expected.edges
    batches = receiver.batches()
    outcomes = [outcome for batch in batches for outcome in batch["outcomes"]]
    edges = {(edge["source"], edge["type"], edge["target"]) for batch in batches for edge in batch["edges"]}
    times = [datetime.fromisoformat(outcome["observed_at"]).timestamp() for outcome in outcomes]

    def rate(since: float, until: float) -> float:
        return sum(since <= each < until for each in times) / (until - since)

    return Story(
        hosts=hosts,
        before=rate(begun + min(_WARM_UP_S, before_s / 4), gone),
        during=rate(gone, back),
        after=rate(back, max(times)) if max(times) > back else rate(back, finished),
        most_spooled=most_spooled,
        batches=len(batches),
        twice=sum(times > 1 for times in Counter(batch["batch_id"] for batch in batches).values()),
        missing=len(expected - edges),
        unexpected=len(edges - expected),
        without_outcome=sum(times != 1 for times in _outcomes_of(lab.hosts, outcomes).values()),
        left_for_replay=left,
        probe=ended,
        replay=replay,
    )


def _outcomes_of(hosts: tuple[str, ...], outcomes: list[dict[str, Any]]) -> Counter[str]:
    counts = Counter(dict.fromkeys(hosts, 0))
    counts.update(outcome["host"] for outcome in outcomes)
    return counts


def _first_delivery(receiver: Endpoint, probe: subprocess.Popen[bytes]) -> float:
    while not receiver.directory.is_dir() or not receiver.batches():
        assert probe.poll() is None, "the probe ended without a delivery"
        time.sleep(_POLL_S)
    return time.time()


def _spooled(spool: Path) -> int:
    return sum(not path.name.startswith(".") for path in spool.glob("*.json"))


def main() -> int:
    """Tell the story, and print its figures."""
    parser = argparse.ArgumentParser(prog="outage", description="An ingest endpoint that is down during a run.")
    parser.add_argument("--hosts", type=int, default=5000, help="hosts of the lab (default: 5000)")
    parser.add_argument("--workers", type=int, default=12, help="few, so that the run outlasts it (default: 12)")
    parser.add_argument("--before", type=float, default=30, help="seconds before the outage (default: 30)")
    parser.add_argument("--flush", type=float, default=2, help="batch.flush_interval in seconds (default: 2)")
    parser.add_argument("--down", type=float, default=60, help="seconds of outage (default: 60)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spyder-outage-") as directory:
        story = tell(
            Path(directory),
            hosts=given.hosts,
            workers=given.workers,
            before_s=given.before,
            down_s=given.down,
            flush_s=given.flush,
        )
    print(story)
    print(f"probe ended with status {story.probe.status}; it said: {story.probe.stderr.strip()}")
    return 0 if story.is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
