"""What a value of the settings may be: durations, sizes, networks, name servers, addresses, URLs, headers.

Each type reads its own text, refuses all else with a `ValueError`, and says by its `Kind` what it is and how it is
written back. Pure; any thread may call what is here.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from spyder.model.names import BadName, normalise_host
from spyder.settings.problems import quoted

MAX_TEXT_CHARS: Final = 4096

KeyPath: TypeAlias = tuple[str, ...]
Raw: TypeAlias = "str | list[Raw] | dict[str, Raw] | None"


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
            raise ValueError(f"has {quoted(name)}, which is no header name (RFC 9110 5.1)")
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
SIZE_EXAMPLES: Final = "512KiB, 100MiB, 10GiB or bytes"
Size = Annotated[
    int,
    BeforeValidator(bytes_of),
    Field(ge=1, le=2**50),
    Kind("size", size_text, SIZE_EXAMPLES),
]
Whole = Annotated[int, Field(ge=1, le=10**9)]
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
Text = Annotated[str, AfterValidator(_printable), Kind("text")]
FILE: Final = Kind("path of a file, or empty")
FilePath = Annotated[Text, FILE]
Identity = Annotated[
    str,
    AfterValidator(_identity),
    Kind("name of 1 to 128 letters, digits and . _ : @ -"),
]
Redis = Annotated[Text, AfterValidator(_redis_address), Kind("HOST:PORT or URL, or empty")]
AnyCase: Final = BeforeValidator(_lower)
Processes = Annotated[int | Literal["auto"], PlainValidator(_processes), Kind("whole number from 1 to 256, or auto")]
Networks = Annotated[
    tuple[
        Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, PlainValidator(_network), Kind("network", str)],
        ...,
    ],
    BeforeValidator(_split),
    Kind("list of networks", lambda networks: [str(network) for network in networks]),
]
NameServers = Annotated[
    tuple[Annotated[Endpoint, PlainValidator(_name_server)], ...],
    BeforeValidator(_split),
    Kind(
        "list of ADDRESS, ADDRESS:PORT or [IPv6]:PORT",
        lambda endpoints: [str(endpoint) for endpoint in endpoints],
    ),
]
Destination = Annotated[
    Text,
    AfterValidator(_destination),
    Kind("https:// or http:// URL, file:DIR, stdout:, or empty"),
]
Headers = Annotated[
    Mapping[str, Text],
    AfterValidator(_headers),
    Kind("mapping of names to values"),
]
ListenAddress = Annotated[
    Text,
    AfterValidator(_listen_address),
    Kind("HOST:PORT, :PORT for all interfaces, or empty"),
]
Collector = Annotated[Text, AfterValidator(_collector), Kind("HOST:PORT or URL, or empty")]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_level)]
UserAgent = Annotated[Text, AfterValidator(_user_agent), Field(max_length=512), Kind("text")]
TopLevelDomains = Annotated[
    tuple[Annotated[str, AfterValidator(_tld)], ...],
    BeforeValidator(_split),
    AfterValidator(_once),
    Kind("list of names", list),
]
