"""What the tree says and shows of itself, to people, to other processes and in the documents."""

import ast
import importlib.util
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import ValidationError

from spyder.settings import BadSettings, Crawling, Settings, describe, load, redacted, sections
from tests.settings.loading import Write

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "spyder"

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
    files = [file for file in CODE.rglob("*.py") if not file.is_relative_to(CODE / "settings")]
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
