"""The ingest endpoint is down for a while in the middle of a run: the probe goes on, and everything arrives once."""

from pathlib import Path

import pytest

from tests.outbox.outage import tell


def test_an_outage_delays_and_loses_nothing(tmp_path: Path) -> None:
    """A few seconds' outage: hosts are probed all through it, and all edges are at the receiver afterwards, once."""
    story = tell(tmp_path, hosts=400, workers=12, before_s=3, down_s=3, flush_s=0.3)
    assert story.is_whole, story
    assert story.most_spooled > 2, story
    assert story.during > 0.6 * story.before, story  # three seconds tell no more than that it goes on
    assert story.probe.stderr.count("nothing is lost") == 1, story.probe.stderr
    assert story.probe.stderr.count("shipping goes on") == 1, story.probe.stderr


@pytest.mark.slow
def test_an_outage_does_not_slow_the_probe(tmp_path: Path) -> None:
    """A minute's outage in a run of 5,000 hosts: at least 90 % of the rate before, and all edges there, once."""
    story = tell(tmp_path, hosts=5000, workers=12, before_s=30, down_s=60)
    assert story.is_whole, story
    assert story.during >= 0.9 * story.before, story
    assert "skipped" not in story.probe.stderr  # a scheduler that complains of long passes
