"""A spool that may take no more: intake stops with one clear line, nothing is dropped, and all goes on by itself."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.cli.spyderctl import ROOT, environment

_LIMIT_S = 120.0


def _tell(by: str, *prefix: str) -> str:
    """Let it happen in a process of its own, which judges it; return what it said."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.outbox.disk_full", by, "--hosts", "250"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_the_cap_of_the_spool_stops_the_intake() -> None:
    """`output.spool_max_bytes` is reached while the endpoint is away; when it comes, every edge arrives once."""
    assert "at most 200000 may be" in _tell("cap")


def test_a_full_file_system_stops_the_intake() -> None:
    """The same where a small tmpfs has no more than the reserve left."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("mount")):
        pytest.skip("a small file system needs root, unshare and mount")
    assert "stay free" in _tell("disk", "unshare", "-m")
