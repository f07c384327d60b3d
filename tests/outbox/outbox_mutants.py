"""The outbox with one step in the wrong place: what a suite must notice, or it proves nothing.

Each is a method that is put in the place of the right one, by a test or in a process of its own. The syncs that are
left out are tables of system calls (`tests.runtime.disk_faults`).
"""

from typing import Any, Final

from spyder.outbox.batcher import Batcher
from spyder.outbox.spool import Claim

_hand_on: Final = Batcher._hand_on
_read: Final = Claim.read


def _acknowledge_first(batcher: Batcher, full: Any) -> None:
    batcher._on_promised(full.tasks)
    _hand_on(batcher, full)


def _mark_first(batcher: Batcher, full: Any) -> None:
    batcher._dedup.commit(full.keys)
    _hand_on(batcher, full)


def _unlink_first(claim: Claim) -> bytes:
    payload = _read(claim)
    claim.remove()
    return payload


MUTANTS: Final[dict[str, tuple[type, str, Any]]] = {
    "acknowledged before the promise": (Batcher, "_hand_on", _acknowledge_first),
    "dedup marked before the promise": (Batcher, "_hand_on", _mark_first),
    "unlinked before the answer": (Claim, "read", _unlink_first),
}
"""By what is wrong: class, method, and the method in its place."""
