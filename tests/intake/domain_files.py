"""Domain files for the tests of the inbox: how they are dropped, worked off without a network, and judged."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spyder.intake.claim import ClaimedFile
from spyder.intake.inbox import Inbox
from spyder.intake.receipt import Receipt
from spyder.model.outcomes import Status
from spyder.model.records import Outcome

FATES = ("accepted", "duplicates", "excluded", "opted_out", "rejected", "set_aside")


def outcome(host: str, dns: Status = Status.OK, http: Status = Status.OK) -> Outcome:
    """Return how a visit of that host may have ended."""
    return Outcome(host, "2026-01-01T00:00:00.000000Z", dns=dns, robots=Status.OK, http=http, tls=Status.OK)


def found(inbox: Inbox) -> int:
    """Scan twice, as files need it to be taken; return how many are ready."""
    inbox.scan()
    return inbox.scan().ready


def claims(inbox: Inbox) -> list[ClaimedFile]:
    """Take everything that is complete."""
    found(inbox)
    return list(iter(inbox.claim_next, None))


def work(file: ClaimedFile, probe: Callable[[str], Outcome] = outcome, *, limit: int | None = None) -> list[str]:
    """Probe and promise the hosts of a file, or so many of them; return them."""
    hosts: list[str] = []
    while limit is None or len(hosts) < limit:
        ticket = next(file, None)
        if ticket is None:
            break
        ticket.begin()
        ticket.done(probe(ticket.host))
        hosts.append(ticket.host)
    return hosts


def finished(inbox: Inbox, probe: Callable[[str], Outcome] = outcome) -> list[Receipt]:
    """Take, work off and put away everything that is complete."""
    for file in claims(inbox):
        work(file, probe)
    settled = inbox.settle()
    assert settled.error is None, settled.error
    assert not settled.lost
    return list(settled.receipts)


def receipts(directory: Path) -> list[dict[str, Any]]:
    """Return all receipts that lie there, each of them checked."""
    paths = (path for place in ("done", "failed") for path in sorted((directory / place).glob("*.receipt.json")))
    return [checked(path) for path in paths]


def checked(path: Path) -> dict[str, Any]:
    """Return a receipt, whose numbers add up and whose file is beside it."""
    receipt: dict[str, Any] = json.loads(path.read_bytes())
    assert adds_up(receipt), receipt
    assert receipt["result"] == path.parent.name
    if "file_base64" not in receipt:
        assert (path.parent / receipt["file"]).exists()
    return receipt


def adds_up(receipt: dict[str, Any]) -> bool:
    """Tell whether every line, and every host of one, has exactly one fate, and every probed host one outcome."""
    fates = sum(receipt[fate] for fate in FATES)
    probed = receipt["accepted"] + receipt["excluded"] + receipt["opted_out"]
    return (
        receipt["lines"] + receipt["further_hosts"] == receipt["ignored"] + fates
        and receipt["ignored"] >= 0
        and receipt["further_hosts"] >= 0
        and all(sum(stage.values()) == probed for stage in receipt["outcomes"].values())
        and sum(receipt["rejected_by_reason"].values()) == receipt["rejected"]
        and len(receipt["rejected_lines"]) == min(receipt["rejected"], 1000)
        and len(receipt["set_aside_lines"]) == receipt["set_aside"]
    )


def listing(hosts: Iterable[str]) -> bytes:
    """Return a file with one host a line."""
    return b"".join(host.encode() + b"\n" for host in hosts)


def hosts(count: int, domain: str = "example.com") -> list[str]:
    """Return so many hosts."""
    return [f"host{number}.{domain}" for number in range(count)]
