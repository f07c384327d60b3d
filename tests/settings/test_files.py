"""Settings files: what is read, and how a broken or hostile file is refused, with its line."""

import contextlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spyder.settings import MAX_FILE_BYTES, MAX_PROBLEMS, BadSettings, Settings, describe, load
from tests.settings.loading import Write, outcome, problems_of


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
