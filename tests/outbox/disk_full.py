"""The disk-full story: no room for another batch, so the intake stops, loses nothing, and goes on by itself.

    python -m tests.outbox.disk_full cap|disk [--hosts N]

`spyderctl probe` works through a lab while its ingest endpoint is away, until the spool may take no more: by
`output.spool_max_bytes` (cap), or since the file system has no more than the reserve left (disk: a small tmpfs, which
is mounted, so run it under `unshare -m` as root). When nothing has moved for a while the endpoint comes, and takes all.
Exit status 0 if every edge is there, once, and nobody had to help.
"""
# ruff: noqa: T201

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from spyder.lab import Lab
from spyder.outbox.spool import RESERVE_BYTES
from tests.cli.spyderctl import start
from tests.outbox.outage import Endpoint

_ROOM_BYTES: Final = 200_000
"""For some forty batches of fifty edges."""
_LIMIT_S: Final = 60.0
_STILL_S: Final = 1.0
_POLL_S: Final = 0.1
_WAITS: Final = "intake waits, nothing is lost"
_GOES_ON: Final = "intake goes on"


@dataclass(frozen=True)
class Story:
    """What happened."""

    hosts: int
    probed_when_full: int
    """Hosts that had been visited when the intake had stopped."""
    spooled_files: int
    spooled_bytes: int
    lines_when_full: tuple[str, ...]
    """What the probe had said until then."""
    waits: int
    """Times that it began to wait, over the whole run."""
    goes_on: int
    goes_on_after_s: float
    """From the endpoint's start to the line that says so."""
    status: int
    twice: int
    missing: int
    unexpected: int
    without_outcome: int

    @property
    def is_whole(self) -> bool:
        """Whether everything is there, once."""
        return not (self.status or self.twice or self.missing or self.unexpected or self.without_outcome)

    def __str__(self) -> str:
        return (
            f"{self.hosts} hosts; intake stopped after {self.probed_when_full} visits with {self.spooled_files} "
            f"batches ({self.spooled_bytes} bytes) in the spool and {len(self.lines_when_full)} lines said; went on "
            f"{self.goes_on_after_s:.1f} s after the endpoint came; waited {self.waits} times, went on {self.goes_on} "
            f"times; status {self.status}; {self.twice} batch ids twice, {self.missing} edges missing, "
            f"{self.unexpected} not expected, {self.without_outcome} hosts without one outcome"
        )


def tell(directory: Path, *, by: Literal["cap", "disk"], hosts: int) -> Story:
    """Let it happen in a directory."""
    endpoint, spool = Endpoint(directory / "received"), directory / "disk" / "spool"
    spool.parent.mkdir()
    if by == "disk":
        # the settings allow more than there is; the reserve is the one that every installation has
        options = f"size={(RESERVE_BYTES + _ROOM_BYTES) // 1024}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", spool.parent], check=True)
    with Lab(directory / "lab", sites=hosts) as lab:
        endpoint.up()  # for its address
        endpoint.down()
        settings = {
            "output.ingest": endpoint.url,
            "output.spool_dir": spool,
            "output.spool_max_bytes": _ROOM_BYTES if by == "cap" else 10 * RESERVE_BYTES,
            "crawling.concurrency": 16,
            "batch.max_edges": 50,
            "batch.flush_interval": 0.2,
        }
        given = (word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
        probe = start("probe", "-q", "-f", lab.hosts_path, "--config", lab.settings_path, *given)
        said: list[tuple[float, str]] = []
        listener = threading.Thread(target=_listen, args=(probe, said), daemon=True)
        listener.start()
        try:
            _wait(lambda: any(_WAITS in line for _, line in said))
            visits = _wait_until_still(lab)
            files = list(spool.glob("*.json"))
            sizes = sum(path.stat().st_size for path in files)
            lines = tuple(line for _, line in said)
            come = time.monotonic()
            endpoint.up()
            status = probe.wait(_LIMIT_S)
            listener.join(5)
        finally:
            probe.kill()
            probe.communicate()
            endpoint.down()
        expected, all_hosts = lab.expected.edges, lab.hosts
    batches = endpoint.batches()
    edges = {(edge["source"], edge["type"], edge["target"]) for batch in batches for edge in batch["edges"]}
    outcomes = Counter(dict.fromkeys(all_hosts, 0))
    outcomes.update(outcome["host"] for batch in batches for outcome in batch["outcomes"])
    return Story(
        hosts=hosts,
        probed_when_full=visits,
        spooled_files=len(files),
        spooled_bytes=sizes,
        lines_when_full=lines,
        waits=sum(_WAITS in line for _, line in said),
        goes_on=sum(_GOES_ON in line for _, line in said),
        goes_on_after_s=min((moment - come for moment, line in said if _GOES_ON in line), default=float("nan")),
        status=status,
        twice=sum(times > 1 for times in Counter(batch["batch_id"] for batch in batches).values()),
        missing=len(expected - edges),
        unexpected=len(edges - expected),
        without_outcome=sum(times != 1 for times in outcomes.values()),
    )


def _listen(probe: subprocess.Popen[bytes], said: list[tuple[float, str]]) -> None:
    assert probe.stderr is not None
    said.extend((time.monotonic(), line.decode().rstrip()) for line in probe.stderr)


def _wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < end, "the intake does not stop"
        time.sleep(_POLL_S)


def _wait_until_still(lab: Lab) -> int:
    """Wait until no host has been visited for a while; return how many were."""
    visited, since = -1, time.monotonic()
    end = since + _LIMIT_S
    while time.monotonic() - since < _STILL_S:
        assert time.monotonic() < end, "the intake does not stop"
        time.sleep(_POLL_S)
        asked = lab.counters()["dns_udp"]
        now = sum(f"{host} A" in asked for host in lab.hosts)
        if now != visited:
            visited, since = now, time.monotonic()
    return visited


def main() -> int:
    """Tell the story, and print its figures."""
    parser = argparse.ArgumentParser(prog="disk_full", description="A spool that may take no more.")
    parser.add_argument("by", choices=["cap", "disk"], help="what is reached: output.spool_max_bytes, or the reserve")
    parser.add_argument("--hosts", type=int, default=600, help="hosts of the lab (default: 600)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spyder-full-") as directory:
        try:
            story = tell(Path(directory), by=given.by, hosts=given.hosts)
        finally:
            if given.by == "disk":
                subprocess.run(["umount", Path(directory, "disk")], check=False)
    print(story)
    for line in story.lines_when_full:
        print("said:", line)
    waited_and_went_on = 0 < story.waits == story.goes_on and story.probed_when_full < story.hosts
    said_once = sum(_WAITS in line for line in story.lines_when_full) == 1
    return 0 if story.is_whole and waited_and_went_on and said_once else 1


if __name__ == "__main__":
    sys.exit(main())
