"""A batch as bytes, and bytes as a batch: the JSON that lies in the spool and goes over the wire unchanged.

Place: between the batcher and the spool (`encode`), and where a batch is split or shown (`decode`). Pure; any thread.
"""

from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeVar

import orjson

from spyder.model.records import Batch, Edge, NodeCert, NodeDomain, NodeIP, Outcome

_Record = TypeVar("_Record", Edge, NodeCert, NodeDomain, NodeIP, Outcome)
_LARGEST_EXACT = 2**53 - 1  # RFC 8259, section 6: beyond this, receivers differ
_LISTS = ("nodes_domain", "nodes_ip", "nodes_cert", "edges", "outcomes")


class BadPayload(ValueError):
    """The bytes are not one JSON object."""


class Encoded(NamedTuple):
    """A batch as JSON, and what it took to make it so."""

    payload: bytes
    repaired: int
    """Records of which a text or a number could not be JSON, and was replaced."""
    dropped: int
    """Records left out, since their identity itself could not be written: a false tie is worse than none."""


def encode(batch: Batch) -> Encoded:
    """Return the JSON of a batch (RFC 8259, UTF-8, no white space). Never fails for what a record holds.

    The same batch always gives the same bytes. A lone surrogate becomes U+FFFD and a number beyond 2**53 the nearest
    that is not; where that would change what a node or an edge is about, that record alone is dropped.
    """
    try:
        return Encoded(orjson.dumps(batch), 0, 0)
    except orjson.JSONEncodeError:
        return _encode_one_by_one(batch)


def decode(payload: bytes) -> dict[str, Any]:
    """Return the object that the bytes hold; raise `BadPayload` for anything else. Nothing in it is validated."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BadPayload(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadPayload(f"not a JSON object but {type(found).__name__}")
    return found


def _encode_one_by_one(batch: Batch) -> Encoded:
    repaired = dropped = 0
    whole = {each.name: _sound(getattr(batch, each.name)) for each in fields(batch) if each.name not in _LISTS}
    for name in _LISTS:
        kept = []
        for record in getattr(batch, name):
            sound = _as_json(record)
            if sound is None:
                sound = _repaired(record)
                repaired += sound is not None
                dropped += sound is None
            if sound is not None:
                kept.append(orjson.Fragment(sound))
        whole[name] = kept
    return Encoded(orjson.dumps(whole), repaired, dropped)


def _repaired(record: _Record) -> bytes | None:
    mended = replace(record, **{each.name: _sound(getattr(record, each.name)) for each in fields(record)})
    if getattr(mended, "dedup_key", None) != getattr(record, "dedup_key", None):
        return None  # an outcome has no such key: every task keeps its outcome
    return _as_json(mended)


def _as_json(record: Any) -> bytes | None:
    try:
        return orjson.dumps(record)
    except orjson.JSONEncodeError:
        return None


def _sound(value: Any) -> Any:
    """Return the value in a form that JSON has; what has none becomes text."""
    if isinstance(value, str):
        return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-_LARGEST_EXACT, min(_LARGEST_EXACT, value))
    if isinstance(value, dict):
        return {_sound(str(key)): _sound(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(each) for each in value]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    return value if value is None or isinstance(value, bool | float) else repr(value)
