"""How a batch is written for people and programs: JSON, JSON lines, CSV.

`json` is one batch a line, as SPYDER prints it. `jsonl` is one record a line and `csv` one edge a line, with the
names that SPYDER's own formatters have.
"""

import csv
import io
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Final

import orjson

from spyder.model.records import Batch
from spyder.outbox.payload import decode, encode

CSV_FIELDS: Final = (
    "batch_id",
    "timestamp",
    "probe_id",
    "run_id",
    "edge_type",
    "source",
    "target",
    "observed_at",
)


def as_json(batch: Batch) -> bytes:
    """Return the batch as one line."""
    return encode(batch).payload + b"\n"


def as_jsonl(batch: Batch) -> bytes:
    """Return the records of a batch, one a line: edges, nodes, outcomes."""
    lines = bytearray()  # not a join: each result of orjson holds a kilobyte until it is copied
    try:
        for head, record in _records(batch):
            lines += head + orjson.dumps(record) + b"}\n"
    except orjson.JSONEncodeError:  # a text that is none: mended as it is for `json`
        return as_jsonl(Batch(**decode(encode(batch).payload)))
    return bytes(lines)


def as_csv(batch: Batch) -> bytes:
    """Return the edges of a batch as rows of `CSV_FIELDS` (RFC 4180), without a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for edge in batch.edges:
        writer.writerow(
            (
                batch.batch_id,
                batch.timestamp,
                edge.probe_id,
                edge.run_id,
                edge.type.value,
                edge.source,
                edge.target,
                edge.observed_at,
            )
        )
    return text.getvalue().encode(errors="replace")


CSV_HEADER: Final = ",".join(CSV_FIELDS).encode() + b"\r\n"

FORMATS: Final[MappingProxyType[str, Callable[[Batch], bytes]]] = MappingProxyType(
    {"json": as_json, "jsonl": as_jsonl, "csv": as_csv}
)


def _records(batch: Batch) -> Iterator[tuple[bytes, object]]:
    """Return each record, and the beginning of its line: what is the same for all of its kind."""
    kinds = (
        ("edge", "edge", batch.edges),
        ("node_domain", "node", batch.nodes_domain),
        ("node_ip", "node", batch.nodes_ip),
        ("node_cert", "node", batch.nodes_cert),
        ("outcome", "outcome", batch.outcomes),
    )
    for kind, name, values in kinds:
        common = {
            "type": kind,
            "batch_id": batch.batch_id,
            "timestamp": batch.timestamp,
            "probe_id": batch.probe_id,
            "run_id": batch.run_id,
        }
        head = orjson.dumps(common)[:-1] + f',"{name}":'.encode()
        for value in values:
            yield head, value
