"""A few hosts on loopback whose every byte is the test's, and a prober that visits them.

DNS is a table; TCP, TLS and HTTP are real. One thread for each connection; all of them end with the world.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spyder.lab.ca import Authority, server_context
from spyder.lab.records import Certificate, CertificateKind
from spyder.model.outcomes import Status
from spyder.model.records import Report, Task
from spyder.net.dns.wire import Answer, Question, RdataType
from spyder.net.http import Dialer, Limits
from spyder.policy.addresses import AddressPolicy
from spyder.policy.pacing import Pacer
from spyder.policy.robots import RobotsPolicy
from spyder.policy.scope import Scope
from spyder.probe.prober import Identity, Prober
from spyder.probe.web import Rules, WebLimits
from spyder.runtime.watchdog import Watchdog

HERE = "127.0.0.1"
OTHER = "127.0.0.2"
"""Served like `HERE`, and allowed."""
BLOCKED = "127.0.0.66"
"""A canary listens here, and policy does not allow it."""
CLOSED = "127.0.0.3"
"""Allowed, and nobody listens."""
ALLOW_ALL = "User-agent: *\nAllow: /\n"
DENY_ALL = "User-agent: *\nDisallow: /\n"

Act = Callable[[socket.socket], None]
"""What is done on a connection in place of an answer."""


def answer(
    body: str = "", status: str = "200 OK", *, content_type: str = "text/html", fields: str = "", close: bool = False
) -> bytes:
    """Return the bytes of an answer."""
    text = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(text)}\r\n{fields}"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + text


def robots(text: str, **more: Any) -> bytes:
    """Return the answer of a robots.txt."""
    return answer(text, content_type="text/plain", **more)


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return a redirect."""
    return answer(status=status, fields=f"Location: {location}\r\n")


def page(*links: str) -> bytes:
    """Return a page with links."""
    return answer("".join(f'<a href="{link}">x</a>' for link in links))


def hang(connection: socket.socket) -> None:
    """Say nothing until the client goes."""
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass


def drop(connection: socket.socket) -> None:
    """Close without a word."""


@dataclass
class World:
    """Hosts, what they say, and what was asked of them. A context manager."""

    directory: Path
    addresses: dict[str, list[str]] = field(default_factory=dict)
    """By host; a host that is not here does not exist."""
    answers: dict[str, bytes | Act] = field(default_factory=dict)
    """By URL. What is not here is a 404."""
    certificates: dict[str, CertificateKind] = field(default_factory=dict)
    """By host; `good` where it is not here."""
    names: dict[str, str] = field(default_factory=dict)
    """By host: another name that its certificate is for."""
    requests: list[str] = field(default_factory=list)
    connections: Counter[str] = field(default_factory=Counter)
    """By `scheme address`; for the canary, `blocked`."""
    handshakes: Counter[str] = field(default_factory=Counter)
    """By server name: handshakes that were completed."""
    resolved: list[str] = field(default_factory=list)
    verdicts: dict[str, Status] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._authority = Authority(1)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self._live: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.ca_path = self.directory / "ca.pem"
        self.ca_path.write_bytes(self._authority.root_pem)
        self.ports = {"https": self._listen("https"), "http": self._listen("http")}
        self.watchdog = Watchdog()
        self.watchdog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.watchdog.stop()
        with self._lock:
            live = list(self._live)
        for each in live:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(5)
        self.watchdog.join(5)
        for each in self._live:
            each.close()

    def site(
        self, host: str, *, page: bytes | Act = b"", robots_txt: bytes | Act = b"", at: Sequence[str] = (HERE,)
    ) -> None:
        """Add a host with a page and a robots.txt over HTTPS, and the same robots.txt over HTTP."""
        self.addresses[host] = list(at)
        if page:
            self.answers[f"https://{host}/"] = page
        if robots_txt:
            self.answers[f"https://{host}/robots.txt"] = self.answers[f"http://{host}/robots.txt"] = robots_txt

    def prober(
        self,
        *,
        budget_s: float = 20.0,
        rate: float = 1e6,
        limits: Limits | None = None,
        max_redirects: int = 5,
        exclude: Sequence[str] = ("gov",),
        blocked_ports: bool = False,
    ) -> Prober:
        """Return a prober over this world, with the policies as they are."""
        policy = RobotsPolicy(product_token="SPYDERProbe", clock=time.monotonic)
        self.pacer = Pacer(rate_per_host=rate, burst=1)
        web = WebLimits(port_https=self.ports["https"], port_http=self.ports["http"], max_redirects=max_redirects)
        if blocked_ports:
            web = replace(web, port_https=1)
        return Prober(
            identity=Identity("probe", "run"),
            resolve=self.resolve,
            dialer=Dialer(
                self.watchdog,
                user_agent="SPYDERProbe/1.0",
                limits=limits or Limits(5.0, 5.0, 5.0, 5.0),
                ca_bundle=str(self.ca_path),
            ),
            rules=Rules(
                in_scope=Scope(exclude).verdict,
                may_dial=AddressPolicy(allow=[HERE, OTHER, CLOSED]).may_dial,
                decide_robots=policy.decide,
                wait_turn=self.pacer.wait,
            ),
            limits=web,
            dns_budget_s=5.0,
            host_budget_s=budget_s,
        )

    def probe(self, host: str, **settings: Any) -> Report:
        """Visit one host."""
        return self.prober(**settings).probe(Task(host))

    def resolve(self, questions: Sequence[Question], *, deadline: float) -> list[Answer]:
        """Answer from the table."""
        assert deadline > time.monotonic()
        with self._lock:
            self.resolved += [question.name for question in questions]
        return [self._resolved(question) for question in questions]

    def _resolved(self, question: Question) -> Answer:
        if question.name not in self.addresses:
            return Answer(question, Status.NXDOMAIN)
        wanted = {RdataType.A: ".", RdataType.AAAA: ":"}.get(question.rdtype)
        found = tuple(each for each in self.addresses[question.name] if wanted and wanted in each)
        return Answer(question, Status.OK if found else Status.NODATA, found)

    def _listen(self, scheme: str) -> int:
        port = 0
        for address in (HERE, OTHER, BLOCKED):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            port = listener.getsockname()[1]
            listener.listen(64)
            self._live.append(listener)
            name = "blocked" if address == BLOCKED else f"{scheme} {address}"
            self._start(self._accept, listener, scheme, name)
        return port

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="world", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, scheme: str, name: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with self._lock:
                    self.connections[name] += 1
                    self._live.append(connection)
                self._start(self._serve, connection, scheme)

    def _serve(self, connection: socket.socket, scheme: str) -> None:
        with connection, contextlib.suppress(OSError):
            if scheme == "https":
                self._serve_tls(connection)
            else:
                self._talk(connection, scheme)

    def _serve_tls(self, connection: socket.socket) -> None:
        asked: list[str] = []

        def choose(tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            asked.append(name or "")
            tls.context = self._context(name or "")

        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.sni_callback = choose
        with front.wrap_socket(connection, server_side=True) as secured:
            with self._lock:
                self._live.append(secured)
                self.handshakes[asked[0]] += 1
            self._talk(secured, "https")

    def _context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if host not in self._contexts:
                leaf = Certificate((self.names.get(host, host),), "key", self.certificates.get(host, "good"))
                scratch = self.directory / "leaf.pem"
                self._contexts[host] = server_context(self._authority.pem(leaf), scratch)
            return self._contexts[host]

    def _talk(self, connection: socket.socket, scheme: str) -> None:
        head = b""
        while chunk := connection.recv(65536):
            head += chunk
            while b"\r\n\r\n" in head:
                request, _, head = head.partition(b"\r\n\r\n")
                first, *fields = request.decode("latin-1").split("\r\n")
                host = next(each[6:] for each in fields if each.lower().startswith("host: ")).rpartition(":")[0]
                url = f"{scheme}://{host}{first.split(' ')[1]}"
                with self._lock:
                    self.requests.append(url)
                said = self.answers.get(url, answer("not found", "404 Not Found"))
                if callable(said):
                    said(connection)
                    return
                connection.sendall(said)
                if b"\r\nConnection: close\r\n" in said:
                    return
