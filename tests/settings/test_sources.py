"""Which source wins, whose variables count, and what is wrong between keys."""

from pathlib import Path

import pytest

from spyder.settings import Crawling, RedisServers, Settings, describe, load
from tests.settings.loading import Write, problems_of, refusal


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
