"""Runs spyderctl as people do: a process of its own, with its own standard streams."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background has them ignore SIGINT, and what they start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

COMMAND = (sys.executable, "-c", "from spyder.cli.spyderctl import main; main(prog_name='spyderctl')")
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0


def environment() -> dict[str, str]:
    """Return the environment without settings in it, and with the package importable from anywhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SPYDER_", "REDIS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}


@dataclass
class Ended:
    """What a process left behind."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def batches(self) -> list[dict[str, Any]]:
        """The batches that were printed as `json`."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def outcomes(self) -> dict[str, dict[str, Any]]:
        """The outcomes of all batches, by host; each host has one."""
        found = [outcome for batch in self.batches for outcome in batch["outcomes"]]
        by_host = {outcome["host"]: outcome for outcome in found}
        assert len(by_host) == len(found)
        return by_host

    @property
    def edges(self) -> set[tuple[str, str, str]]:
        """The edges of all batches."""
        return {(edge["source"], edge["type"], edge["target"]) for batch in self.batches for edge in batch["edges"]}


def run(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, limit_s: float = LIMIT_S) -> Ended:
    """Run to the end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=limit_s,
        env=environment(),
        cwd=cwd,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


def start(*arguments: str | Path, **streams: Any) -> subprocess.Popen[bytes]:
    """Start, with pipes where nothing else is given."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(),
        **(pipes | streams),
    )


def finish(process: subprocess.Popen[bytes], limit_s: float = LIMIT_S, already: bytes = b"") -> Ended:
    """Wait for the end; a process that does not come to one is killed, and that is a failure."""
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # the fault handler shows where every thread stands
        _, stderr = process.communicate()
        raise AssertionError(f"it did not end within {limit_s:g} s: {stderr.decode()[-4000:]}") from None
    return Ended(process.returncode, already + (stdout or b""), (stderr or b"").decode())


def hosts_file(path: Path, hosts: Sequence[str]) -> Path:
    """Write a plain list."""
    path.write_text("".join(f"{host}\n" for host in hosts))
    return path
