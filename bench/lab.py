"""The bench lab: N healthy sites in a network namespace of their own, a delay line away from the client's.

Two namespaces are made, one for the servers and one for the program under test, joined by `delayline.c` alone:
no packet can leave the machine, and the addresses cannot meet the machine's own. Every process is started
to die with this one, and a namespace goes with its last process, so that even `kill -9` leaves only files in /tmp.
Needs root, and nginx, nsd, cc, ip, nsenter, unshare and setpriv.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sites import CERTIFICATES_MAX, SITE_NETWORK, VARIANTS, host, sites_of_certificate

HERE = Path(__file__).parent
PROGRAMS = ("nginx", "nsd", "cc", "ip", "nsenter", "unshare", "setpriv")
CLIENT_ADDRESS = "10.213.0.1"
SERVER_ADDRESS = "10.213.0.2"
NAMESERVER = f"{SERVER_ADDRESS}:53"
STATUS_PORT = 8080
MTU_BYTES = 65_535
"""A page in one window, as one round trip of the budget assumes, and few packets for the delay line to carry."""
TUN_QUEUE_PACKETS = 50_000
START_BUDGET_S = 60.0
STOP_BUDGET_S = 5.0

NGINX_HEAD = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; use epoll; multi_accept on; }}
http {{
    access_log off;
    default_type text/html;
    types {{ text/html html; text/plain txt; }}
    charset utf-8;
    gzip off;
    keepalive_timeout 120s;
    open_file_cache max=4096 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_errors on;
    server_names_hash_max_size 262144;
    server_names_hash_bucket_size 128;
    client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp; fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;
    ssl_session_cache off;
    ssl_conf_command NumTickets 0;
    server {{ listen {server}:{status_port}; stub_status; }}
"""
NGINX_SITE = """\
    server {{
        listen 443 ssl{listen_options};
        listen 80{listen_options};
        server_name {names};
        ssl_certificate {folder}/certs/{number}.pem;
        ssl_certificate_key {folder}/certs/{number}.key;
        root {folder}/pages/{kind};
    }}
"""
NSD_HEAD = """\
server:
    ip-address: {server}
    server-count: 1
    username: ""
    zonesdir: "{folder}/zones"
    zonelistfile: "{folder}/zone.list"
    xfrdfile: ""
    xfrdir: "{folder}/tmp"
    pidfile: ""
    logfile: "{folder}/nsd.log"
    database: ""
    minimal-responses: yes
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    tcp-count: 1000
remote-control:
    control-enable: no
"""


class LabError(Exception):
    """The lab cannot be made on this machine; the message says why."""


@dataclasses.dataclass(frozen=True)
class Wire:
    """What the client has sent since the lab started, as counted on the wire and, for requests, by nginx."""

    dns_messages: int
    connections: int
    handshakes: int
    requests: int
    packets: int
    bytes: int
    refused: int

    def since(self, earlier: Wire) -> Wire:
        """The difference of two readings."""
        return Wire(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(earlier), strict=True)))


class Lab:
    """A running lab. `enter` is the argument prefix that starts a program in the client's namespace."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder = folder
        self.hosts_file = folder / "hosts.txt"
        self.ca_file = folder / "certs" / "ca.pem"
        self.expected_edges: dict[str, int] = {}
        self._hosts = hosts
        self._children: list[subprocess.Popen[str]] = []
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._line: subprocess.Popen[str] | None = None
        self._lab_pid = self._client_pid = 0
        self._status_reads = 0

    @property
    def enter(self) -> list[str]:
        """Command prefix: in the client's namespace, and ended with this process. Keeps the process id."""
        return self._inside(self._client_pid)

    def start(self) -> None:
        """Make the content, the namespaces, the line and the servers; returns when both servers answer.

        Raises:
            LabError: something is missing, or a server did not come up; the message holds its last words.
        """
        subprocess.run([sys.executable, HERE / "sites.py", self.folder, str(self._hosts)], check=True)
        (self.folder / "tmp").mkdir()
        self.expected_edges = json.loads((self.folder / "expected.json").read_text())
        self._lab_pid, self._client_pid = self._hold_namespace(), self._hold_namespace()
        self._start_line()
        self._configure_namespaces()
        self._write_configs()
        nginx = ["nginx", "-p", str(self.folder), "-c", f"{self.folder}/nginx.conf", "-e", f"{self.folder}/nginx.log"]
        nsd = ["nsd", "-d", "-c", f"{self.folder}/nsd.conf"]
        for command in (nginx, nsd):
            self._servers[command[0]] = self._spawn([*self._inside(self._lab_pid), *command])
        self._await_servers()

    def stop(self) -> None:
        """End every process of the lab; may be called twice."""
        for child in reversed(self._children):
            child.terminate()
        for child in self._children:
            try:
                child.wait(STOP_BUDGET_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()

    def set_round_trip(self, rtt_ms: float) -> None:
        """Let every packet take half of `rtt_ms` each way from now on."""
        self._ask_line(f"delay {round(rtt_ms * 1000 / 2)}")

    def wire(self) -> Wire:
        """Read the counters; the reading itself is not in them."""
        line = self._ask_line("stats")
        return Wire(
            dns_messages=line["dns_udp"] + line["dns_tcp"],
            connections=line["syn_http"] + line["syn_https"],
            handshakes=line["client_hellos"],
            requests=self._nginx_requests(),
            packets=line["packets"],
            bytes=line["bytes"],
            refused=line["refused"],
        )

    def cpu_s(self) -> dict[str, float]:
        """User plus system seconds so far of each server and of the line, children included."""
        return {
            name: sum(_cpu_s(pid) for pid in _family(child.pid))
            for name, child in {**self._servers, "line": self._require_line()}.items()
        }

    def _hold_namespace(self) -> int:
        script = (
            "set -e; for which in all default; do echo 1 > /proc/sys/net/ipv6/conf/$which/disable_ipv6; done; "
            "ip link set lo up; echo up; exec sleep infinity"
        )
        holder = self._spawn(["unshare", "--net", "sh", "-c", script])
        if _first_line(holder.stdout) != "up":
            raise LabError("cannot make a network namespace")
        return holder.pid

    def _start_line(self) -> None:
        program = self.folder / "delayline"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "delayline.c"], check=True)
        self._line = self._spawn([program, f"/proc/{self._client_pid}/ns/net", f"/proc/{self._lab_pid}/ns/net"])
        self._ask_line("stats")

    def _configure_namespaces(self) -> None:
        line_up = f"ip link set line0 mtu {MTU_BYTES} txqueuelen {TUN_QUEUE_PACKETS} up"
        # A socket of the client waits 60 s after its close: more ports leave room for many runs in a row.
        client = f"echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range; ip route add {SITE_NETWORK} dev line0"
        lab = (
            "echo 16384 > /proc/sys/net/core/somaxconn; echo 16384 > /proc/sys/net/ipv4/tcp_max_syn_backlog; "
            f"ip route add local {SITE_NETWORK} dev lo"
        )
        for pid, address, rest in ((self._client_pid, CLIENT_ADDRESS, client), (self._lab_pid, SERVER_ADDRESS, lab)):
            script = f"set -e; ip addr add {address}/25 dev line0; {line_up}; {rest}"
            subprocess.run([*self._inside(pid), "sh", "-c", script], check=True)

    def _write_configs(self) -> None:
        words = {"folder": self.folder, "server": SERVER_ADDRESS, "status_port": STATUS_PORT}
        with (self.folder / "nginx.conf").open("w") as nginx:
            nginx.write(NGINX_HEAD.format(**words))
            for number in range(min(self._hosts, CERTIFICATES_MAX)):
                names = " ".join(host(site) for site in sites_of_certificate(number, self._hosts))
                options = "" if number else " backlog=16384 default_server"
                nginx.write(
                    NGINX_SITE.format(
                        **words, number=number, kind=number % VARIANTS, names=names, listen_options=options
                    )
                )
            nginx.write("}\n")
        with (self.folder / "nsd.conf").open("w") as nsd:
            nsd.write(NSD_HEAD.format(**words))
            for site in range(self._hosts):
                name = host(site).removeprefix("www.")
                nsd.write(f'zone:\n    name: "{name}"\n    zonefile: "{site % VARIANTS}.zone"\n')

    def _await_servers(self) -> None:
        deadline = time.monotonic() + START_BUDGET_S
        probe = "import socket,sys; s=socket.socket(type=socket.SOCK_DGRAM); s.settimeout(.5); "
        probe += f"s.connect(('{SERVER_ADDRESS}',53)); s.send(bytes.fromhex(sys.argv[1])); s.recv(512); "
        probe += f"socket.create_connection(('{SERVER_ADDRESS}',443),1).close()"
        query = "00010000000100000000000005" + b"site0".hex() + "0474657374" + "0000020001"
        while True:
            asked = subprocess.run(
                [*self.enter, sys.executable, "-c", probe, query], capture_output=True, text=True, check=False
            )
            if asked.returncode == 0:
                return
            dead = [name for name, child in self._servers.items() if child.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "".join(_tail(self.folder / f"{name}.log") for name in dead or self._servers)
                raise LabError(f"{' and '.join(dead) or 'a server'} did not start:\n{logs}{asked.stderr}")
            time.sleep(0.1)

    def _nginx_requests(self) -> int:
        script = f"exec 3<>/dev/tcp/{SERVER_ADDRESS}/{STATUS_PORT}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        page = subprocess.run(
            [*self._inside(self._lab_pid), "bash", "-c", script], check=True, capture_output=True, text=True
        ).stdout
        self._status_reads += 1
        counters = page.partition("requests\n")[2].split()
        return int(counters[2]) - self._status_reads

    def _ask_line(self, words: str) -> dict[str, int]:
        line = self._require_line()
        assert line.stdin is not None
        line.stdin.write(words + "\n")
        line.stdin.flush()
        answer = _first_line(line.stdout)
        if not answer:
            raise LabError("the delay line has ended")
        counters: dict[str, int] = json.loads(answer)
        return counters

    def _require_line(self) -> subprocess.Popen[str]:
        assert self._line is not None, "start() was not called"
        return self._line

    def _inside(self, pid: int) -> list[str]:
        return ["setpriv", "--pdeathsig", "TERM", "nsenter", "--net", "--target", str(pid)]

    def _spawn(self, command: list[str | Path]) -> subprocess.Popen[str]:
        if command[0] != "setpriv":
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        # A session of its own: Ctrl-C is for run.py, which then stops the lab in order.
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._children.append(child)
        return child


@contextlib.contextmanager
def running(hosts: int) -> Iterator[Lab]:
    """A lab of `hosts` sites in a temporary directory; gone afterwards, whatever happened.

    Raises:
        LabError: not root, or a program is missing, or a server did not come up.
    """
    if os.geteuid() != 0:
        raise LabError("the bench lab needs root: it makes network namespaces and TUN devices")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)} (see bench/README.md)")
    folder = Path(tempfile.mkdtemp(prefix="spyder-bench-"))
    lab = Lab(folder, hosts)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-5:]) + "\n" if log.exists() else ""


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]


def _cpu_s(pid: int) -> float:
    """Time on a processor, from the scheduler's own nanosecond count (Documentation/scheduler/sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
