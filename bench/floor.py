"""The floor: the least that Python can pay for one host, with sockets and `ssl` alone, on N blocking threads.

    python floor.py --nameserver ADDRESS:PORT --ca FILE --threads N HOSTS_FILE

Per host: six DNS queries in flight on one UDP socket, one connect, one verified handshake, GET /robots.txt, GET /,
the certificate's DER; every byte is read and nothing but the A address and Content-Length is looked at. One JSON
object goes to standard output. All threads take hosts from one list; a host that fails is counted, not retried.
The interpreter's switch interval is left alone: longer ones were measured and change nothing here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

A, NS, MX, TXT, AAAA, OPT = 1, 2, 15, 16, 28, 41  # RFC 1035 3.2.2, RFC 3596 2.1, RFC 6891 6.1.1
RECURSION_DESIRED = 0x0100  # RFC 1035 4.1.1
EDNS_PAYLOAD_BYTES = 1232
OPT_RECORD = struct.pack("!BHHIH", 0, OPT, EDNS_PAYLOAD_BYTES, 0, 0)
DNS_WAIT = struct.pack("ll", 5, 0)  # seconds, microseconds; in the kernel: Python's own timeout costs a poll a call
READ_BYTES = 65_536
THREAD_STACK_BYTES = 256 * 1024
USER_AGENT = "SPYDERProbe/1.0 (+https://example.org/bench)"


def query(number: int, name: str, kind: int) -> bytes:
    """One question with EDNS; `number` is the message id."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = struct.pack("!HHHHHH", number, RECURSION_DESIRED, 1, 0, 0, 1)
    return header + labels + struct.pack("!BHH", 0, kind, 1) + OPT_RECORD


def first_a(answer: bytes, question_bytes: int) -> str:
    """The address of the first answer record, whose owner is a pointer (RFC 1035 4.1.4) to the question."""
    start = question_bytes + 12
    return socket.inet_ntoa(answer[start : start + 4])


def resolve(nameserver: tuple[str, int], name: str) -> str:
    """Send the six queries, read the six answers, give the address."""
    apex = name.partition(".")[2]
    queries = [query(number, name, kind) for number, kind in enumerate((A, AAAA, NS, MX, TXT))]
    queries.append(query(5, apex, NS))
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, DNS_WAIT)
        udp.connect(nameserver)
        for message in queries:
            udp.send(message)
        answers = [udp.recv(EDNS_PAYLOAD_BYTES) for _ in queries]
    a_answer = next(answer for answer in answers if answer[:2] == b"\0\0")
    return first_a(a_answer, len(queries[0]) - len(OPT_RECORD))


def get(tls: ssl.SSLSocket, host: str, path: str) -> None:
    """One GET on the open connection, read to the end of its body."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
        "Accept: text/html\r\nAccept-Encoding: identity\r\n\r\n"
    )
    tls.send(request.encode())
    received = tls.recv(READ_BYTES)
    while (head_end := received.find(b"\r\n\r\n")) < 0:
        received += _more(tls)
    length_at = received.index(b"Content-Length: ") + 16
    left = int(received[length_at : received.index(b"\r", length_at)]) - (len(received) - head_end - 4)
    while left > 0:
        left -= len(_more(tls))


def _more(tls: ssl.SSLSocket) -> bytes:
    data = tls.recv(READ_BYTES)
    if not data:
        raise ConnectionError("the server closed before the end of its answer")
    return data


def visit(nameserver: tuple[str, int], context: ssl.SSLContext, host: str) -> None:
    """All that is done for one host."""
    address = resolve(nameserver, host)
    with socket.socket() as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.connect((address, 443))
        with context.wrap_socket(tcp, server_hostname=host) as tls:
            get(tls, host, "/robots.txt")
            get(tls, host, "/")
            tls.getpeercert(binary_form=True)


class Tally:
    """How many hosts went well, and the first few reasons why others did not."""

    def __init__(self) -> None:
        self.ok = 0
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def add(self, ok: int, errors: list[str]) -> None:
        """Add one thread's counts, once, at its end."""
        with self._lock:
            self.ok += ok
            self.errors += errors


def work(hosts: Iterator[str], nameserver: tuple[str, int], context: ssl.SSLContext, tally: Tally) -> None:
    """Visit hosts until the shared iterator is empty (`next` on a list iterator is atomic in CPython)."""
    ok, errors = 0, []
    for host in hosts:
        try:
            visit(nameserver, context, host)
            ok += 1
        except (OSError, ValueError, StopIteration, struct.error) as error:
            errors.append(f"{host}: {error!r}")
    tally.add(ok, errors)


def run(names: list[str], nameserver: tuple[str, int], ca_file: str, threads: int) -> dict[str, object]:
    """Visit every name on `threads` threads; give the figures, measured from before the threads are made."""
    context = ssl.create_default_context(cafile=ca_file)
    tally = Tally()
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    hosts = iter(names)
    threading.stack_size(THREAD_STACK_BYTES)
    pool = [threading.Thread(target=work, args=(hosts, nameserver, context, tally)) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    wall_s = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "hosts": len(names),
        "ok": tally.ok,
        "wall_s": wall_s,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
        "max_rss_kb": after.ru_maxrss,
        "hosts_per_s": len(names) / wall_s,
        "voluntary_switches": after.ru_nvcsw - before.ru_nvcsw,
        "involuntary_switches": after.ru_nivcsw - before.ru_nivcsw,
        "errors": list(itertools.islice(tally.errors, 5)),
    }


def main() -> int:
    """Read the arguments, run, print; 0 when every host went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("hosts_file", type=Path)
    parser.add_argument("--nameserver", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--ca", required=True, metavar="FILE")
    parser.add_argument("--threads", type=int, default=256)
    arguments = parser.parse_args()
    address, _, port = arguments.nameserver.partition(":")
    names = arguments.hosts_file.read_text().split()
    figures = run(names, (address, int(port)), arguments.ca, arguments.threads)
    print(json.dumps(figures))
    return 0 if figures["ok"] == len(names) else 1


if __name__ == "__main__":
    raise SystemExit(main())
