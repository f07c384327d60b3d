"""The settings: what is read, what is refused and in which words, what wins, and that the documents agree."""

import ast
import contextlib
import importlib.util
import ipaddress
import json
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spyder.settings import (
    MAX_FILE_BYTES,
    MAX_PROBLEMS,
    BadSettings,
    Crawling,
    Endpoint,
    Output,
    Problem,
    RedisServers,
    Settings,
    Telemetry,
    bytes_of,
    describe,
    duration_text,
    load,
    redacted,
    seconds_of,
    sections,
    size_text,
)

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a settings file and returns its path."""

    def put(text: str | bytes, name: str = "spyder.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put


def value_of(tree: Settings, path: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = tree
    for name in path.split("."):
        value = getattr(value, name)
    return value


def problems_of(
    path: Path | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] = MappingProxyType({})
) -> tuple[Problem, ...]:
    """Return the problems that loading must have."""
    with pytest.raises(BadSettings) as caught:
        load(path, overrides=overrides, environ=environ)
    return caught.value.problems


def outcome(path: Path | None = None, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Return the problems that loading has, if any; they can be printed."""
    try:
        load(path, overrides=overrides, environ={})
    except BadSettings as error:
        str(error).encode()
        return error.problems
    return ()


def set_value(path: str, text: str) -> Any:
    """Return the value that a key has after `--set`."""
    return value_of(load(overrides=[f"{path}={text}"], environ={}).settings, path)


def refusal(path: str, text: str) -> str:
    """Return the message that one `--set` gives."""
    (problem,) = problems_of(overrides=[f"{path}={text}"])
    return problem.message


# --- values ----------------------------------------------------------------------------------------------------


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


# --- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "\n", "# nothing\n", "---\n", "{}", "null", "\ufeff", "crawling:\ndns:\n  # timeout: 5s\n", "{}\n...\n"],
)
def test_an_empty_file_is_all_defaults(text: str, write: Write) -> None:
    """A file without a value, or with empty sections, changes nothing and warns of nothing."""
    assert load(write(text), environ={}) == (Settings(), ())


def test_a_nested_file_is_read(write: Write) -> None:
    """Sections and keys of a YAML file reach the tree."""
    text = "ua: Probe/1\ncrawling:\n  concurrency: 8\n  http_timeout: 1m\nexclude_tlds:\n  - no\n  - .SE\n"
    tree = load(write(text), environ={}).settings
    assert (tree.ua, tree.crawling.concurrency, tree.crawling.http_timeout) == ("Probe/1", 8, 60.0)
    assert tree.exclude_tlds == ("no", "se")


def test_a_json_file_is_read(write: Write) -> None:
    """JSON is YAML; tabs that indent it, which YAML has not, do no harm."""
    text = json.dumps({"crawling": {"concurrency": 8, "continuous": False}, "exclude_tlds": []}, indent="\t")
    tree = load(write(text, "spyder.json"), environ={}).settings
    assert (tree.crawling.concurrency, tree.exclude_tlds) == (8, ())


def test_a_key_without_a_value_keeps_its_default_with_a_warning(write: Write) -> None:
    """`exclude_tlds:` alone is not taken for the empty list."""
    loaded = load(write("exclude_tlds:\ncrawling:\n  concurrency: ~\n"), environ={})
    assert loaded.settings == Settings()
    assert [warning.partition("line ")[2] for warning in loaded.warnings] == [
        "1: exclude_tlds: has no value; the default ([gov, mil, int]) holds",
        "3: crawling.concurrency: has no value; the default (256) holds",
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("crawling:\n  a: [1\nb: 2\n", 3, "expected ',' or ']'"),
        ("crawling:\n\tconcurrency: 3\n", 2, "'\\t'"),
        ("a: b: c\n", 1, "(column 5)"),
        ("- a\n- b\n", 1, "must hold keys"),
        ("just text\n", 1, "must hold keys"),
        ("probe: a\n---\nprobe: b\n", 2, "second document"),
        ("a: &x [1]\nb: *x\n", 1, "anchors (&)"),
        ("b: *x\n", 1, "aliases (*)"),
        ("probe: !!python/object/apply:os.system [id]\n", 1, "tags (!)"),
        ("? [a, b]\n: c\n", 1, "a key must be text"),
        ("probe: a\nua: \x07\n", 2, "control character"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: b\n", None, "a number that YAML does not allow"),
        ('ua: "\\UFFFFFFFF"\n', None, "a number that YAML does not allow"),
        ("probe: " + "[" * 100_000, 1, "6 levels"),
        ("exclude_tlds: [" + "a," * 30_000 + "]", 1, "20000 values"),
        (b"probe: a\nua: \xff\xfe\n", 2, "is not UTF-8 text"),
        ("probe: a".encode("utf-16"), 1, "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused_with_its_line(
    text: str | bytes, line: int | None, words: str, write: Write
) -> None:
    """Syntax errors, tabs, tags, aliases, foreign encodings: one problem with the line."""
    path = write(text)
    (problem,) = problems_of(path)
    assert problem.where == (f"file {path} line {line}" if line else f"file {path}")
    assert words in problem.message


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """An absent file, a directory and an impossible name are named, not raised."""
    for path in (tmp_path / "absent.yaml", tmp_path, Path("nul\0name")):
        (problem,) = problems_of(path)
        assert "cannot be read" in problem.message


def test_a_file_above_one_mebibyte_is_refused(write: Write) -> None:
    """A file of the limit is read, one byte more is refused unread; `/dev/zero` ends."""
    assert load(write("#" * MAX_FILE_BYTES), environ={}).settings == Settings()
    for path in (write("#" * (MAX_FILE_BYTES + 1)), Path("/dev/zero")):
        (problem,) = problems_of(path)
        assert "is larger than" in problem.message


def test_a_key_written_twice_is_refused(write: Write) -> None:
    """YAML would let the last one win in silence."""
    path = write("probe: a\ncrawling:\n  concurrency: 1\n  concurrency: 2\nprobe: b\n")
    assert [(problem.path, problem.where) for problem in problems_of(path)] == [
        ("crawling.concurrency", f"file {path} line 4"),
        ("probe", f"file {path} line 5"),
    ]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("crawling: {concurency: 1}", "crawling.concurency", "did you mean crawling.concurrency?"),
        ("crawling: {max_edges: 1}", "crawling.max_edges", "did you mean batch.max_edges?"),
        ("http_client: {PortHttps: 1}", "http_client.PortHttps", "did you mean http_client.port_https?"),
        ("spool-dir: x", "spool-dir", "did you mean output.spool_dir?"),
        ("crawl: {concurrency: 1}", "crawl", "did you mean crawling?"),
        ("exclude_tld: gov", "exclude_tld", "did you mean exclude_tlds?"),
        ("zzz: 1", "zzz", "is no setting"),
        ("crawling.concurrency: 1", "crawling.concurrency", "written with two lines"),
        ("crawling: 5", "crawling", "is a section"),
        ('"\\e[31mred": 1', "?[31mred", "is no setting"),
    ],
)
def test_an_unknown_key_is_refused_with_what_may_be_meant(text: str, key: str, words: str, write: Write) -> None:
    """A like name is offered; a control character of the file does not reach the terminal."""
    (problem,) = problems_of(write(text))
    assert problem.path == key
    assert words in problem.message


def test_all_problems_are_reported_at_once(write: Write) -> None:
    """File, environment, options, unknown keys, bad values and pairs that do not fit, in one go."""
    path = write("concurrency: fast\nnonsense: 1\nredis: 7\ndns:\n  timeout: 1x\noutput:\n  mtls_cert: /dev/null/x\n")
    found = problems_of(
        path,
        ["oops", "robots.on_error=maybe"],
        {"SPYDER_CRAWLING__PROCESSES": "none", "SPYDER_NO__SUCH": "1"},
    )
    assert sorted((problem.path, problem.where) for problem in found) == [
        ("", "--set"),
        ("crawling.concurrency", f"file {path} line 1"),
        ("crawling.processes", "environment SPYDER_CRAWLING__PROCESSES"),
        ("dns.timeout", f"file {path} line 5"),
        ("no.such", "environment SPYDER_NO__SUCH"),
        ("nonsense", f"file {path} line 2"),
        ("output.mtls_cert", f"file {path} line 7"),
        ("output.mtls_cert", f"file {path} line 7"),
        ("redis", f"file {path} line 3"),
        ("robots.on_error", "--set"),
    ]


def test_problems_render_one_a_line(write: Write) -> None:
    """`str()` of the error says where, which key, and what, a line each."""
    path = write("probe: a b\nbatch: {max_edges: 0}\n")
    with pytest.raises(BadSettings) as caught:
        load(path, environ={})
    assert str(caught.value).splitlines() == [
        f'file {path} line 1: probe: expected name of 1 to 128 letters, digits and . _ : @ -; found "a b"',
        f'file {path} line 2: batch.max_edges: expected whole number from 1 to 1000000; found "0"',
    ]


def test_a_flood_of_problems_is_cut_and_cheap(write: Write) -> None:
    """Thousands of unknown keys cost little and end in a count."""
    path = write("".join(f"concurrenzy{number}: 1\n" for number in range(9_000)))
    started = time.process_time()
    found = problems_of(path)
    assert time.process_time() - started < 5
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].message == f"and {9_000 - MAX_PROBLEMS} more problems"


@pytest.mark.parametrize("filler", ["a ", "[", "? ", "a:\n", '"', "\n", "- ", "{a: ", "&a ", "!"])
def test_a_hostile_file_of_the_full_size_costs_seconds_at_most(filler: str, write: Write) -> None:
    """A mebibyte of any one thing is read or refused in bounded time."""
    path = write((filler * MAX_FILE_BYTES)[:MAX_FILE_BYTES])
    started = time.process_time()
    with contextlib.suppress(BadSettings):
        load(path, environ={})
    assert time.process_time() - started < 10


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.text(alphabet="ab:{}[],&*!|>'\"%@`#-? \n\t~<=\\0x"), st.binary()))
def test_any_text_loads_or_raises_bad_settings(tmp_path: Path, text: str | bytes) -> None:
    """Whatever a file holds, nothing but the typed result escapes."""
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    assert all(problem.message for problem in outcome(path))


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["15s", "1GiB"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([name for info in describe() for name in info.path.split(".")]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES, st.sampled_from([info.path for info in describe()]))
def test_any_value_of_any_key_loads_or_raises_bad_settings(tmp_path: Path, value: object, path: str) -> None:
    """Real keys with values of every shape, from a file and from `--set`."""
    text = json.dumps(value)
    nested = value
    for name in reversed(path.split(".")):
        nested = {name: nested}
    file = tmp_path / "any.json"
    file.write_text(json.dumps(nested))
    found = outcome(file) + outcome(overrides=[f"{path}={text}"])
    assert all(problem.path and problem.message for problem in found)


# --- order -----------------------------------------------------------------------------------------------------


def test_set_wins_over_environment_over_file_over_default(write: Write) -> None:
    """Each source overrides the weaker ones, key by key."""
    path = write("crawling: {concurrency: 1, rate_burst: 1, max_domains: 1}\n")
    environ = {"SPYDER_CRAWLING__CONCURRENCY": "2", "SPYDER_CRAWLING__RATE_BURST": "2"}
    tree = load(path, overrides=["crawling.concurrency=3"], environ=environ).settings.crawling
    assert (tree.concurrency, tree.rate_burst, tree.max_domains, tree.max_depth) == (3, 2, 1, 1)


def test_a_stronger_source_overrides_another_name_of_the_setting(write: Write) -> None:
    """A flat name in the file and ours on the command line are the same setting."""
    assert load(write("concurrency: 1"), overrides=["crawling.concurrency=3"], environ={}).settings.crawling == (
        Crawling(concurrency=3)
    )


def test_the_last_set_of_a_key_counts() -> None:
    """As with other options, a later one replaces an earlier one, whichever name it uses."""
    tree = load(overrides=["concurrency=1", "crawling.concurrency=2"], environ={}).settings
    assert tree.crawling.concurrency == 2


def test_variables_of_spyder_are_read() -> None:
    """`REDIS_ADDR`, `REDIS_QUEUE_ADDR` and `REDIS_QUEUE_KEY` reach the tree; an empty one counts for none."""
    environ = {"REDIS_ADDR": "a:1", "REDIS_QUEUE_ADDR": "b:2", "REDIS_QUEUE_KEY": "k"}
    assert load(environ=environ).settings.redis == RedisServers(addr="a:1", queue_addr="b:2", queue_key="k")
    assert load(environ=dict.fromkeys(environ, "")).settings == Settings()


def test_the_environment_takes_text_as_it_stands() -> None:
    """Neither colons nor hashes nor YAML's words have a meaning in a variable."""
    environ = {"SPYDER_UA": "Probe/1 (a: b #c)", "SPYDER_EXCLUDE_TLDS": "no,se", "SPYDER_TELEMETRY__METRICS_ADDR": ":1"}
    tree = load(environ=environ).settings
    assert (tree.ua, tree.exclude_tlds) == ("Probe/1 (a: b #c)", ("no", "se"))
    assert tree.telemetry.metrics_addr == "0.0.0.0:1"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SPYDER_CRAWLING_CONCURRENCY", "did you mean SPYDER_CRAWLING__CONCURRENCY?"),
        ("SPYDER_CRAWLING__CONCURENCY", "did you mean SPYDER_CRAWLING__CONCURRENCY?"),
        ("SPYDER_CRAWLING", "is a section"),
        ("SPYDER_API_KEYS", "did you mean SPYDER_API__KEYS?"),
        ("SPYDER_", "is no setting"),
    ],
)
def test_an_unknown_variable_is_refused(name: str, words: str) -> None:
    """A variable that starts with our prefix and is no setting is a mistake to be told of."""
    (problem,) = problems_of(environ={name: "hidden-value"})
    assert problem.where == f"environment {name}"
    assert words in problem.message
    assert "hidden-value" not in str(problem)


def test_variables_that_are_not_settings_are_left_alone() -> None:
    """The tests' own variable, SPYDER's two that meant nothing, and those of Kubernetes do no harm."""
    names = (
        "SPYDER_SHARED_DATA SPYDER_REGION SPYDER_PORT SPYDER_SERVICE_HOST SPYDER_SERVICE_PORT_HTTP "
        "SPYDER_PORT_9090_TCP SPYDER_PORT_9090_TCP_ADDR SPYDER_REDIS_SERVICE_PORT SPYDER_API_PORT_80_TCP_PROTO PATH"
    )
    assert load(environ=dict.fromkeys(names.split(), "tcp://10.0.0.1:9090")) == (Settings(), ())


# --- SPYDER's files --------------------------------------------------------------------------------------------

# Every flat key of SPYDER (Go) that its code reads, with its default.
SPYDER_DEFAULTS = """
domains: domains.txt
probe: local-1
run: run-1700000000
ua: SPYDERProbe/1.0 (+https://github.com/gustycube/spyder)
exclude_tlds: [gov, mil, int]
concurrency: 256
batch_max_edges: 10000
batch_flush_sec: 2
ingest: ""
spool_dir: spool
output_format: json
mtls_cert: ""
mtls_key: ""
mtls_ca: ""
metrics_addr: ":9090"
otel_endpoint: ""
otel_insecure: true
otel_service: spyder-probe
redis_addr: ""
redis_queue_addr: ""
redis_queue_key: spyder:queue
"""
# As in its docker.yaml, and with what its documents show.
SPYDER_DOCKER = """
domains: /data/domains.txt
probe: docker-1
concurrency: 128
batch_max_edges: 5000
batch_flush_sec: 5
ingest: http://mock-ingest:8080/ingest
spool_dir: /spool
metrics_addr: 0.0.0.0:9090
otel_endpoint: http://otel:4318
redis_addr: redis:6379
redis_queue_addr: redis:6379
redis_queue_key: spyder:queue
"""
# The nested keys of its later documents.
SPYDER_NESTED = """
ua: SPYDERProbe/1.0 (+https://github.com/gustycube/spyder)
exclude_tlds: [gov, mil, int]
crawling:
  concurrency: 256
  rate_per_host: 1.0
  rate_burst: 1
  max_domains: 0
  continuous: false
  http_timeout: 15s
  tls_timeout: 8s
  body_max_bytes: 524288
http_client:
  MaxIdleConns: 1024
  MaxConnsPerHost: 128
  ResponseHeaderTimeout: 10s
  IdleConnTimeout: 30s
batch: {max_edges: 10000, flush_interval: 2s, node_threshold_ratio: 0.5}
output: {format: json, ingest: "", spool_dir: spool}
redis: {addr: ""}
telemetry: {metrics_addr: ":9090"}
logging: {level: info}
api: {rate_limit: 100, rate_burst: 20, keys: []}
"""


def test_every_flat_key_of_spyder_loads(write: Write) -> None:
    """SPYDER's defaults are ours, but for the run and the address of its metrics."""
    loaded = load(write(SPYDER_DEFAULTS), environ={})
    tree = loaded.settings
    assert tree.run == "run-1700000000"
    assert tree.telemetry.metrics_addr == "0.0.0.0:9090"
    expected = Settings(run=tree.run, telemetry=tree.telemetry)
    assert tree == expected
    assert any("domains: has no effect here: hosts are not named" in warning for warning in loaded.warnings)


def test_a_container_file_of_spyder_loads(write: Write) -> None:
    """Values other than the defaults arrive where ours are."""
    tree = load(write(SPYDER_DOCKER), environ={}).settings
    assert (tree.probe, tree.crawling.concurrency, tree.batch.max_edges) == ("docker-1", 128, 5000)
    assert tree.batch.flush_interval == 5.0
    assert tree.output == Output(ingest="http://mock-ingest:8080/ingest", spool_dir="/spool")
    assert tree.redis == RedisServers(addr="redis:6379", queue_addr="redis:6379")


def test_the_nested_keys_of_spyders_documents_load(write: Write) -> None:
    """Go's spelling of the client's keys is known; the ratio of nodes is answered with a warning."""
    loaded = load(write(SPYDER_NESTED), environ={})
    assert loaded.settings == Settings(telemetry=Telemetry(metrics_addr="0.0.0.0:9090"))
    assert any("batch.node_threshold_ratio: has no effect here" in warning for warning in loaded.warnings)


@pytest.mark.parametrize(("flat", "nested"), [("5", "5s"), ("300", "5m"), ("2", "2")])
def test_both_names_with_one_meaning_are_accepted(flat: str, nested: str, write: Write) -> None:
    """The values are compared by what they mean, not by how they are written."""
    path = write(f"batch_flush_sec: {flat}\nbatch: {{flush_interval: {nested}}}\n")
    assert load(path, environ={}).settings.batch.flush_interval == float(flat)


def test_both_names_with_different_values_are_a_problem(write: Write) -> None:
    """Neither name of a setting wins over the other within one source."""
    path = write("concurrency: 5\ncrawling:\n  concurrency: 6\n")
    (problem,) = problems_of(path)
    assert (problem.path, problem.where) == ("crawling.concurrency", f"file {path} line 3")
    assert f"differs from concurrency (file {path} line 1)" in problem.message
    (problem,) = problems_of(environ={"REDIS_ADDR": "a:1", "SPYDER_REDIS__ADDR": "a:2"})
    assert "differs" in problem.message


# --- pairs and files -------------------------------------------------------------------------------------------


def test_a_client_certificate_and_its_key_come_together(tmp_path: Path) -> None:
    """Either alone is refused; both, when they can be read, are taken."""
    pem = tmp_path / "x.pem"
    pem.write_text("")
    assert "needs output.mtls_key" in refusal("output.mtls_cert", str(pem))
    assert "needs output.mtls_cert" in refusal("mtls_key", str(pem))
    tree = load(overrides=[f"mtls_cert={pem}", f"mtls_key={pem}"], environ={}).settings
    assert tree.output.mtls_cert == str(pem)


def test_a_faulty_key_is_not_reported_again_for_what_depends_on_it() -> None:
    """A bad redis.addr is one problem, not also a missing one."""
    found = problems_of(overrides=["dedup.backend=redis", "redis.addr=nonsense"])
    assert [problem.path for problem in found] == ["redis.addr"]


def test_a_key_that_nothing_reads_yet_warns_when_it_is_changed() -> None:
    """Its default is silent, another value is not taken in silence."""
    unused = next(info for info in describe() if info.unused and info.type == "true or false")
    other = "false" if unused.default == "true" else "true"
    assert load(overrides=[f"{unused.path}={unused.default}"], environ={}).warnings == ()
    (warning,) = load(overrides=[f"{unused.path}={other}"], environ={}).warnings
    assert warning == f"--set: {unused.path}: has no effect yet: nothing reads it in this version"


# --- secrets ---------------------------------------------------------------------------------------------------

SECRET = "s3cr3t-s3cr3t"
SECRETS = [
    f"output.headers={{Authorization: Bearer {SECRET}}}",
    f"api.keys=[{{key: {SECRET}, name: ops, scope: read}}]",
    f"redis.addr=redis://user:{SECRET}@redis:6379/0",
    f"redis.queue_addr=redis://redis:6379/0?password={SECRET}",
    f"output.ingest=https://user:{SECRET}@ingest.example.com/v1?api_key={SECRET}",
    f"telemetry.otel_endpoint=https://{SECRET}@collector:4318",
]


def test_secrets_are_not_shown() -> None:
    """Neither what is shown nor the representation of the tree holds a secret; the rest of it is there."""
    tree = load(overrides=SECRETS, environ={}).settings
    shown = redacted(tree)
    assert SECRET not in json.dumps(shown) + repr(tree) + str(tree)
    assert shown["output"]["headers"] == {"Authorization": "***"}
    assert shown["api"]["keys"] == [{"key": "***", "name": "ops", "scope": "read"}]
    assert shown["redis"]["addr"] == "redis://***@redis:6379/0"
    assert shown["output"]["ingest"] == "https://***@ingest.example.com/v1?***"


@pytest.mark.parametrize(
    "override",
    [
        f"output.headers={{Authorization: '{SECRET}\t\x01'}}",
        f"output.headers={{'{SECRET}': }}",
        f"output.headers=[{SECRET}]",
        f"output.headers={{A: {SECRET}",
        f"api.keys=[{{key: {SECRET}, name: a b, scope: {SECRET}}}]",
        f"api.keys={SECRET}",
        f"redis.addr=http://:{SECRET}@redis",
        f"redis.addr=user:{SECRET}@redis:6379",
        f"output.ingest=ftp://user:{SECRET}@x/",
        f"telemetry.otel_endpoint=ftp://{SECRET}",
    ],
)
def test_a_refused_secret_is_not_shown(override: str) -> None:
    """The problem names the key and not the value."""
    with pytest.raises(BadSettings) as caught:
        load(overrides=[override], environ={})
    assert SECRET not in str(caught.value).replace(f"output.headers.{SECRET}", "")


# --- the tree, the sample and the page -------------------------------------------------------------------------


def test_the_tree_is_frozen_and_closed() -> None:
    """No value changes after loading, and no unknown name is taken."""
    with pytest.raises(ValidationError):
        Settings().crawling.concurrency = 3
    with pytest.raises(ValidationError):
        Crawling(concurency=3)  # type: ignore[call-arg]


def test_the_tree_goes_to_other_processes() -> None:
    """A tree with every kind of value survives pickling."""
    overrides = [*SECRETS, "dns.nameservers=[::1]:5353", "crawling.allow_addresses=10.0.0.0/8"]
    tree = load(overrides=overrides, environ={}).settings
    assert pickle.loads(pickle.dumps(tree)) == tree


def test_what_is_shown_loads_again(write: Write) -> None:
    """Without secrets, the shown tree as YAML or JSON is a settings file with the same meaning."""
    overrides = ["dns.nameservers=[::1]:5353,9.9.9.9", "crawling.allow_addresses=10.0.0.0/8"]
    overrides += ["crawling.host_budget=1h30m", "output.spool_max_bytes=1000001"]
    tree = load(overrides=overrides, environ={}).settings
    assert load(write(json.dumps(redacted(tree))), environ={}).settings == tree
    assert load(write(yaml.safe_dump(redacted(tree))), environ={}).settings == tree


def test_the_sample_is_exactly_the_defaults() -> None:
    """`etc/spyder.yaml` has every key, with its default, and gives no warning."""
    path = ROOT / "etc" / "spyder.yaml"
    assert load(path, environ={}) == (Settings(), ())
    held = yaml.safe_load(path.read_text())
    nested = {f"{name}.{leaf}" for name in sections() for leaf in held.pop(name)}
    assert nested | set(held) == {info.path for info in describe()}


def test_the_sample_and_the_page_are_made_from_the_tree() -> None:
    """What is committed is what `docs/make_settings.py` makes."""
    made = _make_settings()
    assert (ROOT / "etc" / "spyder.yaml").read_text() == made.sample()
    assert (ROOT / "docs" / "settings.md").read_text() == made.page()


def _make_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs" / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_key_and_section_is_described() -> None:
    """A description that ends a sentence, a type, a default that loads, a variable."""
    for info in describe():
        assert info.description.endswith(".")
        assert info.type
        assert load(overrides=[f"{info.path}={info.default}"], environ={}).settings == Settings()
        assert info.environment[0] == "SPYDER_" + info.path.replace(".", "__").upper()
    assert all(section.__doc__ for section in sections().values())


def test_the_names_of_the_design_are_there() -> None:
    """The keys that people type never go away."""
    promised = """
        probe run ua exclude_tlds
        crawling: concurrency processes rate_per_host rate_burst max_domains continuous max_depth http_timeout
            tls_timeout host_budget body_max_bytes allow_private_addresses
        http_client: max_idle_conns max_conns_per_host response_header_timeout idle_conn_timeout ca_bundle
            port_https port_http
        dns: nameservers timeout retries cache_size case_randomization
        batch: max_edges max_nodes flush_interval
        output: ingest format spool_dir spool_max_bytes headers mtls_cert mtls_key mtls_ca
        inbox: dir poll_interval
        dedup: backend max_entries ttl
        redis: addr queue_addr queue_key
        telemetry: metrics_addr otel_endpoint otel_service
        logging: level format
        api: rate_limit rate_burst keys
    """
    section, paths = "", set()
    for word in promised.split():
        if word.endswith(":"):
            section = word[:-1] + "."
        else:
            paths.add(section + word)
    assert paths <= {info.path for info in describe()}


def _keys_read_by_the_code() -> set[str]:
    """Return the keys that appear as `….section.key` (or `settings.key`) outside the settings themselves."""
    files = [file for file in (ROOT / "spyder").rglob("*.py") if file.name != "settings.py"]
    return {key for file in files for key in _keys_read_by(ast.parse(file.read_text()))}


def _keys_read_by(tree: ast.Module) -> Iterator[str]:
    sections_in_names: dict[str, str] = {}  # http = settings.http_client
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            sections_in_names |= {ast.unparse(name): ast.unparse(source) for name, source in pairs}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            owner = sections_in_names.get(owner, owner).rpartition(".")[2]
            yield node.attr if owner == "settings" else f"{owner}.{node.attr}"


def test_no_key_that_is_read_is_marked_unused() -> None:
    """Code that begins to read a key takes the mark off it."""
    read = _keys_read_by_the_code()
    assert [info.path for info in describe() if info.unused and info.path in read] == []


def test_every_key_that_is_not_read_is_marked_unused() -> None:
    """A key without effect says so in the sample, on the page and when it is set."""
    if not (ROOT / "spyder" / "daemon" / "wiring.py").exists():
        pytest.skip("nothing reads settings yet: there is no spyder/daemon/wiring.py")
    read = _keys_read_by_the_code()
    assert [info.path for info in describe() if not info.unused and info.path not in read] == []
