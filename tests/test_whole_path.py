"""The main job: the real command over the simulated network, held against the graph that must come out of it."""

from collections.abc import Sequence
from pathlib import Path

from spyder.lab import Lab
from spyder.model.records import EdgeType
from tests.cli.spyderctl import Ended, run
from tests.shared_data import shared

STAGES = ("dns", "robots", "http", "tls")


def probe(lab: Lab, directory: Path, *, limit_s: float = 120.0, more: Sequence[str] = ()) -> Ended:
    """Run `spyderctl probe` over all hosts of a lab, with 256 workers."""
    lab.clear_counters()
    out = directory / "out.jsonl"
    ended = run(
        *("probe", "-f", lab.hosts_path, "-o", out, "--config", lab.settings_path),
        *("--set", "crawling.concurrency=256", *more),
        limit_s=limit_s,
    )
    assert ended.status == 0, ended.stderr
    return Ended(ended.status, out.read_bytes(), ended.stderr)


def hold(lab: Lab, ended: Ended) -> None:
    """Hold a run against what the lab expects: outcomes, edges, connections."""
    found = {host: {stage: outcome[stage] for stage in STAGES} for host, outcome in ended.outcomes.items()}
    odd = {
        f"{host} ({lab.expected.traits[host]})": (outcome, found.get(host))
        for host, outcome in lab.expected.outcomes.items()
        if found.get(host) != outcome
    }
    assert not odd
    assert set(found) == set(lab.hosts)
    assert {kind for _, kind, _ in ended.edges} <= {kind.value for kind in EdgeType}
    assert not lab.expected.edges - ended.edges, "missing"
    assert not ended.edges - lab.expected.edges, "not expected"
    hold_connections(lab)


def hold_connections(lab: Lab) -> None:
    """A healthy host costs one TLS handshake, one robots.txt and one page, counted by the server."""
    counted = lab.counters()
    asked: dict[str, dict[str, int]] = {}
    for url, times in counted["requests"].items():
        asked.setdefault(url.split("/")[2], {})[url] = times
    assert lab.expected.healthy
    for host in lab.expected.healthy:
        assert (host, counted["hellos"].get(host), counted["handshakes"].get(host)) == (host, 1, 1)
        assert asked[host] == {f"https://{host}/robots.txt": 1, f"https://{host}/": 1}


def hold_nodes(ended: Ended) -> None:
    """Each node and edge is told once, and every end of an edge is a node."""
    hosts = [node["host"] for batch in ended.batches for node in batch["nodes_domain"]]
    ips = [node["ip"] for batch in ended.batches for node in batch["nodes_ip"]]
    certificates = [node["spki_sha256"] for batch in ended.batches for node in batch["nodes_cert"]]
    edges = [tuple(edge[key] for key in ("source", "type", "target")) for b in ended.batches for edge in b["edges"]]
    for each in (hosts, ips, certificates, edges):
        assert len(each) == len(set(each))
    ends = {"RESOLVES_TO": set(ips), "USES_CERT": set(certificates)}
    for source, kind, target in edges:
        assert source in set(hosts)
        assert target in ends.get(kind, set(hosts))


def test_200_sites_yield_their_graph_and_nothing_else(tmp_path: Path) -> None:
    """Every expected edge and no other of the six types, one outcome a host, one handshake a healthy host."""
    with Lab(tmp_path / "lab", sites=200) as lab:
        ended = probe(lab, tmp_path)
        hold(lab, ended)
    hold_nodes(ended)
    assert "200 hosts in" in ended.stderr


def test_2000_sites_yield_their_graph_and_nothing_else(tmp_path: Path) -> None:
    """The same with ten times as many: more hosts than workers, several batches."""
    with Lab(tmp_path / "lab", sites=2000) as lab:
        ended = probe(lab, tmp_path, limit_s=300)
        hold(lab, ended)
    hold_nodes(ended)
    assert len(ended.batches) > 1


def test_real_pages_yield_their_outside_hosts(tmp_path: Path) -> None:
    """35 pages of the world, each a site of its own: the links that another parser found, and no other."""
    with Lab(tmp_path / "lab", sites=2, pages=shared("pages")) as lab:
        ended = probe(lab, tmp_path)
        hold(lab, ended)
        pages = {host for host, trait in lab.expected.traits.items() if trait == "real_page"}
    linking = {source for source, kind, _ in ended.edges if kind == "LINKS_TO"}
    assert len(pages) == 35
    assert len(pages & linking) > 25
    assert sum(kind == "LINKS_TO" for _, kind, _ in ended.edges) > 400
