"""One life of an inbox, which says what it promises, and the judge of what is left when others have finished it."""

import gzip
from collections.abc import Callable
from pathlib import Path

from spyder.intake.claim import ClaimedFile, Ticket
from spyder.intake.inbox import Inbox
from spyder.runtime import durable
from tests.intake import domain_files

Note = Callable[..., None]

FILES = {
    "list": b"# six\na.example\nb.example\na.example\n127.0.0.1 c.example d.example\nbad_$\ne.example\nf.example\n",
    "cut.gz": gzip.compress(b"".join(b"host%d.example\n" % (number * 7919 % 99991) for number in range(12)), mtime=0)[
        :-12
    ],
}
ONE_LINE = {"c.example", "d.example"}  # they come again together
PLACES = {"list": "done", "cut.gz": "failed"}
ACCEPTED = {"list": 6}
LINES = {"list": 8}


def drop(directory: Path, calls: durable.Calls = durable.SYSTEM_CALLS) -> None:
    """Put the files in, through these system calls."""
    with durable.Directory(directory, calls=calls) as inbox:
        for name, content in FILES.items():
            inbox.write_whole(name, content)


def drop_plainly(directory: Path) -> None:
    """Make a directory with the files in it."""
    directory.mkdir(parents=True)
    for name, content in FILES.items():
        (directory / name).write_bytes(content)


def live(directory: Path, note: Note, calls: durable.Calls = durable.SYSTEM_CALLS) -> None:
    """Take up what there is, take what is complete, work it off and put it away; what fails does not end the rest."""
    try:
        inbox = Inbox(directory, run_id="run-1", calm_s=0.0, calls=calls)
    except durable.DurableError as error:
        note("error", type(error).__name__, str(error.errno))
        return
    files: list[ClaimedFile] = []
    _attempt(note, lambda: files.extend(inbox.resume()))
    inbox.scan()
    inbox.scan()
    for _ in FILES:
        _attempt(note, lambda: files.extend(filter(None, [inbox.claim_next()])))
    for file in files:
        for _ in range(20):  # a checkpoint that fails once pauses the work
            if _attempt(note, lambda file=file: _work(file, note)):  # type: ignore[misc]
                break
    for _ in range(2):
        settled = inbox.settle()
        for receipt in settled.receipts:
            note("finished", receipt.origin.name)
    inbox.close()


def _attempt(note: Note, act: Callable[[], object]) -> bool:
    try:
        act()
    except durable.DurableError as error:
        note("error", type(error).__name__, str(error.errno))
        return False
    return True


def _work(file: ClaimedFile, note: Note) -> None:
    """Promise each host before it is done, two later than it is given out; write a checkpoint after every third."""
    out: list[Ticket] = []
    done: list[str] = []
    for ticket in file:
        ticket.begin()
        ticket.end()
        out.append(ticket)
        if len(out) > 2:
            _promise(out.pop(0), file, note, done)
            if len(done) % 3 == 0:
                file.checkpoint(now=True)
                note("saved", file.name, *done)
    for ticket in out:
        _promise(ticket, file, note, done)


def _promise(ticket: Ticket, file: ClaimedFile, note: Note, done: list[str]) -> None:
    note("promised", file.name, ticket.host)
    ticket.done(domain_files.outcome(ticket.host))
    done.append(ticket.host)


def finish(directory: Path, notes: list[tuple[str, ...]]) -> None:
    """Live on undisturbed until there is nothing left to do."""
    for _ in range(2):
        live(directory, lambda *words: notes.append(words))


def judge(directory: Path, notes: list[tuple[str, ...]], later: list[tuple[str, ...]]) -> list[str]:
    """Return what is wrong after `finish`, after all that was said before the fault and later."""
    wrong = []
    left = [path for path in directory.iterdir() if path.name not in ("done", "failed", ".claimed")]
    left += [path for path in (directory / ".claimed").iterdir() if path.name != ".finishing.lock"]
    wrong += [f"left over: {path}" for path in left]
    receipts = domain_files.receipts(directory)
    if sorted(receipt["name"] for receipt in receipts) != sorted(FILES):
        wrong.append(f"receipts of {[(receipt['name'], receipt['reason']) for receipt in receipts]}")
    files = [path for place in ("done", "failed") for path in (directory / place).iterdir()]
    contents = sorted(path.read_bytes() for path in files if not path.name.endswith(".receipt.json"))
    if contents != sorted(FILES.values()):
        wrong.append(f"files: {sorted(map(str, files))}")
    for receipt in receipts:
        wrong += _judge_receipt(receipt, notes + later)
    saved = {(words[1], host) for words in notes if words[0] == "saved" for host in words[2:] if host not in ONE_LINE}
    again = {(words[1], words[2]) for words in later if words[0] == "promised"} & saved
    unreadable = {receipt["name"] for receipt in receipts if receipt["reason"] == "unreadable"}
    wrong += [f"probed again although a checkpoint had it: {each}" for each in again if each[0] not in unreadable]
    return wrong


def _judge_receipt(receipt: dict[str, object], notes: list[tuple[str, ...]]) -> list[str]:
    name = str(receipt["name"])
    if receipt["reason"] == "unreadable":
        return []
    wrong = []
    if receipt["result"] != PLACES.get(name):
        wrong.append(f"{name} is in {receipt['result']}: {receipt['reason']}")
    if name in LINES and (receipt["lines"], receipt["accepted"]) != (LINES[name], ACCEPTED[name]):
        wrong.append(f"{name} has {receipt['lines']} lines, {receipt['accepted']} accepted")
    promised = {words[2] for words in notes if words[0] == "promised" and words[1] == name}
    if len(promised) != receipt["accepted"]:
        wrong.append(f"{name}: {receipt['accepted']} accepted, {sorted(promised)} promised")
    return wrong
