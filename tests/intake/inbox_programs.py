"""Programs that the inbox's fault tests run, in processes of their own or under a tracer."""
# ruff: noqa: T201

import fcntl
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spyder.intake import claim
from spyder.intake.inbox import Inbox
from tests.intake import domain_files
from tests.intake import inbox_scenario as scenario


def traced(work: Path, call: str, when: int, points: int) -> None:
    """Live `points` times, each in a child of its own: the tracer strikes at the child's call number `when`."""
    scenario.live(work / "warm", lambda *_: None)  # lazy imports, before the counting
    for point in range(1, points + 1):
        notes = os.open(work / f"{point}.notes", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def note(*words: str, to: int = notes) -> None:
            os.writev(to, [f"{' '.join(words)}\n".encode()])  # not one of the calls that are struck

        child = os.fork()
        if child == 0:
            for _ in range(when - point):
                _in_vain(call)
            try:
                scenario.live(work / f"{point}", note)
                note("survived")
            finally:
                error = sys.exception()
                if error is not None:
                    note("died", repr(error).replace(" ", "_"))
                os._exit(error is not None)
        _, status = os.waitpid(child, 0)
        os.close(notes)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit((work / f"{point}.notes").read_text())
    if not when:
        (work / "child").write_text(str(child))


def _in_vain(call: str) -> None:
    vain: dict[str, Callable[[], object]] = {
        "openat": lambda: os.open("/nowhere/at/all", os.O_RDONLY),
        "write": lambda: os.write(-1, b""),
        "pwrite64": lambda: os.pwrite(-1, b"", 0),
        "read": lambda: os.read(-1, 1),
        "close": lambda: os.close(-1),
        "fsync": lambda: os.fsync(1000),
        "renameat": lambda: os.rename("a", "b", src_dir_fd=1000, dst_dir_fd=1000),
        "unlinkat": lambda: os.unlink("a", dir_fd=1000),
        "unlink": lambda: Path("/nowhere/at/all").unlink(),
        "mkdirat": lambda: os.mkdir("a", dir_fd=1000),
        "rmdir": lambda: Path("/nowhere/at/all").rmdir(),
        "flock": lambda: fcntl.flock(1000, 0),
        "fcntl": lambda: fcntl.fcntl(1000, fcntl.F_GETFD),
    }
    with suppress(OSError):
        vain[call]()


def race(directory: Path) -> None:
    """Wait for the start; take and work off all files that can be had; print what was finished."""
    names: list[str] = []
    with Inbox(directory, run_id=f"run-{os.getpid()}", max_claimed=20) as inbox:
        print("ready", flush=True)
        sys.stdin.readline()
        while inbox.status().waiting or inbox._claims:
            names += [receipt.origin.name for receipt in domain_files.finished(inbox)]
    print(*names, flush=True)


def work(directory: Path, log: Path, lag: int) -> None:
    """Work off what there is, promising each host in the log; some hosts stay out for long."""
    claim.CHECKPOINT_S = 0.02  # type: ignore[misc]
    promises = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    with Inbox(directory, run_id=f"run-{os.getpid()}", calm_s=0.0) as inbox:
        print("ready", flush=True)
        files = inbox.resume() or domain_files.claims(inbox)
        for file in files:
            out = []
            for ticket in file:
                ticket.begin()
                ticket.end()
                out.append(ticket)
                while len(out) > lag:
                    host = out.pop(hash(ticket.host) % len(out))
                    os.write(promises, f"{host.host}\n".encode())
                    host.done(domain_files.outcome(host.host))
                inbox.settle()
            for ticket in out:
                os.write(promises, f"{ticket.host}\n".encode())
                ticket.done(domain_files.outcome(ticket.host))
        inbox.settle()


def hold(directory: Path) -> None:
    """Take a file, say so, and stay."""
    inbox = Inbox(directory, run_id="run-1")
    print(len(domain_files.claims(inbox)), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    programs: dict[str, Callable[[], None]] = {
        "traced": lambda: traced(Path(rest[0]), rest[1], int(rest[2]), int(rest[3])),
        "race": lambda: race(Path(rest[0])),
        "work": lambda: work(Path(rest[0]), Path(rest[1]), int(rest[2])),
        "hold": lambda: hold(Path(rest[0])),
    }
    programs[verb]()
