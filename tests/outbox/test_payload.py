"""Batches as JSON, and what becomes of records that JSON cannot hold."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from spyder.model.records import Batch, Edge, EdgeType, NodeCert, NodeDomain, Outcome, rfc3339
from spyder.outbox.payload import BadPayload, decode, encode

_EDGE = Edge(EdgeType.LINKS_TO, "a.example", "b.example", rfc3339(0), "probe", "run")
_CERT = NodeCert(
    "spki", "cn", "issuer", None, None, ("a.example",), "1", "00", "sha256", verified=True, verify_error=None
)
_BATCH = Batch("id", rfc3339(0), "probe", "run", edges=[_EDGE], outcomes=[Outcome("a.example", rfc3339(0))])


def test_a_batch_comes_back_as_it_was() -> None:
    """Every field has its wire name; lists are never null; enumerations are their values."""
    payload, repaired, dropped = encode(_BATCH)
    found = decode(payload)
    assert (repaired, dropped) == (0, 0)
    assert found == json.loads(payload)
    assert found["edges"][0] == {
        "type": "LINKS_TO", "source": "a.example", "target": "b.example",
        "observed_at": "1970-01-01T00:00:00.000000Z", "probe_id": "probe", "run_id": "run",
    }  # fmt: skip
    assert found["nodes_ip"] == []
    assert found["schema_version"] == 1


def test_the_same_batch_gives_the_same_bytes() -> None:
    """A batch that is written anew has the checksum that it had."""
    assert encode(_BATCH) == encode(replace(_BATCH))
    odd = replace(_BATCH, outcomes=[replace(_BATCH.outcomes[0], detail="\ud800")])
    assert encode(odd) == encode(replace(odd))


@pytest.mark.parametrize(
    ("detail", "repaired"), [("x\ud800y", "x\ufffdy"), ("\ud83d\ude00", "\U0001f600"), (b"\xffa", "\ufffda")]
)
def test_a_text_that_is_no_unicode_is_repaired(detail: Any, repaired: str) -> None:
    """A lone surrogate becomes U+FFFD, a pair becomes its character, and the record stays."""
    outcome = replace(_BATCH.outcomes[0], detail=detail)
    payload, count, dropped = encode(replace(_BATCH, outcomes=[outcome, *_BATCH.outcomes]))
    assert (count, dropped) == (1, 0)
    assert [each["detail"] for each in decode(payload)["outcomes"]] == [repaired, None]


def test_a_record_whose_identity_is_no_unicode_is_dropped_alone() -> None:
    """A tie to a name that nobody has is worse than none; all else of the batch goes on."""
    edges = [_EDGE, replace(_EDGE, target="b\udc00"), replace(_EDGE, target="c.example")]
    nodes = [NodeDomain("a\ud800", "a.example", "", ""), NodeDomain("b.example", "b.example", "", "")]
    payload, repaired, dropped = encode(replace(_BATCH, edges=edges, nodes_domain=nodes))
    found = decode(payload)
    assert (repaired, dropped) == (0, 2)
    assert [each["target"] for each in found["edges"]] == ["b.example", "c.example"]
    assert [each["host"] for each in found["nodes_domain"]] == ["b.example"]
    assert set(found) == set(decode(encode(_BATCH).payload))


def test_an_outcome_is_never_dropped() -> None:
    """As many outcomes as tasks, whatever one of them holds: texts, numbers and maps are repaired."""
    garbage: Any = {"dns_errors": {"A\ud800": b"\xff"}, "detail": object()}
    odd = replace(_BATCH.outcomes[0], host="a\ud800", elapsed_ms=2**70, **garbage)
    payload, repaired, dropped = encode(replace(_BATCH, outcomes=[odd]))
    (found,) = decode(payload)["outcomes"]
    assert (repaired, dropped) == (1, 0)
    assert (found["host"], found["elapsed_ms"], found["dns_errors"]) == ("a\ufffd", 2**53 - 1, {"A\ufffd": "\ufffd"})


def test_a_certificate_with_odd_names_is_kept() -> None:
    """Its identity is its key; a subject that is no Unicode costs the subject only."""
    cert = replace(_CERT, subject_cn="\ud800", sans=("\udc00", "a.example"))
    payload, repaired, dropped = encode(replace(_BATCH, nodes_cert=[cert], probe_id="p\ud800"))
    found = decode(payload)
    assert (repaired, dropped) == (1, 0)
    assert found["nodes_cert"][0]["sans"] == ["\ufffd", "a.example"]
    assert found["probe_id"] == "p\ufffd"


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"{", b'{"a":"\xff"}', b"[" * 100_000, b'{"a":NaN}', b"\0" * 99]
)
def test_what_is_no_object_is_refused(payload: bytes) -> None:
    """Anything but one JSON object is a typed error, at once."""
    with pytest.raises(BadPayload):
        decode(payload)


def test_ten_thousand_edges_cost_little() -> None:
    """A full batch is encoded well within the 50 ms of CPU that it may cost to make it durable."""
    edges = [replace(_EDGE, source=f"host{n}.example", target=f"target{n}.example") for n in range(10_000)]
    costs = []
    for _ in range(5):
        start = time.process_time()
        encode(replace(_BATCH, edges=edges))
        costs.append(time.process_time() - start)
    assert min(costs) < 0.05
