"""One life of a spool, which says what it promises, and the judge of what is left of it after a fault."""

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from spyder.outbox.spool import BadBatch, Name, Place, Spool, half_ids
from spyder.runtime import durable

Note = Callable[..., None]

IDS = {letter: f"0193{number:08x}7000800000000000000{letter}" for number, letter in enumerate("abcde")}
PAYLOADS = {batch_id: f'{{"batch_id":"{batch_id}","edges":[]}}'.encode() * 3 for batch_id in IDS.values()}
HALVES = {half: PAYLOADS[IDS["c"]][:40] + half.encode() for half in half_ids(IDS["c"])}
PARTS = PAYLOADS | HALVES


def open_spool(directory: Path, calls: durable.Calls = durable.SYSTEM_CALLS) -> Spool:
    """Open a spool that uses the last byte of a small disk."""
    return Spool(directory, reserve_bytes=0, reserve_files=0, calls=calls)


def live(directory: Path, note: Note, calls: durable.Calls = durable.SYSTEM_CALLS) -> None:
    """Open a spool, and do everything once that can be done to a batch; a step that fails does not end the rest."""
    try:
        spool = open_spool(directory, calls)
    except durable.DurableError as error:
        note("error", type(error).__name__, str(error.errno))
        return
    with spool:
        live_in(spool, note)


def live_in(spool: Spool, note: Note) -> None:
    """Write four batches: one is delivered, one buried and requeued, one split, one only waits; then one more."""
    for letter in "abcd":
        _attempt(note, partial(_write, spool, IDS[letter], note))
    _attempt(note, lambda: _each(spool, note))
    _attempt(note, lambda: _requeue_all(spool))
    _attempt(note, spool.sync)
    _attempt(note, lambda: _write(spool, IDS["e"], note))


def _attempt(note: Note, act: Callable[[], object]) -> None:
    try:
        act()
    except durable.DurableError as error:
        note("error", type(error).__name__, str(error.errno))
    except BadBatch as damage:
        note("bad", damage.name.batch_id)


def _write(spool: Spool, batch_id: str, note: Note) -> None:
    spool.write(batch_id, PAYLOADS[batch_id])
    note("promised", batch_id)


def _requeue_all(spool: Spool) -> None:
    for name in spool.names(Place.DEAD, limit=10):
        spool.requeue(name)


def _each(spool: Spool, note: Note) -> None:
    for name in spool.ready(limit=10):
        _attempt(note, partial(_one, spool, name, note))


def _one(spool: Spool, name: Name, note: Note) -> None:
    claim = spool.claim(name)
    if claim is None:
        return
    with claim:
        payload = claim.read()
        if payload != PARTS[name.batch_id]:
            raise AssertionError(f"{name} was read as {payload!r}")  # a mutant of the reader; no fault ends here
        if name.batch_id == IDS["a"]:
            note("delivered", name.batch_id)
            claim.remove()
        elif name.batch_id == IDS["b"]:
            claim.bury({"status": 400})
        elif name.batch_id == IDS["c"]:
            claim.replace(HALVES.items())


def judge(files: dict[tuple[Place, Name], bytes], notes: list[tuple[str, ...]]) -> list[str]:
    """Return what is wrong with the files that are left, after all that was said; nothing for a sound spool."""
    whole = {name.batch_id for (place, name), payload in files.items() if payload == PARTS[name.batch_id]}
    torn = [f"torn: {place}/{name}" for (place, name) in files if name.batch_id not in whole]
    done = {words[1] for words in notes if words[0] == "delivered"}
    promised = [words[1] for words in notes if words[0] == "promised"]
    lost = [each for each in promised if each not in whole | done and not set(half_ids(each)) <= whole]
    return torn + [f"lost: {each}" for each in lost]


def look(directory: Path) -> dict[tuple[Place, Name], bytes]:
    """Start anew over what is left, as the next owner does, and return every batch file as it can be read."""
    found = {}
    with open_spool(directory) as spool:
        for place in (Place.READY, Place.DEAD, Place.BAD):
            for name in spool.names(place, limit=1000):
                found[place, name] = b"damaged"
                with suppress(BadBatch):
                    found[place, name] = spool.read(name, place)
        usage = spool.usage()
        if usage.files != sum(place is Place.READY for place, _ in found):
            raise AssertionError(f"{usage} for {list(found)}")
    left = [path for path in directory.rglob("*") if path.name.endswith(".tmp")]
    if left:
        raise AssertionError(f"left over after a start: {left}")
    return found


def error_class_is_right(notes: list[tuple[str, ...]]) -> bool:
    """Tell whether each error says what to do: wait, or distrust the disk."""
    for words in notes:
        if words[0] == "error":
            suspect = int(words[2]) == errno.EIO
            if suspect == (words[1] == "Unavailable"):
                return False
    return True
