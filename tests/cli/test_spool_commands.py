"""`spyderctl spool` as a process: the table, one batch, damage, requeue and deletion."""

import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spyder.outbox.spool import Name, Place, Spool
from tests.cli.spyderctl import finish, run, start
from tests.outbox.ingest_peers import batch_id_of, batch_of


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A spool of three ready batches, one dead, and one damaged file that lies in bad/."""
    path = tmp_path / "spool"
    with Spool(path, reserve_bytes=0, reserve_files=0) as spool:
        names = [spool.write(*batch_of(number, edges=number + 1)) for number in range(5)]
        claim = spool.claim(names[3])
        assert claim is not None
        with claim:
            claim.bury({"detail": "HTTP 400: \x1b[31mno", "attempts": 3, "reason": "refused"})
        (path / str(names[4])).write_bytes(b"{")
        damaged = spool.claim(names[4])
        assert damaged is not None
        with damaged, pytest.raises(Exception, match="checksum"):
            damaged.read()
    return path


def _listed(directory: Path) -> list[dict[str, Any]]:
    ended = run("spool", "ls", "--json", "--dir", directory)
    assert ended.status == 0, ended.stderr
    rows: list[dict[str, Any]] = json.loads(ended.stdout)
    return rows


def test_ls_shows_every_place(directory: Path) -> None:
    """Place, age, size, edges, attempts and last error of each batch, as JSON and as a table safe for a terminal."""
    rows = _listed(directory)
    assert [(row["place"], row["batch_id"], row["edges"], row["attempts"]) for row in rows] == [
        ("ready", batch_id_of(0), 1, None),
        ("ready", batch_id_of(1), 2, None),
        ("ready", batch_id_of(2), 3, None),
        ("dead", batch_id_of(3), 4, 3),
        ("bad", batch_id_of(4), None, None),
    ]
    assert rows[0]["bytes"] == len(batch_of(0)[1])
    assert rows[0]["age_s"] >= 0
    assert rows[3]["last_error"] == "HTTP 400: \x1b[31mno"
    table = run("spool", "ls", "--dir", directory)
    assert table.status == 0
    assert table.stdout.decode().splitlines()[0].split() == (
        ["PLACE", "AGE", "SIZE", "EDGES", "ATTEMPTS", "BATCH", "LAST", "ERROR"]
    )
    assert rb"\x1b[31mno" in table.stdout
    assert b"\x1b[" not in table.stdout
    assert "5 batches" in table.stderr


def test_ls_finds_the_spool_of_the_settings(directory: Path) -> None:
    """Without --dir it is `output.spool_dir`."""
    ended = run("spool", "ls", "--json", "--set", f"output.spool_dir={directory}")
    assert len(json.loads(ended.stdout)) == 5


def test_ls_works_beside_the_owner(directory: Path) -> None:
    """The daemon's lock does not stand in the way, and what it holds is listed."""
    with Spool(directory) as owner:
        claim = owner.claim(owner.ready(limit=1)[0])
        assert len(_listed(directory)) == 5
        assert claim is not None
        claim.release()


@pytest.mark.parametrize("text", [batch_id_of(1), batch_id_of(1)[:16], "NAME"])
def test_show_prints_the_batch(directory: Path, text: str) -> None:
    """By id, by the beginning of one, and by the file's name: the JSON as it is on the disk."""
    name = str(Name.of(*batch_of(1, edges=2)))
    ended = run("spool", "show", name if text == "NAME" else text, "--dir", directory)
    assert (ended.status, ended.stdout.strip()) == (0, batch_of(1, edges=2)[1])


def test_show_prints_why_a_batch_is_dead(directory: Path) -> None:
    """With --why the reason beside it."""
    assert json.loads(run("spool", "show", batch_id_of(3), "--why", "--dir", directory).stdout)["attempts"] == 3


def test_what_names_none_or_several_is_wrong_usage(directory: Path) -> None:
    """Status 2, and what it may be."""
    none = run("spool", "show", "ffff", "--dir", directory)
    several = run("spool", "show", batch_id_of(0)[:9], "--dir", directory)
    assert (none.status, several.status) == (2, 2)
    assert "no batch 'ffff'" in none.stderr
    assert "may be any of" in several.stderr


def test_a_damaged_batch_is_not_shown_as_if_it_were_sound(directory: Path) -> None:
    """Status 1, with what is wrong."""
    ended = run("spool", "show", batch_id_of(4), "--dir", directory)
    assert (ended.status, ended.stdout) == (1, b"")
    assert "checksum" in ended.stderr


def test_verify_names_what_is_not_in_order(directory: Path) -> None:
    """A flipped byte, bytes that are no batch, and a file in bad/: each named, nothing moved, status 1."""
    flipped = directory / str(Name.of(*batch_of(0, edges=1)))
    flipped.write_bytes(flipped.read_bytes().replace(b"mx0", b"mx9"))
    with Spool(directory) as spool:
        spool.write(batch_id_of(9), b'{"batch_id":"other"}')
    before = sorted(directory.rglob("*"))
    ended = run("spool", "verify", "--dir", directory)
    lines = ended.stdout.decode().splitlines()
    assert ended.status == 1
    assert ["checksum" in lines[0], "schema" in lines[1]] == [True, True]
    assert lines[2] == "5 batches checked, 2 not in order; 1 files in bad/"
    assert sorted(directory.rglob("*")) == before
    assert run("spool", "verify", "--checksums-only", "--dir", directory).stdout.decode().count("not in order;") == 1


def test_verify_of_a_sound_spool(tmp_path: Path) -> None:
    """Status 0."""
    with Spool(tmp_path / "s", reserve_bytes=0, reserve_files=0) as spool:
        spool.write(*batch_of(1))
    ended = run("spool", "verify", "--dir", tmp_path / "s")
    assert (ended.status, ended.stdout) == (0, b"1 batches checked, 0 not in order; 0 files in bad/\n")


@pytest.mark.parametrize("which", [(batch_id_of(3),), ("--all",)])
def test_requeue_makes_dead_batches_ready(directory: Path, which: tuple[str, ...]) -> None:
    """One by its id, or all of them; the reason is gone, too."""
    ended = run("spool", "requeue", *which, "--dir", directory)
    assert (ended.status, ended.stdout) == (0, b"1 batches are ready again\n")
    assert [row["place"] for row in _listed(directory)] == ["ready"] * 4 + ["bad"]
    assert list((directory / "dead").iterdir()) == []


def test_requeue_needs_to_be_told_what(directory: Path) -> None:
    """Nothing, or ids and --all together, or a batch that is not dead, are wrong usage."""
    for arguments in ((), ("--all", batch_id_of(3)), (batch_id_of(0),)):
        assert run("spool", "requeue", *arguments, "--dir", directory).status == 2


def test_rm_asks_and_says_what_goes(directory: Path) -> None:
    """It names place, size and edges; without a yes nothing is deleted."""
    no = run("spool", "rm", batch_id_of(0), batch_id_of(3), "--dir", directory, stdin=b"n\n")
    assert no.status == 1
    assert f"{batch_id_of(0)}: ready, {len(batch_of(0)[1])} B, 1 edges" in no.stderr
    assert f"{batch_id_of(3)}: dead" in no.stderr
    assert len(_listed(directory)) == 5
    silent = run("spool", "rm", batch_id_of(0), "--dir", directory)
    assert (silent.status, len(_listed(directory))) == (1, 5)
    yes = run("spool", "rm", batch_id_of(0), batch_id_of(3), batch_id_of(4), "--dir", directory, stdin=b"y\n")
    assert (yes.status, yes.stdout.count(b"deleted")) == (0, 3)
    assert [row["batch_id"] for row in _listed(directory)] == [batch_id_of(1), batch_id_of(2)]


def test_rm_leaves_what_is_being_sent(directory: Path) -> None:
    """A batch that a shipper holds is not deleted: status 1."""
    with Spool(directory) as spool:
        claim = spool.claim(spool.ready(limit=1)[0])
        ended = run("spool", "rm", "--yes", batch_id_of(0), "--dir", directory)
        assert claim is not None
        claim.release()
    assert (ended.status, b"not deleted: it is being sent" in ended.stdout) == (1, True)
    assert len(_listed(directory)) == 5


@pytest.mark.parametrize("arguments", [("ls",), ("show", "x"), ("verify",), ("requeue", "--all"), ("rm", "x")])
def test_where_there_is_no_spool_it_is_said(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A wrong --dir is status 2, wrong settings 78; nothing is made there."""
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    for path in (absent, empty):
        assert run("spool", *arguments, "--dir", path).status == 2
        ended = run("spool", *arguments, "--set", f"output.spool_dir={path}")
        assert (ended.status, str(path) in ended.stderr) == (78, True)
    assert not absent.exists()
    assert list(empty.iterdir()) == []


def test_a_reader_that_goes_away_is_no_fault(directory: Path) -> None:
    """`ls | head` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)
    process = start("spool", "ls", "--dir", directory, stdout=write)
    os.close(write)
    assert "Traceback" not in finish(process).stderr


def _fill(path: Path, count: int, payload_of: Callable[[str], bytes]) -> None:
    Spool(path).close()
    for number in range(count):
        batch_id = batch_id_of(number)
        payload = payload_of(batch_id)
        (path / str(Name.of(batch_id, payload))).write_bytes(payload)


@pytest.mark.slow
def test_a_hundred_thousand_batches_are_listed_in_seconds(tmp_path: Path) -> None:
    """As a table and as JSON, with their edges counted."""
    path = tmp_path / "spool"
    _fill(path, 100_000, lambda batch_id: b'{"batch_id":"%s","edges":[{},{}]}' % batch_id.encode())
    try:
        for form in ((), ("--json",)):
            begun = resource.getrusage(resource.RUSAGE_CHILDREN)
            ended = run("spool", "ls", *form, "--dir", path)
            assert ended.status == 0
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            # of CPU, since the tests may share it with others
            assert spent.ru_utime + spent.ru_stime - begun.ru_utime - begun.ru_stime < 15
        assert sum(row["edges"] for row in json.loads(ended.stdout)) == 200_000
    finally:
        subprocess.run(["rm", "-r", path], check=True)


def test_places_are_the_folders() -> None:
    """What `ls` calls a place is the folder's name, or ready."""
    assert {place.name.lower() for place in Place} == {"ready", "dead", "bad"}
