"""The types of values: what each reads, what it refuses and in which words."""

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spyder.settings import Endpoint, bytes_of, duration_text, load, seconds_of, size_text
from tests.settings.loading import Write, problems_of, refusal, set_value, value_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15.0),
        ("2m", 120.0),
        ("24h", 86400.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("7d", 604800.0),
        ("15", 15.0),
        ("0.25", 0.25),
        (" 3s ", 3.0),
        (2, 2.0),
        (0.1 + 0.2, 0.1 + 0.2),
    ],
)
def test_durations_take_units_or_seconds(text: object, seconds: float) -> None:
    """A duration is a chain of numbers with units, or seconds."""
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "15x", "-1s", "1 s", "1e3", "nan", "inf", "\u0661s", "15S", "1:30", "9" * 40, True, None, [1]]
)
def test_durations_refuse_all_else(text: object) -> None:
    """Signs, exponents, unknown units, other digits and other types are no durations."""
    with pytest.raises(ValueError, match=r"^$"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["0", "0s", "0.0001s", "367d"])
def test_durations_are_positive_and_below_a_year(text: str) -> None:
    """A duration of nothing, or beyond any use, is refused with the bounds."""
    assert "from 1ms to 366d" in refusal("crawling.http_timeout", text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10GiB", 10 * 2**30),
        ("512KiB", 524288),
        ("512 KiB", 524288),
        ("1.5MiB", 1572864),
        ("5MB", 5_000_000),
        ("100B", 100),
        ("524288", 524288),
        (7, 7),
    ],
)
def test_sizes_take_units_or_bytes(text: object, size: int) -> None:
    """A size is a number with a binary or decimal unit, or bytes."""
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "10G", "1.5", "1.5B", "-1", "KiB", "1e3", "9" * 30, 1.5, False])
def test_sizes_refuse_all_else(text: object) -> None:
    """Ambiguous units, halves of bytes, signs and other types are no sizes."""
    with pytest.raises(ValueError, match=r"^$"):
        bytes_of(text)


@given(st.floats(0.001, 366 * 86_400))
def test_a_written_duration_reads_back(seconds: float) -> None:
    """What `duration_text` writes, `seconds_of` reads, to the microsecond."""
    assert seconds_of(duration_text(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.integers(0, 2**50))
def test_a_written_size_reads_back(size: int) -> None:
    """What `size_text` writes, `bytes_of` reads."""
    assert bytes_of(size_text(size)) == size


GOOD = [
    ("probe", "eu-west_1.a", "eu-west_1.a"),
    ("run", "", None),
    ("run", "run-1700000000", "run-1700000000"),
    ("ua", "My-Probe/2 (+https://example.com/x; a@b.c)", "My-Probe/2 (+https://example.com/x; a@b.c)"),
    ("exclude_tlds", "", ()),
    ("exclude_tlds", "[]", ()),
    ("exclude_tlds", "GOV, .Mil ,*.int,gov", ("gov", "mil", "int")),
    ("exclude_tlds", "[no, on, yes]", ("no", "on", "yes")),
    ("exclude_tlds", "gov.uk,рф", ("gov.uk", "xn--p1ai")),
    ("crawling.concurrency", "64", 64),
    ("crawling.processes", "auto", "auto"),
    ("crawling.processes", "4", 4),
    ("crawling.rate_per_host", "0.5", 0.5),
    ("crawling.max_domains", "0", 0),
    ("crawling.continuous", "yes", True),
    ("crawling.http_timeout", "20s", 20.0),
    ("crawling.body_max_bytes", "1MiB", 2**20),
    (
        "crawling.allow_addresses",
        "127.0.0.0/8, ::1",
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
    ),
    ("dns.nameservers", "127.0.0.1", (Endpoint("127.0.0.1", 53),)),
    ("dns.nameservers", "[127.0.0.1:5353, 9.9.9.9]", (Endpoint("127.0.0.1", 5353), Endpoint("9.9.9.9", 53))),
    ("dns.nameservers", '["[::1]:5353"]', (Endpoint("::1", 5353),)),
    ("dns.nameservers", "[::1]:5353,[2001:DB8::1]:53", (Endpoint("::1", 5353), Endpoint("2001:db8::1", 53))),
    ("dns.nameservers", "::1", (Endpoint("::1", 53),)),
    ("dns.nameservers", "[::1]", (Endpoint("::1", 53),)),
    ("dns.case_randomization", "off", False),
    ("robots.on_error", "Allow", "allow"),
    ("robots.max_bytes", "512000", 512_000),
    ("output.ingest", "https://ingest.example.com:8443/v1/batch?k=v", "https://ingest.example.com:8443/v1/batch?k=v"),
    ("output.ingest", "http://[::1]:8080/ingest", "http://[::1]:8080/ingest"),
    ("output.ingest", "file:/var/lib/spyder/out", "file:/var/lib/spyder/out"),
    ("output.ingest", "stdout:", "stdout:"),
    ("output.ingest", '""', ""),
    ("output.headers", "{Authorization: Bearer abc, X-A: '1'}", {"Authorization": "Bearer abc", "X-A": "1"}),
    ("output.headers", '{"Authorization":"Bearer a b"}', {"Authorization": "Bearer a b"}),
    ("output.spool_max_bytes", "1GiB", 2**30),
    ("redis.addr", "redis:6379", "redis:6379"),
    ("redis.addr", "rediss://:secret@redis.example.com:6380/2", "rediss://:secret@redis.example.com:6380/2"),
    ("telemetry.metrics_addr", ":9090", "0.0.0.0:9090"),
    ("telemetry.metrics_addr", "[::1]:9090", "[::1]:9090"),
    ("telemetry.metrics_addr", "localhost:0", "localhost:0"),
    ("telemetry.metrics_addr", "", ""),
    ("telemetry.otel_endpoint", "http://collector:4318", "http://collector:4318"),
    ("telemetry.otel_endpoint", "collector:4318", "collector:4318"),
    ("logging.level", "WARN", "warning"),
]


@pytest.mark.parametrize(("path", "text", "value"), GOOD)
def test_a_value_is_read_as_its_key_means(path: str, text: str, value: object) -> None:
    """Each type reads its own grammar and puts it in its normal form."""
    assert set_value(path, text) == value


@pytest.mark.parametrize(("path", "text", "value"), [case for case in GOOD if case[1][:1] not in {"[", "{", '"'}])
def test_a_quoted_value_in_a_file_means_the_same(path: str, text: str, value: object, write: Write) -> None:
    """What `--set` takes as it stands is the same text between quotes in a file."""
    nested: object = text
    for name in reversed(path.split(".")):
        nested = {name: nested}
    assert value_of(load(write(json.dumps(nested)), environ={}).settings, path) == value


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("probe", "a b", 'expected name of 1 to 128 letters, digits and . _ : @ -; found "a b"'),
        ("probe", "", "1 to 128 letters"),
        ("ua", "Probe 1.0\r\nX-Evil: 1", "control character"),
        ("ua", "1Probe/1.0", "must start with a product name"),
        ("ua", "(+https://example.com)", "must start with a product name"),
        ("ua", "Pröbe/1.0", "must start with a product name"),
        ("exclude_tlds", "gov,,mil", "is not a top-level domain"),
        ("exclude_tlds", "go v", "is not a top-level domain"),
        ("crawling.concurrency", "0", 'expected whole number from 1 to 4096; found "0"'),
        ("crawling.concurrency", "5000", "from 1 to 4096"),
        ("crawling.concurrency", "true", "whole number"),
        ("crawling.concurrency", "1.5", "whole number"),
        ("crawling.concurrency", "", "whole number"),
        ("crawling.concurrency", "9" * 5000, "whole number"),
        ("crawling.processes", "0", "from 1 to 256, or auto"),
        ("crawling.processes", "many", "from 1 to 256, or auto"),
        ("crawling.rate_per_host", "0", 'expected number above 0 to 1000000; found "0"'),
        ("crawling.rate_per_host", "nan", "number above 0"),
        ("crawling.rate_per_host", "inf", "number above 0"),
        ("crawling.continuous", "maybe", 'expected true or false; found "maybe"'),
        ("crawling.http_timeout", "soon", "expected duration (500ms, 15s, 2m, 1h30m, 24h or seconds"),
        ("crawling.body_max_bytes", "65MiB", "expected size up to 64MiB (512KiB"),
        ("crawling.allow_addresses", "10.0.0.1/8", "has host bits set"),
        ("crawling.allow_addresses", "intranet", "is not a network such as 10.0.0.0/8"),
        ("dns.nameservers", "dns.example.com", "an address, not a name"),
        ("dns.nameservers", "1.1.1.1:0", "is not ADDRESS"),
        ("dns.nameservers", "1.1.1.1:65536", "is not ADDRESS"),
        ("dns.nameservers", "[1.1.1.1", "is not ADDRESS"),
        ("robots.on_error", "ignore", 'expected one of deny, allow; found "ignore"'),
        ("robots.max_bytes", "100KiB", "expected size from 500KiB to 16MiB"),
        ("output.ingest", "ftp://example.com/", "is not https://"),
        ("output.ingest", "https://", "is not https://"),
        ("output.ingest", "https://example.com:99999/", "is not https://"),
        ("output.ingest", "file:", "is not https://"),
        ("output.format", "parquet", "expected one of json, jsonl, csv"),
        ("output.spool_dir", "", "expected path of a directory"),
        ("output.headers", "x", "expected mapping of names to values; found another value"),
        ("output.headers", '{"X-A": "b\\r\\nX-B: c"}', "control character"),
        ("output.headers", '{"X A": b}', "no header name"),
        ("output.headers", '{"X-A:": b}', "no header name"),
        ("output.headers", "{X-A: ''}", "not printable ASCII"),
        ("output.headers", "{X-A: é}", "not printable ASCII"),
        ("output.headers", "{X-A: b, x-a: c}", "twice"),
        ("output.headers", "{Content-Length: '3'}", "the program sets itself"),
        ("redis.addr", "redis", "is not HOST:PORT"),
        ("redis.addr", "http://redis:6379", "is not HOST:PORT or a redis://"),
        ("telemetry.metrics_addr", "9090", "is not HOST:PORT"),
        ("telemetry.metrics_addr", "::1:9090", "an IPv6 address stands in brackets"),
        ("logging.level", "loud", "expected one of debug, info, warning, error"),
        ("http_client.port_https", "0", "from 1 to 65535"),
        ("http_client.ca_bundle", "/nonexistent/ca.pem", "is not a file that can be read"),
        ("output.headers_file", "/", "is not a file that can be read"),
        ("dedup.backend", "redis", "needs redis.addr"),
    ],
)
def test_a_bad_value_is_refused_in_words(path: str, text: str, words: str) -> None:
    """The message holds what was found and what is expected."""
    assert words in refusal(path, text)


def test_an_api_key_is_whole_and_has_a_known_scope(write: Write) -> None:
    """A missing part, an unknown part and an unknown scope are reported by their place in the list."""
    text = "api:\n  keys:\n    - {key: spyder_0123, name: ops, scope: read}\n    - {key: short, scope: root, role: x}\n"
    found = {problem.path: problem.message for problem in problems_of(write(text))}
    assert set(found) == {"api.keys[1].key", "api.keys[1].name", "api.keys[1].scope", "api.keys[1].role"}
    assert found["api.keys[1].name"] == "is missing"
    assert "read, write or admin" in found["api.keys[1].scope"]
