"""The settings: one typed, frozen tree, the one home of every default and of every key's description.

Read once, at the edge: `load` is called by the commands before any thread starts, and `daemon/wiring.py` hands
single values on; components take arguments, never this tree. A `Settings` value is immutable and may be shared
by all threads and pickled to worker processes.

A scalar in a file stays text until the key's own type reads it, so that YAML's guesses cannot harm (`no` is
Norway where a top-level domain is meant, `1:30` is no number of seconds in base 60). The same reading serves
the environment and `--set`.
"""

import difflib
import ipaddress
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_args, get_origin
from urllib.parse import urlsplit

import annotated_types
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo

from spyder.model.names import BadName, normalise_host

MAX_FILE_BYTES: Final = 1024 * 1024
# Room for every country's top-level domain and a few thousand networks; read in under a second.
MAX_VALUES: Final = 20_000
MAX_DEPTH: Final = 6  # a key of one of `api.keys` lies at depth 4
MAX_PROBLEMS: Final = 100
MAX_SUGGESTIONS: Final = 20  # looking for a like name costs about 1 ms
LIKENESS: Final = 0.75  # of difflib: `crawl` is like `crawling`, `ingress` is not like `ingest`
MAX_TEXT_CHARS: Final = 4096
SHOWN_CHARS: Final = 60
MESSAGE_CHARS: Final = 400

Path_: TypeAlias = tuple[str, ...]
Raw: TypeAlias = "str | list[Raw] | dict[str, Raw] | None"


# --- what a value may be ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What a value of a type is, in words, how it is written back, and examples for whoever got it wrong."""

    text: str
    show: Callable[[Any], object] = lambda value: value
    examples: str = ""


_SECONDS: Final = MappingProxyType({"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001})
_BYTES: Final = MappingProxyType(
    {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "TB": 10**12, "GB": 10**9, "MB": 10**6}
    | {"KB": 1000, "kB": 1000, "B": 1}
)
_number = re.compile(r"\d{1,12}(?:\.\d{1,20})?", re.ASCII).fullmatch
_duration = re.compile(r"(?:\d{1,12}(?:\.\d{1,9})?(?:ms|[dhms]))+", re.ASCII).fullmatch
_duration_parts = re.compile(r"([\d.]+)(ms|[dhms])", re.ASCII).findall
_size = re.compile(rf"(\d{{1,16}}(?:\.\d{{1,9}}(?= ?[KMGT]))?)(?: ?({'|'.join(_BYTES)}))?", re.ASCII).fullmatch


def seconds_of(value: object) -> float:
    """Return the seconds that `15s`, `2m`, `24h`, `500ms`, `1h30m` or a number of seconds means.

    Raises `ValueError` for anything else.
    """
    text = str(value).strip()
    if _number(text):
        return float(text)
    if not _duration(text):
        raise ValueError
    return math.fsum(float(number) * _SECONDS[unit] for number, unit in _duration_parts(text))


def duration_text(seconds: float) -> str:
    """Return a duration as `seconds_of` reads it, in the largest unit that divides it: `24h`, `90s`, `250ms`."""
    for unit in ("h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{round(seconds * 1000, 6):.15g}ms"


def bytes_of(value: object) -> int:
    """Return the bytes that `512KiB`, `10GiB`, `5MB` or a whole number means; raises `ValueError` otherwise."""
    match = _size(str(value).strip())
    if not match:
        raise ValueError
    return int(float(match[1]) * _BYTES[match[2] or "B"])


def size_text(size_bytes: int) -> str:
    """Return a size as `bytes_of` reads it, in the largest binary unit that divides it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= _BYTES[unit] and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return str(size_bytes)


def _printable(text: str) -> str:
    """Refuse control characters (a line end would end a header or a log line) and lone surrogates."""
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"is longer than {MAX_TEXT_CHARS} characters")
    if any(char < " " or "\x7f" <= char < "\xa0" or "\ud800" <= char < "\ue000" for char in text):
        raise ValueError("holds a control character or half a character; write it without")
    return text


def _identity(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,128}", text):
        raise ValueError
    return text


def _split(value: object) -> object:
    """Text where a list belongs is its items with commas between, as on SPYDER's command line."""
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",")] if value.strip() else []


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    level = _lower(value)
    return "warning" if level == "warn" else level


def _user_agent(text: str) -> str:
    # RFC 9110 10.1.5 and 5.5; RFC 9309 2.2.1 for the letters of the token that robots.txt files name.
    if not re.match(r"[A-Za-z_-]+(?:[/ ]|$)", text) or not text.isascii():
        raise ValueError(
            "must start with a product name of letters, - and _ (RFC 9309 2.2.1), as in "
            '"MyProbe/1.0 (+https://example.com/about)", in ASCII'
        )
    return text


def _tld(entry: str) -> str:
    """Return a suffix as hosts are written: lower-case A-labels, no dot before it."""
    text = entry.strip().removeprefix("*").removeprefix(".")
    try:
        return normalise_host(f"x.{text}").removeprefix("x.")
    except BadName as error:
        raise ValueError(f"is not a top-level domain: {error}") from None


def _once(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(str(value).strip())
    except ValueError as error:
        raise ValueError(f"is not a network such as 10.0.0.0/8 or fd00::/8: {error}") from None


class Endpoint(NamedTuple):
    """An address and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


_bracketed = re.compile(r"\[(?P<address>[^\[\]]*)\](?::(?P<port>\d{1,5}))?", re.ASCII).fullmatch
_dotted = re.compile(r"(?P<address>[^:]*)(?::(?P<port>\d{1,5}))?", re.ASCII).fullmatch
DNS_PORT: Final = 53  # RFC 1035 4.2
MAX_PORT: Final = 65_535


def _name_server(value: object) -> Endpoint:
    text = str(value).strip()
    match = _bracketed(text) or _dotted(text)
    address, port = (match["address"], int(match["port"] or DNS_PORT)) if match else (text, DNS_PORT)
    try:
        parsed = str(ipaddress.ip_address(address))
    except ValueError:
        parsed = ""
    if not parsed or not 0 < port <= MAX_PORT:
        raise ValueError("is not ADDRESS, ADDRESS:PORT or [IPv6]:PORT (an address, not a name)")
    return Endpoint(parsed, port)


def _host_port(text: str, *, lowest_port: int = 1) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not lowest_port <= int(port) <= MAX_PORT:
        raise ValueError("is not HOST:PORT")
    if not re.fullmatch(r"[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]", host):
        raise ValueError("is not HOST:PORT (an IPv6 address stands in brackets)")
    return text


def _listen_address(text: str) -> str:
    if not text:
        return text
    _host_port(text, lowest_port=0)
    return f"0.0.0.0{text}" if text.startswith(":") else text  # noqa: S104 - Go's way to say all interfaces


def _url(text: str, schemes: Sequence[str]) -> str:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or " " in text or parts.fragment:
        raise ValueError(f"is not a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return text


def _destination(text: str) -> str:
    if text in ("", "stdout:") or re.fullmatch(r"file:.+", text):
        return text
    try:
        return _url(text, ("https", "http"))
    except ValueError:
        raise ValueError("is not https://…, http://…, file:DIR or stdout:") from None


def _redis_address(text: str) -> str:
    if not text or re.fullmatch(r"(?:rediss?|unix)(?:\+[a-z]+)?://[^\s]+", text):
        return text
    if "/" in text or text.startswith(":"):
        raise ValueError("is not HOST:PORT or a redis://, rediss:// or unix:// URL")
    return _host_port(text)


def _collector(text: str) -> str:
    if "://" in text:
        return _url(text, ("https", "http"))
    return _host_port(text) if text else text


# RFC 9110 5.6.2 and 5.5. The left-out names frame the message or name its receiver: they are the sender's own.
_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}").fullmatch
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-encoding", "content-length", "host", "idempotency-key", "transfer-encoding"}
)


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    seen: set[str] = set()
    for name, value in headers.items():
        folded = name.lower()
        if not _header_name(name):
            raise ValueError(f"has {_quoted(name)}, which is no header name (RFC 9110 5.1)")
        if folded in _OWN_HEADERS:
            raise ValueError(f"has {name}, which the program sets itself; leave it out")
        if folded in seen:
            raise ValueError(f"has {name} twice (upper and lower case are the same here)")
        if not re.fullmatch(r"[\x21-\x7e](?:[ \t\x21-\x7e]*[\x21-\x7e])?", value):
            raise ValueError(f"has a value of {name} that is not printable ASCII on one line (RFC 9110 5.5)")
        seen.add(folded)
    return headers


def _processes(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,3}", text, re.ASCII) or not 1 <= int(text) <= 256:
        raise ValueError
    return int(text)


Duration = Annotated[
    float,
    BeforeValidator(seconds_of),
    Field(ge=0.001, le=366 * 86_400, allow_inf_nan=False),
    Kind("duration", duration_text, "500ms, 15s, 2m, 1h30m, 24h or seconds; from 1ms to 366d"),
]
_SIZES: Final = "512KiB, 100MiB, 10GiB or bytes"
Size = Annotated[
    int,
    BeforeValidator(bytes_of),
    Field(ge=1, le=2**50),
    Kind("size", size_text, _SIZES),
]
Whole = Annotated[int, Field(ge=1, le=10**9)]
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
Text = Annotated[str, AfterValidator(_printable), Kind("text")]
_FILE: Final = Kind("path of a file, or empty")
FilePath = Annotated[Text, _FILE]
Identity = Annotated[
    str,
    AfterValidator(_identity),
    Kind("name of 1 to 128 letters, digits and . _ : @ -"),
]
Redis = Annotated[Text, AfterValidator(_redis_address), Kind("HOST:PORT or URL, or empty")]


# --- the tree --------------------------------------------------------------------------------------------------


def key(
    default: Any,
    description: str,
    *,
    alias: str | None = None,
    env: str | None = None,
    hide: Literal["all", "url"] | None = None,
    unused: bool = False,
) -> Any:
    """Declare one key.

    `alias` is SPYDER's name for it and `env` SPYDER's variable; `hide` says what is never shown: all of it, or
    what a URL carries beside the address. `unused` marks a key that no code reads yet; a test fails when that
    is no longer true.
    """
    extra: dict[str, Any] = {"alias": alias, "env": env, "hide": hide, "unused": unused}
    return Field(default, description=description, repr=hide is None, json_schema_extra=extra)


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )


class Crawling(_Frozen):
    """What is done to one host, how many at a time, and how long it may take."""

    concurrency: Annotated[int, Field(ge=1, le=4096)] = key(
        256, "Hosts probed at the same time by one process: its worker threads.", alias="concurrency"
    )
    processes: Annotated[
        int | Literal["auto"], PlainValidator(_processes), Kind("whole number from 1 to 256, or auto")
    ] = key(1, "Worker processes; auto: one for each core.", unused=True)
    rate_per_host: Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)] = key(
        "1", "Requests a second to one host, over time."
    )
    rate_burst: Annotated[int, Field(ge=1, le=10**6)] = key(
        1, "Requests that one host may get at once before the rate holds it back."
    )
    max_domains: Annotated[int, Field(ge=0)] = key(0, "Hosts probed in one run at most; 0: no limit.", unused=True)
    continuous: bool = key(False, "Whether hosts that were found are probed too.", unused=True)
    max_depth: Annotated[int, Field(ge=0, le=1000)] = key(
        1, "Steps away from the hosts given, where those found are probed too.", unused=True
    )
    http_timeout: Duration = key("15s", "Time limit of one HTTP exchange: request, header and body.")
    tls_timeout: Duration = key("8s", "Time limit of one TLS handshake.")
    host_budget: Duration = key("30s", "Time limit of all that is done to one host; what is not done by then is left.")
    body_max_bytes: Annotated[Size, Field(le=64 * 2**20), Kind("size up to 64MiB", size_text, _SIZES)] = key(
        "512KiB", "Decoded bytes of a page that are read for links; the rest is not fetched."
    )
    allow_private_addresses: bool = key(
        False,
        "Whether private, loopback, link-local and other special-purpose addresses are dialled. "
        "For labs and intranets only.",
    )
    allow_addresses: Annotated[
        tuple[
            Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, PlainValidator(_network), Kind("network", str)],
            ...,
        ],
        BeforeValidator(_split),
        Kind("list of networks", lambda networks: [str(network) for network in networks]),
    ] = key((), "Networks that are dialled although they are special-purpose, such as 10.1.0.0/16.")


class HttpClient(_Frozen):
    """Connections to the hosts that are probed."""

    max_idle_conns: Whole = key(
        1024, "Connections kept open for further requests, of all hosts.", alias="http_client.MaxIdleConns", unused=True
    )
    max_conns_per_host: Whole = key(
        128, "Connections to one host at the same time.", alias="http_client.MaxConnsPerHost", unused=True
    )
    connect_timeout: Duration = key("5s", "Time limit of making one TCP connection.")
    response_header_timeout: Duration = key(
        "10s",
        "Time limit from the end of a request to the end of the response's header.",
        alias="http_client.ResponseHeaderTimeout",
    )
    idle_conn_timeout: Duration = key(
        "30s", "After this time an unused connection is closed.", alias="http_client.IdleConnTimeout", unused=True
    )
    max_header_bytes: Annotated[Size, Field(ge=1024, le=2**20), Kind("size from 1KiB to 1MiB", size_text, _SIZES)] = (
        key("64KiB", "A longer response header ends the exchange.")
    )
    max_redirects: Annotated[int, Field(ge=0, le=20)] = key(5, "Redirects followed for one page.")
    ca_bundle: FilePath = key("", "Certificates (PEM) of the authorities to trust; empty: the system's.")
    port_https: Port = key(443, "Port for HTTPS; another than 443 is for labs.")
    port_http: Port = key(80, "Port for HTTP; another than 80 is for labs.")


class Dns(_Frozen):
    """How names are resolved."""

    nameservers: Annotated[
        tuple[Annotated[Endpoint, PlainValidator(_name_server)], ...],
        BeforeValidator(_split),
        Kind(
            "list of ADDRESS, ADDRESS:PORT or [IPv6]:PORT",
            lambda endpoints: [str(endpoint) for endpoint in endpoints],
        ),
    ] = key((), "Recursive name servers to ask; empty: those of /etc/resolv.conf.")
    timeout: Duration = key("2s", "Time limit of one try at one name server.")
    retries: Annotated[int, Field(ge=0, le=20)] = key(2, "Further tries after the first.")
    cache_size: Whole = key(100_000, "Answers kept in memory, for as long as their TTL allows.", unused=True)
    case_randomization: bool = key(True, "Whether questions are asked in random letter case, against forged answers.")


class Robots(_Frozen):
    """robots.txt (RFC 9309)."""

    on_error: Annotated[Literal["deny", "allow"], BeforeValidator(_lower)] = key(
        "deny", "What a robots.txt that cannot be reached, or a 5xx for it, means (RFC 9309 2.3.1.4: deny)."
    )
    cache_ttl: Duration = key("24h", "How long a robots.txt holds (RFC 9309 2.4: not longer than 24h).")
    failure_ttl: Duration = key("5m", "How long it holds that a robots.txt could not be reached.")
    max_bytes: Annotated[
        Size, Field(ge=512_000, le=16 * 2**20), Kind("size from 500KiB to 16MiB", size_text, _SIZES)
    ] = key("500KiB", "Bytes of a robots.txt that are read (RFC 9309 2.5: 500 KiB at least).")
    cache_size: Whole = key(65_536, "Hosts whose robots.txt verdict is kept in memory.")


class Batching(_Frozen):
    """When reports become a batch: at whichever of these comes first, and when the program stops."""

    max_edges: Annotated[int, Field(ge=1, le=10**6)] = key(10_000, "Edges in a batch.", alias="batch_max_edges")
    max_nodes: Annotated[int, Field(ge=1, le=10**6)] = key(5_000, "Nodes of all kinds in a batch.")
    flush_interval: Duration = key(
        "2s", "Age of its oldest report at which a batch goes that is not full.", alias="batch_flush_sec"
    )


class Output(_Frozen):
    """Where batches go. Every batch is in the spool before it goes anywhere."""

    ingest: Annotated[
        Text,
        AfterValidator(_destination),
        Kind("https:// or http:// URL, file:DIR, stdout:, or empty"),
    ] = key(
        "",
        "Where batches are sent. Empty: spyderd writes JSON lines beside the spool, spyderctl probe prints.",
        alias="ingest",
        hide="url",
        unused=True,
    )
    format: Annotated[Literal["json", "jsonl", "csv"], BeforeValidator(_lower)] = key(
        "json",
        "What file: and stdout: write: json, one batch a line; jsonl, one record a line; csv, the edges. "
        "An ingest service is sent json.",
        alias="output_format",
    )
    spool_dir: Annotated[Text, Field(min_length=1), Kind("path of a directory")] = key(
        "spool", "Where batches wait until they are delivered.", alias="spool_dir", unused=True
    )
    spool_max_bytes: Size = key("10GiB", "Size of the spool at which intake waits until there is room.", unused=True)
    compress: bool = key(False, "Whether batches are sent with gzip.", unused=True)
    headers: Annotated[
        Mapping[str, Text],
        AfterValidator(_headers),
        Kind("mapping of names to values"),
    ] = key({}, "Headers sent with every batch. Tokens are safer in headers_file.", hide="all", unused=True)
    headers_file: FilePath = key("", "A file of further headers, one 'Name: value' a line.", unused=True)
    mtls_cert: FilePath = key("", "Client certificate (PEM) for the ingest service.", alias="mtls_cert", unused=True)
    mtls_key: FilePath = key("", "Private key (PEM) of mtls_cert.", alias="mtls_key", unused=True)
    mtls_ca: FilePath = key(
        "",
        "Authorities (PEM) that the ingest service is checked against; empty: the system's.",
        alias="mtls_ca",
        unused=True,
    )
    connect_timeout: Duration = key("10s", "Time limit of making a connection to the ingest service.", unused=True)
    timeout: Duration = key("30s", "Time limit of each wait for the ingest service's answer.", unused=True)
    concurrency: Annotated[int, Field(ge=1, le=64)] = key(4, "Batches being sent at the same time.", unused=True)
    file_max_bytes: Size = key("100MiB", "Size at which a file: destination goes on to its next file.", unused=True)


class Inbox(_Frozen):
    """A directory whose files of host names are taken up when they are complete."""

    dir: Annotated[Text, Kind("path of a directory, or empty")] = key(
        "", "The directory; empty: no inbox.", unused=True
    )
    poll_interval: Duration = key("2s", "Time between two looks at the directory.", unused=True)


class Dedup(_Frozen):
    """Nodes and edges that were reported lately are not reported again."""

    backend: Annotated[Literal["memory", "redis"], BeforeValidator(_lower)] = key(
        "memory", "Where the keys are kept; redis needs redis.addr.", unused=True
    )
    max_entries: Whole = key(1_000_000, "Keys kept in memory; the oldest give way.")
    ttl: Duration = key("24h", "How long a key is remembered.")


class RedisServers(_Frozen):
    """Redis, shared by many probes."""

    addr: Redis = key(
        "",
        "Server of dedup, where dedup.backend is redis.",
        alias="redis_addr",
        env="REDIS_ADDR",
        hide="url",
        unused=True,
    )
    queue_addr: Redis = key(
        "",
        "Server of the queue of hosts; empty: no queue.",
        alias="redis_queue_addr",
        env="REDIS_QUEUE_ADDR",
        hide="url",
        unused=True,
    )
    queue_key: Annotated[Text, Field(min_length=1)] = key(
        "spyder:queue", "Name of the queue.", alias="redis_queue_key", env="REDIS_QUEUE_KEY", unused=True
    )


class Telemetry(_Frozen):
    """Health, metrics and traces."""

    metrics_addr: Annotated[
        Text,
        AfterValidator(_listen_address),
        Kind("HOST:PORT, :PORT for all interfaces, or empty"),
    ] = key(
        "127.0.0.1:9090",
        "Where health, metrics and the control API are served; empty: nowhere.",
        alias="metrics_addr",
        unused=True,
    )
    otel_endpoint: Annotated[Text, AfterValidator(_collector), Kind("HOST:PORT or URL, or empty")] = key(
        "",
        "OTLP/HTTP collector for traces; empty: no traces.",
        alias="otel_endpoint",
        hide="url",
        unused=True,
    )
    otel_insecure: bool = key(
        True,
        "Whether a collector given as HOST:PORT is spoken to without TLS.",
        alias="otel_insecure",
        unused=True,
    )
    otel_service: Text = key("spyder-probe", "Name of this service in traces.", alias="otel_service", unused=True)


class Logging(_Frozen):
    """What is logged to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_level)] = key(
        "info", "The least severe messages that are logged.", unused=True
    )
    format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)] = key(
        "auto", "json: one object a line; console: for people; auto: console on a terminal.", unused=True
    )


class ApiKey(_Frozen):
    """One key of the control API."""

    key: Annotated[Text, Field(min_length=8, repr=False)]
    name: Identity
    scope: Literal["read", "write", "admin"]


class Api(_Frozen):
    """The control API."""

    rate_limit: Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)] = key(
        "100", "Requests a second that are answered, over time.", unused=True
    )
    rate_burst: Annotated[int, Field(ge=1, le=10**6)] = key(20, "Requests answered at once.", unused=True)
    keys: Annotated[
        tuple[ApiKey, ...],
        Kind(
            "list of keys", examples="mappings with key (8 characters or more), name, and scope: read, write or admin"
        ),
    ] = key(
        (),
        "Who may use the control API.",
        hide="all",
        unused=True,
    )


class Shutdown(_Frozen):
    """How the program stops."""

    drain_timeout: Duration = key("30s", "After this time what is still in flight is left undone.")


class Settings(_Frozen):
    """Every setting of a run; see `docs/settings.md`. `load` makes one; `Settings()` is all defaults."""

    probe: Identity = key("local-1", "Name of this probe, in every edge and batch.", alias="probe")
    run: Annotated[
        Identity | None,
        BeforeValidator(lambda value: value or None),
        Kind("name as that of probe, or empty"),
    ] = key(None, "Name of this run; empty: run-<unix seconds>-<4 hex digits>, made at the start.", alias="run")
    ua: Annotated[Text, AfterValidator(_user_agent), Field(max_length=512), Kind("text")] = key(
        "SPYDERProbe/1.0 (+https://github.com/gustycube/spyder)",
        "The User-Agent of every request. Its first word is what robots.txt files name; put an address in it "
        "at which you can be reached.",
        alias="ua",
    )
    exclude_tlds: Annotated[
        tuple[Annotated[str, AfterValidator(_tld)], ...],
        BeforeValidator(_split),
        AfterValidator(_once),
        Kind("list of names", list),
    ] = key(
        ("gov", "mil", "int"),
        "Hosts under these are only looked up in DNS; [] for none.",
        alias="exclude_tlds",
    )
    crawling: Crawling = Crawling()
    http_client: HttpClient = HttpClient()
    dns: Dns = Dns()
    robots: Robots = Robots()
    batch: Batching = Batching()
    output: Output = Output()
    inbox: Inbox = Inbox()
    dedup: Dedup = Dedup()
    redis: RedisServers = RedisServers()
    telemetry: Telemetry = Telemetry()
    logging: Logging = Logging()
    api: Api = Api()
    shutdown: Shutdown = Shutdown()


# SPYDER's keys that mean nothing here, and what to do instead.
_DEAD: Final = MappingProxyType(
    {
        "domains": "hosts are not named in the settings; use spyderctl probe -f FILE, or put the file into inbox.dir",
        "batch.node_threshold_ratio": "set batch.max_nodes instead",
    }
)
# Variables of the project that are not settings, and two that SPYDER's documents name and its code never read.
_OTHER_VARIABLES: Final = frozenset({"SPYDER_SHARED_DATA", "SPYDER_ENVIRONMENT", "SPYDER_REGION"})
# What Kubernetes sets in every container beside a Service whose name starts with "spyder".
_service_variable = re.compile(
    r"SPYDER(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
).fullmatch
_PREFIX: Final = "SPYDER_"


# --- what the tree says of itself ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What there is to know about one key."""

    path: str
    """As in `--set`: `crawling.concurrency`."""
    type: str
    default: str
    """As it is written in a file."""
    description: str
    environment: tuple[str, ...]
    alias: str | None
    """SPYDER's name for it."""
    unused: bool
    """No code reads it yet."""
    secret: bool
    """Never shown whole."""
    takes_effect: str = "restart"
    """When a changed value is taken up."""


def sections() -> Mapping[str, type[BaseModel]]:
    """Return the sections of the tree by name, in order."""
    fields = Settings.model_fields
    return {name: info.annotation for name, info in fields.items() if _is_section(info)}  # type: ignore[misc]


@cache
def describe() -> Sequence[KeyInfo]:
    """Return every key, in the order of the tree."""
    defaults = Settings()
    return tuple(_describe(path, info, _at(defaults, path)) for path, info in _keys().items())


def redacted(settings: Settings) -> dict[str, Any]:
    """Return the tree as plain values that a settings file may hold, every secret replaced by `***`."""
    tree: dict[str, Any] = {}
    for path, info in _keys().items():
        place = tree.setdefault(path[0], {}) if path[1:] else tree
        place[path[-1]] = _shown(_at(settings, path), info)
    return tree


def _is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, _Frozen)


@cache
def _keys() -> Mapping[Path_, FieldInfo]:
    """Return the declaration of every key."""
    keys: dict[Path_, FieldInfo] = {}
    for name, info in Settings.model_fields.items():
        if _is_section(info):
            keys |= {(name, leaf): found for leaf, found in sections()[name].model_fields.items()}
        else:
            keys[(name,)] = info
    return keys


@cache
def _aliases() -> Mapping[Path_, Path_]:
    """Return SPYDER's names of keys, each with ours; a name that is also ours is left out."""
    named = {tuple(alias.split(".")): path for path, info in _keys().items() if (alias := _marks(info)["alias"])}
    return {alias: path for alias, path in named.items() if alias != path}


def _marks(info: FieldInfo) -> Mapping[str, Any]:
    extra = info.json_schema_extra
    assert isinstance(extra, dict), "every key is declared by key()"
    return extra


def _at(settings: Settings, path: Path_) -> Any:
    value: Any = settings
    for name in path:
        value = getattr(value, name)
    return value


def _describe(path: Path_, info: FieldInfo, default: object) -> KeyInfo:
    marks = _marks(info)
    own = _variable(path)
    return KeyInfo(
        path=".".join(path),
        type=_type_text(info),
        default=_written(_shown(default, info)),
        description=info.description or "",
        environment=(own, marks["env"]) if marks["env"] else (own,),
        alias=marks["alias"],
        unused=marks["unused"],
        secret=marks["hide"] is not None,
    )


def _variable(path: Sequence[str]) -> str:
    return _PREFIX + "__".join(path).upper()


def _kind(info: FieldInfo) -> Kind | None:
    return next((mark for mark in reversed(info.metadata) if isinstance(mark, Kind)), None)


def _type_text(info: FieldInfo) -> str:
    kind = _kind(info)
    if kind:
        return kind.text
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(get_args(info.annotation))
    if info.annotation is bool:
        return "true or false"
    return ("whole number" if info.annotation is int else "number") + _bounds_text(info)


def _bounds_text(info: FieldInfo) -> str:
    lowest = next((mark.ge for mark in info.metadata if isinstance(mark, annotated_types.Ge)), None)
    highest = next((mark.le for mark in info.metadata if isinstance(mark, annotated_types.Le)), None)
    start = f" from {lowest}" if lowest is not None else " above 0"
    return f"{start} to {highest}" if highest is not None else f"{start} up"


def _shown(value: object, info: FieldInfo) -> Any:
    hide, kind = _marks(info)["hide"], _kind(info)
    if hide == "all":
        return _hidden(value)
    if hide == "url":
        return _without_credentials(str(value))
    if value is None:
        return ""
    return kind.show(value) if kind else value


def _hidden(value: object) -> object:
    if isinstance(value, Mapping):
        return dict.fromkeys(value, "***")
    assert isinstance(value, tuple)
    return [{"key": "***", "name": entry.name, "scope": entry.scope} for entry in value]


def _without_credentials(url: str) -> str:
    if "://" not in url:
        return url
    return re.sub(r"(?<=\?).+", "***", re.sub(r"://.*@", "://***@", url))


_plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]*").fullmatch


def _written(value: object) -> str:
    """Return a plain value as a settings file holds it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, str) and _plain(value):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


# --- reading ---------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """One thing that is wrong with the settings."""

    path: str
    """The key, `crawling.concurrency`; empty where a file as a whole is meant."""
    where: str
    """`file /etc/spyder/spyder.yaml line 12`, `environment SPYDER_UA`, `--set`."""
    message: str
    """What is wrong and what to do; never holds the value of a secret."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class BadSettings(Exception):
    """The settings cannot be used. `str()` is one problem a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        left_out = len(problems) - MAX_PROBLEMS
        more = (Problem("", "", f"and {left_out} more problems"),) if left_out > 0 else ()
        self.problems = tuple(problems[:MAX_PROBLEMS]) + more
        super().__init__("\n".join(map(str, self.problems)))


class Loaded(NamedTuple):
    """Settings, and what a person should be told about where they came from."""

    settings: Settings
    warnings: tuple[str, ...]


def load(path: Path | None = None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Loaded:
    """Return the settings of `overrides` over `environ` over the file over the defaults.

    `overrides` are the arguments of `--set`, `key=value` each, the last of a key counting. The files that
    settings name must exist and be readable. Raises `BadSettings` with every problem there is.
    """
    reading = _Reading()
    if path is not None:
        reading.read_file(path)
    reading.read_environment(environ)
    reading.read_overrides(overrides)
    return reading.finish()


class _Given(NamedTuple):
    """One value, where it was written, and under which name."""

    value: Raw
    where: str
    name: str


class _Unreadable(Exception):
    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class _Reading:
    """One pass over all sources: what was given, and everything that is wrong with it."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._warnings: list[str] = []
        self._given: dict[Path_, _Given] = {}
        self._suggestions_left = MAX_SUGGESTIONS

    # the sources

    def read_file(self, path: Path) -> None:
        """Take what a YAML or JSON file holds."""
        where = f"file {path}"
        try:
            document = _Document(_file_text(path))
            tree = document.read_mapping()
        except _Unreadable as error:
            self._problem("", where if error.line is None else f"{where} line {error.line}", error.message)
            return
        for repeated, line in document.repeated:
            self._problem(".".join(repeated), f"{where} line {line}", "is written twice; keep one")
        layer: dict[Path_, _Given] = {}
        for spelled, value in self._leaves(tree):
            self._take(layer, spelled, value, f"{where} line {document.lines[spelled]}")
        self._given |= layer

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take the variables that are settings; a name that looks like one and is none is a problem."""
        layer: dict[Path_, _Given] = {}
        for name, path in _legacy_variables().items():
            if environ.get(name):  # SPYDER, too, takes an empty one for none
                self._take(layer, path, environ[name], f"environment {name}", text=True)
        for name in sorted(environ):
            if name.startswith(_PREFIX) and name not in _OTHER_VARIABLES and not _service_variable(name):
                spelled = tuple(name.removeprefix(_PREFIX).lower().split("__"))
                self._take(layer, spelled, environ[name], f"environment {name}", text=True)
        self._given |= layer

    def read_overrides(self, overrides: Sequence[str]) -> None:
        """Take the arguments of `--set`."""
        for override in overrides:
            name, equals, value = override.partition("=")
            layer: dict[Path_, _Given] = {}
            if equals:
                self._take(layer, tuple(name.strip().split(".")), value, "--set", text=True)
            else:
                self._problem("", "--set", f"{_quoted(override)} is not KEY=VALUE")
            self._given |= layer

    # one value

    def _leaves(self, tree: dict[str, Raw]) -> Iterator[tuple[Path_, Raw]]:
        for name, value in tree.items():
            if name in sections() and isinstance(value, dict):
                yield from (((name, leaf), found) for leaf, found in value.items())
            elif name not in sections() or value is not None:
                yield (name,), value

    def _take(self, layer: dict[Path_, _Given], spelled: Path_, value: Raw, where: str, *, text: bool = False) -> None:
        name = ".".join(spelled)
        path = _aliases().get(spelled, spelled)
        if name in _DEAD:
            self._warnings.append(f"{where}: {_clipped(name)}: has no effect here: {_DEAD[name]}")
        elif path not in _keys():
            self._problem(name, where, self._unknown(spelled, where))
        elif value is None:
            kept = next(info.default for info in describe() if info.path == ".".join(path))
            self._warnings.append(f"{where}: {name}: has no value; the default ({kept}) holds")
        else:
            try:
                given = _Given(_from_text(path, value) if text and isinstance(value, str) else value, where, name)
            except _Unreadable as error:
                self._problem(name, where, f"cannot be read as YAML: {error.message}")
                return
            earlier = layer.setdefault(path, given)
            if earlier is not given and not _same(path, earlier.value, given.value):
                message = f"differs from {earlier.name} ({earlier.where}), which is the same setting; keep one"
                self._problem(name, where, message)

    def _unknown(self, spelled: Path_, where: str) -> str:
        name = ".".join(spelled)
        if name in sections():
            return "is a section: it must hold keys with values"
        if len(spelled) == 1 and "." in name and tuple(name.split(".")) in _keys():
            section, _, leaf = name.partition(".")
            return f"is written with two lines in a file: {section}: and, indented under it, {leaf}:"
        like = self._like(spelled)
        if like and where.startswith("environment"):
            like = _variable(like.split("."))
        return f"is no setting; did you mean {like}?" if like else "is no setting"

    def _like(self, spelled: Path_) -> str | None:
        """Return the key or section whose name is most like this one, if any is."""
        name = ".".join(spelled)
        self._suggestions_left -= 1
        if self._suggestions_left < 0 or len(name) > SHOWN_CHARS:
            return None
        whole = {".".join(path).replace(".", "_"): ".".join(path) for path in _keys()}
        whole |= {".".join(alias).replace(".", "_"): ".".join(path) for alias, path in _aliases().items()}
        whole |= {section: section for section in sections()}
        last = {path[-1]: ".".join(path) for path in reversed(tuple(_keys()))}
        if spelled[-1] in last:
            return last[spelled[-1]]
        folded = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace(".", "_").replace("-", "_").lower()
        found = difflib.get_close_matches(folded, whole, 1, LIKENESS)
        if found:
            return whole[found[0]]
        found = difflib.get_close_matches(spelled[-1].lower(), last, 1, LIKENESS)
        return last[found[0]] if found else None

    # all of them

    def finish(self) -> Loaded:
        """Return the settings, or raise `BadSettings`."""
        settings, faulty = self._validated()
        for paths, message in _cross_checks(settings):
            if not faulty.intersection(paths):
                where = next((self._given[path].where for path in paths if path in self._given), "default")
                self._problem(".".join(paths[0]), where, message)
        if self._problems:
            raise BadSettings(self._problems)
        return Loaded(settings, tuple(self._warnings + self._unused(settings)))

    def _validated(self) -> tuple[Settings, set[Path_]]:
        """Return the settings with the default for each faulty key, and those keys."""
        try:
            return Settings.model_validate(self._tree()), set()
        except ValidationError as error:
            faults = error.errors(include_url=False)
        faulty = {tuple(map(str, fault["loc"][: _depth(fault["loc"])])) for fault in faults}
        for fault in faults:
            path = tuple(map(str, fault["loc"][: _depth(fault["loc"])]))
            self._problem(_place(fault["loc"]), self._given[path].where, _fault_text(path, fault))
        for path in faulty:
            del self._given[path]
        return Settings.model_validate(self._tree()), faulty

    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path, given in self._given.items():
            place = tree.setdefault(path[0], {}) if path[1:] else tree
            place[path[-1]] = given.value
        return tree

    def _unused(self, settings: Settings) -> list[str]:
        return [
            f"{given.where}: {given.name}: has no effect yet: nothing reads it in this version"
            for path, given in self._given.items()
            if _marks(_keys()[path])["unused"] and _at(settings, path) != _at(Settings(), path)
        ]

    def _problem(self, path: str, where: str, message: str) -> None:
        self._problems.append(Problem(_clipped(path), where, _clipped(message, MESSAGE_CHARS)))


@cache
def _legacy_variables() -> Mapping[str, Path_]:
    """Return SPYDER's own environment variables."""
    return {name: path for path, info in _keys().items() if (name := _marks(info)["env"])}


def _depth(loc: tuple[int | str, ...]) -> int:
    """Return how many parts of the place of a fault are the key's path."""
    return 2 if loc[0] in sections() else 1


def _place(loc: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != "[key]")
    return "".join(parts).removeprefix(".")


def _fault_text(path: Path_, fault: Mapping[str, Any]) -> str:
    info, kind = _keys()[path], fault["type"]
    hide = _marks(info)["hide"]
    if kind == "value_error" and (reason := str(fault["ctx"]["error"])):
        return f"{'this value' if hide else _quoted(fault['input'])} {reason}"
    if kind == "extra_forbidden":
        return "is no setting"
    if kind == "missing":
        return "is missing"
    declared = _kind(info)
    examples = f" ({declared.examples})" if declared and declared.examples else ""
    return f"expected {_type_text(info)}{examples}; found {'another value' if hide else _quoted(fault['input'])}"


def _quoted(value: object) -> str:
    return f'"{_clipped(value)}"' if isinstance(value, str) else "a list or a mapping"


def _clipped(text: str, chars: int = SHOWN_CHARS) -> str:
    """Return text that is safe and short enough for a terminal and a log."""
    short = text if len(text) <= chars else text[:chars] + "…"
    return "".join(char if char.isprintable() else "?" for char in short)


def _same(path: Path_, one: Raw, other: Raw) -> bool:
    """Whether two values of one key mean the same."""
    info = _keys()[path]
    declared: Any = Annotated[info.annotation, *info.metadata]
    adapter: TypeAdapter[Any] = TypeAdapter(declared)
    try:
        return bool(adapter.validate_python(one) == adapter.validate_python(other))
    except ValidationError:
        return one == other


def _cross_checks(settings: Settings) -> Iterator[tuple[tuple[Path_, ...], str]]:
    """Yield what is wrong between keys, or between a key and the disk: the keys concerned, and what to say."""
    output = settings.output
    if bool(output.mtls_cert) != bool(output.mtls_key):
        pair = (("output", "mtls_cert"), ("output", "mtls_key"))
        paths = pair if output.mtls_cert else pair[::-1]
        yield paths, f"needs {'.'.join(paths[1])} beside it"
    if settings.dedup.backend == "redis" and not settings.redis.addr:
        yield (("dedup", "backend"), ("redis", "addr")), "is redis, which needs redis.addr"
    for path, info in _keys().items():
        file = _at(settings, path)
        if _kind(info) is _FILE and file and not (Path(file).is_file() and os.access(file, os.R_OK)):
            yield (path,), f"{_quoted(file)} is not a file that can be read"


# --- text to tree ----------------------------------------------------------------------------------------------


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _Unreadable(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise _Unreadable("cannot be read: no such name") from None
    if len(data) > MAX_FILE_BYTES:
        raise _Unreadable(f"is larger than {MAX_FILE_BYTES} bytes, which no settings file is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable("is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None
    # JSON may be indented with tabs and YAML not; inside a string JSON has no bare tab.
    return text.replace("\t", " ") if path.suffix == ".json" else text


def _from_text(path: Path_, text: str) -> Raw:
    """Return what a value from the environment or the command line means for this key.

    Quotes around it, and brackets around a list or mapping, are YAML's; all else is taken as it stands.
    """
    bare = text.strip()
    many = get_origin(_keys()[path].annotation) in (tuple, Mapping)
    if len(bare) < 2 or bare[0] + bare[-1] not in ('""', "''", *(("[]", "{}") if many else ())):
        return text
    try:
        return _Document(bare).read()
    except _Unreadable:
        if bare[0] == "[" and ":" in bare:  # [::1], no YAML, is a name server
            return text
        raise


class _Document:
    """One YAML document as text, lists and mappings, with the line of every key.

    Bounded: aliases, tags and more than `MAX_VALUES` values or `MAX_DEPTH` levels are refused as they come.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Path_, int] = {}
        self.repeated: list[tuple[Path_, int]] = []
        self._text = text
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._values_left = MAX_VALUES

    def read_mapping(self) -> dict[str, Raw]:
        """Return a document that is a mapping, or empty; raises `_Unreadable`."""
        tree = self.read() or {}
        if not isinstance(tree, dict):
            raise _Unreadable("must hold keys with values (key: value)", 1)
        return tree

    def read(self) -> Raw:
        """Return the document; raises `_Unreadable`."""
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place, line = (f" (column {mark.column + 1})", mark.line + 1) if mark else ("", None)
            raise _Unreadable(f"{error.problem or error.context}{place}", line) from None
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            raise _Unreadable("holds a control character", line) from None
        except (ValueError, OverflowError):  # a directive or an escape with a number beyond all bounds
            raise _Unreadable("holds a number that YAML does not allow") from None

    def _document(self) -> Raw:
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _refused(after, "a second document begins; keep one")
        return value

    def _value(self, event: Any, path: Path_) -> Raw:
        self._values_left -= 1
        if self._values_left < 0 or len(path) > MAX_DEPTH:
            raise _refused(event, f"more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        if event.anchor is not None:
            raise _refused(event, "anchors (&) and aliases (*) are not understood; write the value out")
        if event.tag is not None:
            raise _refused(event, "tags (!) are not understood; write the plain value")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        plain = event.implicit[0]
        return None if plain and event.value in ("", "~", "null", "Null", "NULL") else str(event.value)

    def _list(self, path: Path_) -> Raw:
        items: list[Raw] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, str(len(items)))))
        return items

    def _mapping(self, path: Path_) -> Raw:
        tree: dict[str, Raw] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused(event, "a key must be text")
            here, line = (*path, event.value), _line(event)
            if event.value in tree:
                self.repeated.append((here, line))
            self.lines[here] = line
            tree[event.value] = self._value(next(self._events), here)
        return tree


def _refused(event: Any, message: str) -> _Unreadable:
    return _Unreadable(f"{message} (column {event.start_mark.column + 1})", _line(event))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
