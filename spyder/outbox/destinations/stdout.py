"""`stdout:`: batches printed, for `spyderctl probe` and for pipes.

Place: the last step of the path. The lock is held through the write: it is the order of the output, and who reads it
slowly slows the sender down, as a pipe should.
"""

import os
import select
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, cast

from spyder.model.records import Batch, Edge, EdgeType
from spyder.outbox.batch_log import NO_ROOM, as_line
from spyder.outbox.destinations.delivery import Delivery, Verdict, delivery
from spyder.outbox.formats import CSV_HEADER, as_csv, as_jsonl
from spyder.outbox.payload import BadPayload, decode


class StdoutDestination:
    """Writes batches to a file descriptor. Thread-safe. Nothing is synced: delivered means handed to the system."""

    def __init__(self, *, fd: int = 1, form: str = "json") -> None:
        """Write nothing yet. `form` is one of `FORMS`; the descriptor stays the caller's."""
        self._fd = fd
        self._form = FORMS[form]
        self._lock = threading.Lock()
        self._last_id = ""
        self._rest = memoryview(CSV_HEADER if form == "csv" else b"")

    def send(self, batch_id: str, payload: bytes) -> Delivery:
        """See `Destination.send`."""
        try:
            text = self._form(batch_id, payload)
        except BadPayload as error:
            return delivery(Verdict.REFUSED, str(error))
        try:
            with self._lock:
                # a full disk may have cut the batch before this one off in the middle: its rest comes first
                self._write_rest()
                if batch_id != self._last_id:
                    self._last_id, self._rest = batch_id, memoryview(text)
                    self._write_rest()
        except BrokenPipeError:
            return delivery(Verdict.HOLD, "nobody reads standard output any more")
        except OSError as error:
            verdict = Verdict.TRY_LATER if error.errno in NO_ROOM else Verdict.HOLD
            return delivery(verdict, f"standard output: {error.strerror}")
        return delivery(Verdict.DELIVERED, "on standard output")

    def close(self) -> None:
        """See `Destination.close`."""

    def _write_rest(self) -> None:
        while self._rest:
            try:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            except BlockingIOError:  # another program made the terminal or pipe that it shares with us so
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()


def _jsonl(batch_id: str, payload: bytes) -> bytes:
    return as_jsonl(_batch(batch_id, decode(payload)))


def _csv(batch_id: str, payload: bytes) -> bytes:
    batch = _batch(batch_id, decode(payload))
    try:
        edges = [Edge(**{**edge, "type": EdgeType(edge["type"])}) for edge in cast("list[Any]", batch.edges)]
    except (KeyError, TypeError, ValueError) as error:
        raise BadPayload(f"an edge is none: {error}") from None
    return as_csv(replace(batch, edges=edges))


def _batch(batch_id: str, whole: dict[str, Any]) -> Batch:
    """Return the parts of a batch under their names; its records stay the mappings that they are in JSON."""
    return Batch(
        batch_id=batch_id,
        timestamp=str(whole.get("timestamp", "")),
        probe_id=str(whole.get("probe_id", "")),
        run_id=str(whole.get("run_id", "")),
        nodes_domain=_list(whole, "nodes_domain"),
        nodes_ip=_list(whole, "nodes_ip"),
        nodes_cert=_list(whole, "nodes_cert"),
        edges=_list(whole, "edges"),
        outcomes=_list(whole, "outcomes"),
    )


def _list(whole: dict[str, Any], name: str) -> list[Any]:
    found = whole.get(name) or []
    if not isinstance(found, list):
        raise BadPayload(f"{name} is not a list")
    return found


FORMS: Final[Mapping[str, Callable[[str, bytes], bytes]]] = MappingProxyType(
    {"json": as_line, "jsonl": _jsonl, "csv": _csv}
)
"""The same as `spyder.outbox.formats.FORMATS`, of batches that are bytes already."""
