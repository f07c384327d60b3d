"""A short run of the kill harness; the long one is a command of `docs/spool.md`."""

import re
import subprocess
import sys

import pytest

from tests.cli.spyderctl import ROOT, environment

_LIMIT_S = 240.0


def _run(*arguments: str) -> tuple[int, dict[str, int], str]:
    """Run the harness; return its exit status, its totals, and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.outbox.kill_harness", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    said = done.stdout + done.stderr
    totals = {words: int(number) for words, number in re.findall(r"([a-z][a-z ]+?) (\d+)", done.stdout)}
    assert "lost" in totals, said
    return done.returncode, totals, said


def test_kills_lose_nothing_that_was_acknowledged() -> None:
    """SIGKILL at 40 random moments: every number that was acknowledged arrives, and each batch is kept once."""
    status, totals, said = _run("--kills", "40", "--numbers", "20000", "--seed", "1")
    assert status == 0, said
    assert totals["kills"] >= 40
    assert totals["numbers acknowledged"] >= 20_000
    assert totals["lost"] == totals["committed twice"] == totals["left in the spool"] == totals["bad"] == 0
    # it was no fair weather: batches came twice, were refused, and the receiver died
    assert totals["duplicates offered"] > 0
    assert totals["faults of the receiver"] > 20
    assert totals["kills of the receiver"] > 0
    assert totals["orderly stops"] > 0


@pytest.mark.parametrize("mutant", ["acknowledged before the promise", "unlinked before the answer"])
def test_the_harness_sees_a_loss(mutant: str) -> None:
    """An outbox that acknowledges too early, or removes too early, does not pass."""
    status, totals, said = _run("--kills", "6", "--numbers", "500", "--seed", "1", "--mutant", mutant)
    assert status == 1, said
    assert totals["lost"] > 0
