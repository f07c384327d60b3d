"""The lab as a whole: the process that serves it, and the face that tests and users hold.

`serve` is all of that process: one thread, one event loop. `Lab` starts it as a child, so that what is measured of
the probe is the probe's alone; a `Lab` belongs to the thread that made it.
"""

import asyncio
import contextlib
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spyder.lab.ca import Authority
from spyder.lab.counters import Counters
from spyder.lab.dns_server import NameServer
from spyder.lab.records import Edge, Site, edges
from spyder.lab.sites import make_sites, real_page_sites
from spyder.lab.web_server import WebServer, bind_together

START_BUDGET_S = 60.0
STOP_BUDGET_S = 5.0
CONTROL_BUDGET_S = 10.0

SETTINGS = """\
# The settings that point the probe at this lab.
ua: "SPYDERProbe/1.0 (+https://example.org/lab)"
dns:
  nameservers: ["127.0.0.1:{dns}"]
  timeout: 2s
  retries: 1
http_client:
  ca_bundle: {ca_bundle}
  port_https: {https}
  port_http: {http}
crawling:
  allow_addresses: ["127.0.0.0/8", "::1/128"]
  rate_per_host: 1000
  rate_burst: 1000
"""


async def serve(
    directory: Path,
    *,
    sites: int,
    seed: int = 1,
    traits: Sequence[str] = (),
    pages: Path | None = None,
    with_parent: bool = False,
) -> None:
    """Serve a lab until SIGTERM or SIGINT, and print one line when it is ready.

    Writes into `directory`, which exists: `ca.pem`, `spyder.yaml` (settings for the probe), `hosts.txt`,
    `expected.json` and `control` (ports, and the URL of the counters). `with_parent` ends it also when standard
    input does.
    """
    _raise_file_limit()
    population = make_sites(sites, seed, traits) + (real_page_sites(pages, seed) if pages else [])
    authority, counters = Authority(seed), Counters()
    scratch = directory / ".leaf.pem"
    nameserver = NameServer(population, counters)
    web = WebServer(population, authority, scratch, counters, nameserver.drain)
    control, control_port = await _control(counters)
    dns_port, web_ports = await nameserver.start(), await web.start()
    ports = {"dns": dns_port, "https": web_ports["https"], "http": web_ports["http"], "control": control_port}
    _write(directory, population, authority, ports)
    gc.freeze()
    stopped = asyncio.Event()
    _stop_on_signals(stopped, with_parent=with_parent)
    print(f"lab ready: {len(population)} hosts, DNS on 127.0.0.1:{dns_port}, files in {directory}", flush=True)  # noqa: T201 - its result
    await stopped.wait()
    control.close()
    nameserver.stop()
    web.stop()
    scratch.unlink(missing_ok=True)


def _write(directory: Path, sites: Sequence[Site], authority: Authority, ports: dict[str, int]) -> None:
    found: set[Edge] = set()
    for site in sites:
        found |= edges(site, authority.spki_sha256)
    expected = {
        "edges": sorted(found),
        "outcomes": {
            site.host: {
                "dns": site.outcome.dns,
                "robots": site.outcome.robots,
                "http": site.outcome.http,
                "tls": site.outcome.tls,
            }
            for site in sites
        },
        "healthy": [site.host for site in sites if site.healthy],
        "traits": {site.host: site.trait for site in sites},
    }
    ca_bundle = directory.resolve() / "ca.pem"
    ca_bundle.write_bytes(authority.root_pem)
    settings = SETTINGS.format(ca_bundle=json.dumps(str(ca_bundle)), **ports)
    (directory / "spyder.yaml").write_text(settings)
    (directory / "hosts.txt").write_text("".join(f"{site.host}\n" for site in sites))
    (directory / "expected.json").write_text(json.dumps(expected, indent=0))
    control = {"url": f"http://127.0.0.1:{ports['control']}", "pid": os.getpid(), "ports": ports}
    (directory / "control").write_text(json.dumps(control))


async def _control(counters: Counters) -> tuple[asyncio.Server, int]:
    """Serve `GET /counters` and `POST /clear` on a port of their own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            body = json.dumps(counters.as_json()).encode()
            if head.startswith(b"POST /clear "):
                counters.clear()
            known = head.startswith((b"GET /counters ", b"POST /clear "))
            status, body = ("200 OK", body) if known else ("404 Not Found", b"{}")
            fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    (bound,) = bind_together(("127.0.0.1",))
    return await asyncio.start_server(answer, sock=bound), int(bound.getsockname()[1])


def _stop_on_signals(stopped: asyncio.Event, *, with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if with_parent:
        loop.add_reader(sys.stdin.fileno(), stopped.set)  # the parent writes nothing: this is the end


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run over all hosts of a lab must yield."""

    edges: frozenset[Edge]
    """Source, type, target: these and no other of the six types."""
    outcomes: dict[str, dict[str, str]]
    """By host: how the stages `dns`, `robots`, `http` and `tls` end."""
    healthy: frozenset[str]
    """Hosts that cost one TCP connection and one TLS handshake."""
    traits: dict[str, str]
    """By host: what it is like (`spyder.lab.traits`)."""


class Lab:
    """A lab in a process of its own, for as long as it is entered (or between `start` and `stop`).

    `traits` limits it to some kinds of sites, evenly; `pages` is a folder of real pages to serve as well. The child
    ends with its parent, however that ends.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        sites: int = 250,
        seed: int = 1,
        traits: Sequence[str] = (),
        pages: Path | str | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.settings_path = self.directory / "spyder.yaml"
        self.hosts_path = self.directory / "hosts.txt"
        self.ca_path = self.directory / "ca.pem"
        self.hosts: tuple[str, ...] = ()
        self.ports: dict[str, int] = {}
        """By `dns`, `https`, `http` and `control`."""
        self.expected = Expected(frozenset(), {}, frozenset(), {})
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments = ["--sites", str(sites), "--seed", str(seed), "--dir", str(self.directory)]
        for trait in traits:
            self._arguments += ["--trait", trait]
        if pages is not None:
            self._arguments += ["--pages", str(pages)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers and wait until they serve. Raises `RuntimeError`, with the child's own words."""
        if self._process is not None:
            raise RuntimeError("the lab has been started already")
        self.directory.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with (self.directory / "lab.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", "spyder.lab", "serve", "--with-parent", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )
        try:
            self._await_ready(self._process)
            self._load()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the servers, gently if they listen. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_BUDGET_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what the servers counted (`spyder.lab.counters.Counters` says what stands under which name)."""
        return self._ask("/counters", "GET")

    def clear_counters(self) -> dict[str, dict[str, int]]:
        """Return what the servers counted, and begin anew."""
        return self._ask("/clear", "POST")

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_BUDGET_S)
        if not ready or not process.stdout.readline():
            log = (self.directory / "lab.log").read_text(errors="replace")
            raise RuntimeError(f"the lab did not start: {log[-2000:]}")

    def _load(self) -> None:
        self.ports = json.loads((self.directory / "control").read_bytes())["ports"]
        self.hosts = tuple(self.hosts_path.read_text().split())
        found: dict[str, Any] = json.loads((self.directory / "expected.json").read_bytes())
        self.expected = Expected(
            edges=frozenset((source, kind, target) for source, kind, target in found["edges"]),
            outcomes=found["outcomes"],
            healthy=frozenset(found["healthy"]),
            traits=found["traits"],
        )

    def _ask(self, path: str, method: str) -> dict[str, dict[str, int]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['control']}{path}", method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=CONTROL_BUDGET_S) as answer:
            counted: dict[str, dict[str, int]] = json.load(answer)
        return counted
