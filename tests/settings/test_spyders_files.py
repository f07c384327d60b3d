"""Every key that SPYDER reads or documents still loads."""

import pytest

from spyder.settings import Output, RedisServers, Settings, Telemetry, load
from tests.settings.loading import Write, problems_of

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
