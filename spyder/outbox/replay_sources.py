"""Where `spyderctl replay-spool` finds batches beside those that are ready: dead/, and SPYDER's own spool directory.

Place: in the place of the spool before a `Shipper` that keeps its hands off what is refused (`park=False`). A file is
held by an flock like those of `spyder.outbox.spool`, so that two replays never send the same file, and a batch that is
requeued meanwhile is not shipped by the daemon before we let go. One thread each.
"""

import hashlib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from spyder.model.records import SCHEMA_VERSION
from spyder.outbox.payload import BadPayload, decode
from spyder.outbox.shipper import BadFile, CannotReplace
from spyder.outbox.spool import MAX_BATCH_BYTES, Name, Place, Spool, Usage
from spyder.runtime import durable

_SPYDER_NAME: Final = re.compile(r"\d{8}T\d{6}\.\d{9}\.json", re.ASCII)
_SPYDER_LISTS: Final = ("nodes_domain", "nodes_ip", "nodes_cert", "edges")


class _NotOurs:
    """What a file outside the spool cannot do."""

    def bury(self, why: Mapping[str, object]) -> None:
        """Leave it: whoever replays by hand decides."""

    def replace(self, parts: Iterable[tuple[str, bytes]]) -> object:  # noqa: ARG002 - as `Held` has it
        """Refuse: there is no place for halves."""
        raise CannotReplace("it is sent as it is, or not at all")


class _HeldDead(_NotOurs):
    def __init__(self, spool: Spool, name: Name, held: durable.OpenFile) -> None:
        self._spool = spool
        self._held = held
        self.name = name
        self.size = held.size

    def read(self) -> bytes:
        return self._spool.read(self.name, Place.DEAD)

    def remove(self) -> None:
        self._spool.discard(self.name, Place.DEAD)

    def release(self) -> None:
        self._held.close()


class DeadBatches:
    """The batches in dead/: those that are delivered after all leave it, the others stay."""

    def __init__(self, spool: Spool, directory: Path) -> None:
        """Open dead/ below the spool's directory. Raises `durable.DurableError`."""
        self._spool = spool
        self._dead = durable.Directory(directory / Place.DEAD)

    def ready(self, *, limit: int, after: Name | None = None) -> Sequence[Name]:
        """See `Spool.names`."""
        return self._spool.names(Place.DEAD, limit=limit, after=after)

    def claim(self, name: Name) -> _HeldDead | None:
        """See `Spool.claim`."""
        held = self._dead.hold(str(name))
        return _HeldDead(self._spool, name, held) if held else None

    def sync(self) -> None:
        """Do nothing: each removal was synced."""

    def usage(self) -> Usage:
        """Return how many there are."""
        return Usage(self._spool.usage().dead, 0, 0.0, 0, 0)

    def close(self) -> None:
        """Give up the directory."""
        self._dead.close()


class _HeldSpyderFile(_NotOurs):
    def __init__(self, directory: durable.Directory, file: str, held: durable.OpenFile) -> None:
        self._directory = directory
        self._file = file
        self._held = held
        self.size = held.size
        self.name = Name("", "", "")

    def read(self) -> bytes:
        if self.size > MAX_BATCH_BYTES:
            raise BadFile(f"{self.size} bytes; the most is {MAX_BATCH_BYTES}")
        batch_id, payload = from_spyder(self._file, self._held.read(MAX_BATCH_BYTES))
        self.name = Name.of(batch_id, payload)
        return payload

    def remove(self) -> None:
        self._directory.unlink(self._file)

    def release(self) -> None:
        self._held.close()


class SpyderFiles:
    """The flat `20060102T150405.000000000.json` files that SPYDER spools. What is damaged stays where it is."""

    def __init__(self, directory: Path) -> None:
        """Open the directory. Raises `durable.DurableError`."""
        self._directory = durable.Directory(directory)

    def ready(self, *, limit: int, after: str | None = None) -> Sequence[str]:
        """Return the oldest files, at most `limit`, and newer than `after`. Raises `durable.DurableError`."""
        names = (entry.name for entry in self._directory.scan() if entry.name > (after or ""))
        return heapq.nsmallest(limit, (name for name in names if _SPYDER_NAME.fullmatch(name)))

    def claim(self, name: str) -> _HeldSpyderFile | None:
        """See `Spool.claim`."""
        held = self._directory.hold(name)
        return _HeldSpyderFile(self._directory, name, held) if held else None

    def sync(self) -> None:
        """See `Spool.sync`."""
        self._directory.sync()

    def usage(self) -> Usage:
        """Return how many there are."""
        files = sum(1 for entry in self._directory.scan() if _SPYDER_NAME.fullmatch(entry.name))
        return Usage(files, 0, 0.0, 0, 0)

    def close(self) -> None:
        """Give up the directory."""
        self._directory.close()


def spyder_time(file: str) -> datetime | None:
    """Return when SPYDER wrote a file, by its name, to the second; None for a time that is none."""
    try:
        return datetime.strptime(f"{file[:15]}+0000", "%Y%m%dT%H%M%S%z")
    except ValueError:
        return None


def from_spyder(file: str, content: bytes) -> tuple[str, bytes]:
    """Return id and bytes of a batch that SPYDER spooled, in our schema as far as it goes.

    What it has stays as it is. A list that is null is empty, as Go means it; `schema_version`, `outcomes`, the
    `timestamp` (of the file's name) and the `batch_id` are added. The id is made of the content alone (a UUIDv8, RFC
    9562, section 5.8, of its SHA-256), so that the same file has the same id however often it is sent.

    Raises `BadFile`.
    """
    try:
        found = decode(content)
    except BadPayload as error:
        raise BadFile(f"{error}; cut short when it was written?" if content else "empty") from None
    if not any(name in found for name in _SPYDER_LISTS):
        raise BadFile("no batch of SPYDER's")
    lists = {name: [] if found.get(name) is None else found[name] for name in (*_SPYDER_LISTS, "outcomes")}
    for name, records in lists.items():
        if not isinstance(records, list):
            raise BadFile(f"{name} is not a list")
    batch_id = _batch_id(found, content)
    whole: dict[str, Any] = {"batch_id": batch_id, "timestamp": _timestamp(file), "schema_version": SCHEMA_VERSION}
    whole |= {name: value for name, value in found.items() if value is not None} | {"batch_id": batch_id} | lists
    return batch_id, orjson.dumps(whole)


def _batch_id(found: Mapping[str, Any], content: bytes) -> str:
    own = found.get("batch_id")
    try:
        return Name.of(own, b"").batch_id if isinstance(own, str) else _uuid_of(content)
    except ValueError:
        return _uuid_of(content)


def _uuid_of(content: bytes) -> str:
    number = int.from_bytes(hashlib.sha256(content).digest()[:16])
    number = number & ~(0xF << 76) | 8 << 76  # the version
    return f"{number & ~(3 << 62) | 2 << 62:032x}"  # the variant


def _timestamp(file: str) -> str:
    moment = spyder_time(file)
    if moment is None:
        raise BadFile("its name is not a time")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{file[15:25]}Z"
