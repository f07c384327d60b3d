"""Batches as people and programs read them."""

import csv
import io
import json
from dataclasses import replace

import pytest

from spyder.model.records import Batch, EdgeType
from spyder.outbox.formats import CSV_FIELDS, CSV_HEADER, FORMATS, as_csv, as_json, as_jsonl
from tests.reports import MOMENT, edge, report

ID = "0" * 32


def batch_of(*hosts: str) -> Batch:
    """Return a batch of reports."""
    reports = [report(host, ["x.test"], ip="192.0.2.1", spki="key+/=") for host in hosts]
    return Batch(
        ID,
        MOMENT,
        "probe",
        "run",
        [node for each in reports for node in each.nodes_domain],
        [node for each in reports for node in each.nodes_ip],
        [node for each in reports for node in each.nodes_cert],
        [tie for each in reports for tie in each.edges],
        [each.outcome for each in reports],
    )


def test_json_is_one_batch_a_line() -> None:
    """One object, no line end within it, as SPYDER prints."""
    line = as_json(batch_of("a.test"))
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert json.loads(line)["batch_id"] == ID


def test_lists_of_json_are_never_null() -> None:
    """An empty list is `[]`."""
    found = json.loads(as_json(Batch(ID, MOMENT, "probe", "run")))
    assert [found[name] for name in ("nodes_domain", "nodes_ip", "nodes_cert", "edges", "outcomes")] == [[]] * 5


def test_jsonl_is_one_record_a_line() -> None:
    """Edges first, then nodes, then outcomes, each with the batch that it comes from."""
    records = [json.loads(line) for line in as_jsonl(batch_of("a.test")).splitlines()]
    kinds = ["edge", "node_domain", "node_domain", "node_ip", "node_cert", "outcome"]
    assert [record["type"] for record in records] == kinds
    assert {record["batch_id"] for record in records} == {ID}
    assert records[0]["edge"] == {
        "type": "LINKS_TO",
        "source": "a.test",
        "target": "x.test",
        "observed_at": MOMENT,
        "probe_id": "probe",
        "run_id": "run",
    }
    assert records[-1]["outcome"]["host"] == "a.test"


def test_csv_is_one_edge_a_row() -> None:
    """The fields of the header, and the values of the edge."""
    text = (CSV_HEADER + as_csv(batch_of("a.test", "b.test"))).decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == list(CSV_FIELDS)
    assert rows[1] == [ID, MOMENT, "probe", "run", "LINKS_TO", "a.test", "x.test", MOMENT]
    assert len(rows) == 3


def test_csv_quotes_what_dns_may_hold() -> None:
    """A name may hold commas, quotes and escapes; the row stays one."""
    name = 'odd,"name"\\010.test'
    batch = replace(batch_of(), edges=[edge("a.test", name, EdgeType.USES_NS)])
    (row,) = csv.reader(io.StringIO(as_csv(batch).decode(), newline=""))
    assert row[6] == name


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_text_that_is_none_costs_no_batch(form: str) -> None:
    """A lone surrogate, which no encoding has, is replaced; the rest of the batch is written."""
    batch = batch_of("a.test", "b.test")
    outcomes = [replace(outcome, detail="\ud800 broken") for outcome in batch.outcomes]
    written = FORMATS[form](replace(batch, outcomes=outcomes))
    assert b"a.test" in written
    if form != "csv":
        assert "\ufffd broken".encode() in written or b"\\ufffd broken" in written


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_empty_batch_can_be_written(form: str) -> None:
    """No record is no fault."""
    assert isinstance(FORMATS[form](Batch(ID, MOMENT, "probe", "run")), bytes)
