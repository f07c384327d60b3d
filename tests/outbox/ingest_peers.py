"""The other side of an ingest connection: certificates of every kind, and servers whose every byte a test decides."""

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spyder.model.records import Batch, Edge, EdgeType, NodeDomain, NodeIP, Outcome
from spyder.outbox.payload import encode

SEEN = "2026-01-01T00:00:00.000000Z"
_DAY = dt.timedelta(days=1)


def batch_id_of(number: int) -> str:
    """Return the id of a numbered batch, in the form that batches have."""
    return f"019b76da{number:08x}7000800000000000"[:32]


def batch_of(number: int, edges: int = 1) -> tuple[str, bytes]:
    """Return the id and the bytes of a numbered batch that is as the schema has it."""
    batch_id = batch_id_of(number)
    host = f"h{number}.example.com"
    batch = Batch(
        batch_id=batch_id,
        timestamp=SEEN,
        probe_id="local-1",
        run_id="run-1",
        nodes_domain=[NodeDomain(host, "example.com", SEEN, SEEN)],
        nodes_ip=[NodeIP("192.0.2.1", SEEN, SEEN)],
        edges=[
            Edge(EdgeType.USES_MX, host, f"mx{each}.example.com", SEEN, "local-1", "run-1") for each in range(edges)
        ],
        outcomes=[Outcome(host=host, observed_at=SEEN)],
    )
    return batch_id, encode(batch).payload


# certificates


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path

    def context(self, client_ca: Path | None = None) -> ssl.SSLContext:
        """Return a server's context; with authorities, clients need a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Authority:
    """A certificate authority that lives in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(self._key, name, is_authority=True)
        self.path = directory / f"{name}.pem"
        """The authority's certificate."""
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, host: str = "localhost", expired: bool = False) -> Identity:
        """Return a certificate for a host name and for 127.0.0.1 (for `localhost` alone), good for both sides."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key, host, expired=expired)
        identity = Identity(self._directory / f"{name}.cert.pem", self._directory / f"{name}.key.pem")
        identity.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity

    def _sign(
        self, key: ec.EllipticCurvePrivateKey, host: str, *, is_authority: bool = False, expired: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (host, self._name))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now - _DAY if expired else now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if is_authority:
            usage = dict.fromkeys(
                (
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True
            )
        else:
            names: list[x509.GeneralName] = [x509.DNSName(host)]
            if host == "localhost":
                names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True)
class Pki:
    """Everybody's papers."""

    ours: Authority
    strangers: Authority
    server: Identity
    wrong_name: Identity
    expired_server: Identity
    strange_server: Identity
    client: Identity
    expired_client: Identity
    strange_client: Identity

    @classmethod
    def make(cls, directory: Path) -> "Pki":
        """Make them."""
        ours, strangers = Authority(directory, "ours"), Authority(directory, "strangers")
        return cls(
            ours=ours,
            strangers=strangers,
            server=ours.issue("server"),
            wrong_name=ours.issue("wrong-name", host="other.example"),
            expired_server=ours.issue("expired-server", expired=True),
            strange_server=strangers.issue("strange-server"),
            client=ours.issue("client"),
            expired_client=ours.issue("expired-client", expired=True),
            strange_client=strangers.issue("strange-client"),
        )


# servers


class Peer:
    """Accepts connections and hands each to a function, in a thread of its own. A context manager."""

    def __init__(self, serve: Callable[["Talk"], None], context: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, name="peer")]
        self._streams: list[socket.socket] = []
        self.over = threading.Event()
        """Set when the test is over: what a stalling server waits for."""
        self.requests: list[bytes] = []
        """Every whole request that was read."""
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/ingest"

    @property
    def connections(self) -> int:
        """How many were made."""
        return len(self._streams)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for stream in list(self._streams):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            self._streams.append(stream)
            thread = threading.Thread(target=self._talk, args=(stream, len(self._streams) - 1), name="peer-connection")
            self._threads.append(thread)
            thread.start()

    def _talk(self, stream: socket.socket, place: int) -> None:
        try:
            if self._context:
                stream = self._streams[place] = self._context.wrap_socket(
                    stream, server_side=True, do_handshake_on_connect=False
                )
                stream.do_handshake()
            self._serve(Talk(self, stream))
        except OSError:
            pass
        finally:
            stream.close()


class Talk:
    """One connection, as its server sees it."""

    def __init__(self, peer: Peer, stream: socket.socket) -> None:
        self.peer = peer
        self.stream = stream

    def read_request(self) -> bytes:
        """Return one request, header and body; raise `EOFError`-like OSError where the client is gone."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._some()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
        while len(body) < length:
            body += self._some()
        self.peer.requests.append(head + b"\r\n\r\n" + body)
        return self.peer.requests[-1]

    def answer(self, status: int, body: bytes = b"", *headers: str) -> None:
        """Send one sound answer."""
        lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers)
        self.stream.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode() + body)

    def drip(self, data: bytes, every_s: float) -> None:
        """Send byte by byte, for ever over again the last one, until the test is over."""
        for place in range(1 << 30):
            self.stream.sendall(data[min(place, len(data) - 1) :][:1])
            if self.peer.over.wait(every_s):
                return

    def stall(self) -> None:
        """Do nothing until the test is over."""
        self.peer.over.wait()

    def _some(self) -> bytes:
        if not (chunk := self.stream.recv(65536)):
            raise ConnectionError("the client closed")
        return chunk


def answering(status: int, body: bytes = b"", *headers: str) -> Callable[[Talk], None]:
    """Return a server that gives every request the same answer."""

    def serve(talk: Talk) -> None:
        while True:
            talk.read_request()
            talk.answer(status, body, *headers)

    return serve


def saying(raw: bytes) -> Callable[[Talk], None]:
    """Return a server that reads a request, sends these bytes, and closes."""

    def serve(talk: Talk) -> None:
        talk.read_request()
        talk.stream.sendall(raw)

    return serve


def lines_of(directory: Path) -> Iterator[dict[str, object]]:
    """Yield the batches in a directory of JSON lines; every line must be whole."""
    for path in sorted(directory.glob("batches-*.jsonl")):
        data = path.read_bytes()
        assert data == b"" or data.endswith(b"\n"), f"{path} ends in the middle of a line"
        yield from map(orjson.loads, data.splitlines())
