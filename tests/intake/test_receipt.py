"""Receipts: what became of every line, whatever the file is called and holds."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spyder.intake.inbox import Inbox
from spyder.intake.lines import Entry
from spyder.intake.receipt import Fate, NamedLines, counted, fate_of, hosts_in, name_fields, name_of, shown
from spyder.model.outcomes import Status
from spyder.model.records import Outcome
from tests.intake import domain_files
from tests.shared_data import shared


def receipt_of(inbox: Path, content: bytes, **outcomes: Status) -> dict[str, object]:
    """Work a file off whose hosts end in `outcomes` (by their first label; `ok`), and return its receipt."""

    def probe(host: str) -> Outcome:
        status = outcomes.get(host.partition(".")[0], Status.OK)
        return domain_files.outcome(host, http=status)

    inbox.mkdir(exist_ok=True)
    (inbox / "list.txt").write_bytes(content)
    with Inbox(inbox, run_id="run-1") as box:
        domain_files.finished(box, probe)
    [receipt] = domain_files.receipts(inbox)
    return receipt


def test_every_line_has_one_fate(tmp_path: Path) -> None:
    """Blank lines and comments, hosts of every fate, and bad lines: each is counted once, and they add up."""
    content = b"# a list\n\na.example\nb.example\na.example\nbad_$.example\nc.example\n\xff\nd.example\n"
    receipt = receipt_of(tmp_path / "inbox", content, b=Status.EXCLUDED_TLD, c=Status.OPTED_OUT, d=Status.TIMEOUT)
    assert {key: receipt[key] for key in ("lines", "ignored", "further_hosts", *domain_files.FATES)} == {
        "lines": 9,
        "ignored": 2,
        "further_hosts": 0,
        "accepted": 2,
        "duplicates": 1,
        "excluded": 1,
        "opted_out": 1,
        "rejected": 2,
        "set_aside": 0,
    }
    assert receipt["outcomes"] == {
        "dns": {"ok": 4},
        "robots": {"ok": 4},
        "http": {"excluded_tld": 1, "ok": 1, "opted_out": 1, "timeout": 1},
        "tls": {"ok": 4},
    }
    assert receipt["rejected_by_reason"] == {"bad_character": 1, "bad_encoding": 1}
    assert receipt["rejected_lines"] == [
        {"line": 6, "reason": "bad_character", "text": "bad_$.example"},
        {"line": 8, "reason": "bad_encoding", "text": "\\xff\\n"},
    ]


def test_further_hosts_of_a_line_are_counted_apart(tmp_path: Path) -> None:
    """A line with several hosts counts as one line, and what it says beyond the first as further hosts."""
    receipt = receipt_of(tmp_path / "inbox", b"127.0.0.1 a.example b.example a.example bad_$\nc.example\n")
    assert (receipt["lines"], receipt["further_hosts"], receipt["ignored"]) == (2, 3, 0)
    assert (receipt["accepted"], receipt["duplicates"], receipt["rejected"]) == (3, 1, 1)


def test_rejected_lines_are_named_up_to_a_thousand(tmp_path: Path) -> None:
    """Of 1,500 bad lines all are counted, and the first thousand named."""
    receipt = receipt_of(tmp_path / "inbox", b"a.example\n" + b"bad_$\n" * 1500)
    assert receipt["rejected"] == 1500
    named = receipt["rejected_lines"]
    assert isinstance(named, list)
    assert [each["line"] for each in named] == list(range(2, 1002))


def test_it_says_which_file_and_when(tmp_path: Path) -> None:
    """Checksum and size of the file as it was dropped, its run, and three times in order."""
    receipt = receipt_of(tmp_path / "inbox", b"a.example\n")
    assert receipt["sha256"] == hashlib.sha256(b"a.example\n").hexdigest()
    assert receipt["size"] == 10
    assert (receipt["run_id"], receipt["run_ids"]) == ("run-1", ["run-1"])
    times = [str(receipt[key]) for key in ("arrived", "started", "finished")]
    assert times == sorted(times)
    assert all(each.endswith("Z") for each in times)
    assert receipt["schema_version"] == 1


@pytest.mark.parametrize(
    ("statuses", "fate"),
    [
        ((Status.OK, Status.OK), Fate.ACCEPTED),
        ((Status.NXDOMAIN, Status.SKIPPED), Fate.ACCEPTED),
        ((Status.INTERNAL_ERROR, Status.INTERNAL_ERROR), Fate.ACCEPTED),
        ((Status.OK, Status.EXCLUDED_TLD), Fate.EXCLUDED),
        ((Status.OPTED_OUT, Status.SKIPPED), Fate.OPTED_OUT),
    ],
)
def test_the_fate_of_an_outcome(statuses: tuple[Status, Status], fate: Fate) -> None:
    """Whatever a host's outcome is, it was accepted; unless it was excluded, or its owner opted out."""
    outcome = domain_files.outcome("a.example", dns=statuses[0], http=statuses[1])
    assert fate_of(outcome) == fate
    assert counted(outcome)[0] == fate


@given(st.binary(min_size=1, max_size=255).filter(lambda raw: b"/" not in raw and b"\0" not in raw))
def test_any_name_can_be_written_and_read(raw: bytes) -> None:
    """Every name that a file can have is valid JSON without lone surrogates, and can be had back."""
    name = os.fsdecode(raw)
    fields = json.loads(json.dumps(name_fields("name", name)).encode("ascii"))
    assert name_of("name", fields) == name
    assert "".join(fields.values()).encode("utf-8")
    assert shown(name).isprintable() or not shown(name)


def test_a_shown_name_cannot_forge_a_log_line() -> None:
    """Line ends, escapes and bytes that are no UTF-8 are written out."""
    assert shown("a\nb\x1b[31m\udcff.txt") == "a\\nb\\x1b[31m\\xff.txt"


def test_named_lines_are_bounded() -> None:
    """However many lines are set aside, the list of them ends."""
    named = NamedLines()
    for line in range(2000):
        named.put_aside(Entry(line, "a.example", None, "a.example", line))
    assert len(named.set_aside) == 1000


def test_hosts_are_all_but_what_was_rejected() -> None:
    """A file of duplicates and excluded names names hosts; one of rejected lines does not."""
    assert hosts_in(Counter({Fate.DUPLICATES: 2, Fate.EXCLUDED: 1, "lines": 9, "dns.ok": 3})) == 3
    assert hosts_in(Counter({Fate.REJECTED: 2, "rejected.empty": 2})) == 0


def test_receipts_of_messy_lists(tmp_path: Path) -> None:
    """Of every odd file there is, the hosts that are expected are probed once, and the numbers add up."""
    cases = json.loads(shared("domains/messy/expected.json").read_text())
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for case in cases:
        (inbox / case["file"]).write_bytes(shared(f"domains/messy/{case['file']}").read_bytes())
    with Inbox(inbox, run_id="run-1") as box:
        domain_files.finished(box)
    by_name = {receipt["name"]: receipt for receipt in domain_files.receipts(inbox)}
    assert len(by_name) == len(cases)
    for case in cases:
        if case["expected_hosts"] is not None:
            assert by_name[case["file"]]["accepted"] == len(set(case["expected_hosts"])), case["file"]
