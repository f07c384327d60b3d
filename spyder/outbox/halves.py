"""A batch in two halves, for one that is too large: for the spool, or for whoever is to take it.

Place: beside the store (before the spool) and the shipper (after it). Pure; any thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from spyder.model.records import Batch
from spyder.outbox.payload import decode
from spyder.outbox.spool import half_ids

_LISTS: Final = ("nodes_domain", "nodes_ip", "nodes_cert", "edges", "outcomes")


def halves_of(batch: Batch) -> list[Batch]:
    """Return the two halves of a batch, with the ids of `half_ids`; nothing where it has fewer than two records.

    Every record is in one of them, in the order it had.
    """
    parts = _halved({name: getattr(batch, name) for name in _LISTS})
    return [replace(batch, batch_id=each, **part) for each, part in zip(half_ids(batch.batch_id), parts, strict=False)]


def halves_of_payload(batch_id: str, payload: bytes) -> list[tuple[str, bytes]]:
    """Return ids and bytes of the two halves of a batch that is bytes already; nothing where it cannot be halved.

    What is in it beside the lists of records is in both. The same bytes always give the same halves. Raises
    `payload.BadPayload`.
    """
    whole = decode(payload)
    parts = _halved({name: whole[name] for name in _LISTS if isinstance(whole.get(name), list)})
    return [
        (each, orjson.dumps(whole | {"batch_id": each} | part))
        for each, part in zip(half_ids(batch_id), parts, strict=False)
    ]


def _halved(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Cut the lists, one after the other as they stand, in the middle of them all."""
    total = sum(map(len, lists.values()))
    if total < 2:
        return []
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    left = total // 2
    for name, records in lists.items():
        cut = min(left, len(records))
        first[name], second[name] = records[:cut], records[cut:]
        left -= cut
    return [first, second]
