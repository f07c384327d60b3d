"""`spyderctl spool`: what waits on the disk, what is wrong with it, and a person's word on it."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spyder.cli.exit_status import ExitStatus
from spyder.cli.settings_options import load_settings, settings_options
from spyder.cli.spool_directory import age_text, open_spool, shown, size_text, spool_directory

if TYPE_CHECKING:
    from spyder.outbox.spool import Name, Place, Spool

_COUNTED_BYTES = 256 << 20
"""Of batches whose edges are counted: a second or two of parsing. A hundred thousand small ones are well within."""
_ALL = sys.maxsize
_LAST_ERROR_CHARS = 60
_LINES_AT_ONCE = 1000

_dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), metavar="DIR", help="The spool. Default: output.spool_dir."
)


@click.group()
def spool() -> None:
    """Look at the spool, and act on its batches. Works beside the daemon."""


def _open(config_path: Path | None, overrides: tuple[str, ...], directory: Path | None) -> "tuple[Path, Spool]":
    where = spool_directory(load_settings(config_path, overrides), directory)
    return where, open_spool(where, by_option=directory is not None)


@dataclass(frozen=True, slots=True)
class _Row:
    """One batch file."""

    place: str
    file: str
    batch_id: str
    age_s: float
    bytes: int
    edges: int | None
    attempts: int | None
    last_error: str


@spool.command("ls")
@_dir_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON list.")
@settings_options
def list_(directory: Path | None, config_path: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """List the batches that are ready, dead or bad, oldest first.

    Attempts and the last error are known of dead batches alone: what is tried now is in the daemon's memory (its
    metrics). Edges are counted in the first 256 MiB; then a dash stands for them.
    """
    where, opened = _open(config_path, overrides, directory)
    with opened:
        rows = _rows(where, opened)
        if as_json:
            import orjson

            click.echo(orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_APPEND_NEWLINE), nl=False)
            return
        _print_table(rows)


def _rows(where: Path, opened: "Spool") -> Iterator[_Row]:
    from spyder.outbox.spool import Place

    now, left = time.time(), _COUNTED_BYTES
    for place in (Place.READY, Place.DEAD):
        for name in opened.names(place, limit=_ALL):
            size = _size(f"{where}/{place}/{name}")
            if size is None:  # gone since
                continue
            left -= size
            edges, damage = _edges(opened, name, place) if left >= 0 else (None, "")
            attempts, error = _why(opened, name) if place is Place.DEAD else (None, "")
            yield _Row(_label(place), str(name), name.batch_id, name.age_s(now), size, edges, attempts, damage or error)
    for entry in sorted(os.scandir(where / Place.BAD), key=lambda each: each.name):
        if not entry.name.startswith("."):
            found = entry.stat(follow_symlinks=False)
            parsed = _name_of(entry.name)
            age_s = parsed.age_s(now) if parsed else max(0.0, now - found.st_mtime)
            yield _Row(
                _label(Place.BAD), entry.name, parsed.batch_id if parsed else "", age_s, found.st_size, None, None,
                "damaged",
            )  # fmt: skip


def _label(place: "Place") -> str:
    return place.name.lower()


def _size(path: str) -> int | None:
    try:
        return os.lstat(path).st_size
    except OSError:
        return None


def _name_of(file: str) -> "Name | None":
    """Return the name of a file in bad/, which may have something after it."""
    from spyder.outbox.spool import Name

    stem, json, _ = file.partition(".json")
    return Name.parse(stem + json)


def _edges(opened: "Spool", name: "Name", place: "Place") -> tuple[int | None, str]:
    """Return the number of edges, or why it cannot be told."""
    from spyder.outbox.payload import BadPayload, decode
    from spyder.outbox.spool import BadBatch, NoSuchBatch
    from spyder.runtime.durable import DurableError

    try:
        edges = decode(opened.read(name, place)).get("edges")
    except NoSuchBatch:
        return None, ""
    except BadBatch as damage:
        return None, f"damaged: {damage.reason}"
    except (BadPayload, DurableError) as error:
        return None, str(error)
    return (len(edges), "") if isinstance(edges, list) else (None, "")


def _why(opened: "Spool", name: "Name") -> tuple[int | None, str]:
    """Return how often a dead batch was tried, and what the destination said."""
    from spyder.outbox.payload import BadPayload, decode
    from spyder.runtime.durable import DurableError

    try:
        why: dict[str, Any] = decode(opened.why(name))
    except (BadPayload, DurableError):
        return None, "the reason is not known"
    attempts = why.get("attempts")
    return attempts if isinstance(attempts, int) else None, str(why.get("detail") or why.get("reason") or "")


def _print_table(rows: Iterator[_Row]) -> None:
    layout = "{:5}  {:>7}  {:>9}  {:>7}  {:>8}  {:34}  {}"
    lines = [layout.format("PLACE", "AGE", "SIZE", "EDGES", "ATTEMPTS", "BATCH", "LAST ERROR").rstrip()]
    count = size = 0
    for row in rows:
        count, size = count + 1, size + row.bytes
        text = shown(row.last_error)
        line = layout.format(
            row.place,
            age_text(row.age_s),
            size_text(row.bytes),
            "-" if row.edges is None else row.edges,
            "-" if row.attempts is None else row.attempts,
            row.batch_id or shown(row.file),
            text if len(text) <= _LAST_ERROR_CHARS else text[: _LAST_ERROR_CHARS - 1] + "…",
        )
        lines.append(line.rstrip())
        if len(lines) == _LINES_AT_ONCE:
            click.echo("\n".join(lines))
            lines.clear()
    if lines:
        click.echo("\n".join(lines))
    click.echo(f"{count:,} batches, {size_text(size)}", err=True)


@spool.command()
@click.argument("batch", metavar="ID")
@click.option("--why", is_flag=True, help="Print the reason beside a dead batch instead.")
@_dir_option
@settings_options
def show(
    batch: str, directory: Path | None, config_path: Path | None, overrides: tuple[str, ...], *, why: bool
) -> None:
    """Print one batch as it is on the disk.

    ID is a batch id, the beginning of one, or a file's name.
    """
    from spyder.outbox.spool import BadBatch, NoSuchBatch
    from spyder.runtime.durable import DurableError

    _, opened = _open(config_path, overrides, directory)
    with opened:
        place, name = _found(opened, batch)
        try:
            content = opened.why(name) if why else opened.read(name, place)
        except (BadBatch, NoSuchBatch, DurableError) as error:
            raise click.ClickException(str(error)) from None
    click.echo(content)


@spool.command()
@click.option("--checksums-only", is_flag=True, help="Leave out the schema, which costs a second for 10,000 edges.")
@_dir_option
@settings_options
def verify(
    directory: Path | None, config_path: Path | None, overrides: tuple[str, ...], *, checksums_only: bool
) -> None:
    """Check every ready and dead batch: its checksum, and the schema. Moves nothing.

    Exit status 1 when one is not in order, or something lies in bad/.
    """
    from spyder.outbox.spool import Place

    where, opened = _open(config_path, overrides, directory)
    wrong = count = 0
    with opened:
        names = [(place, name) for place in (Place.READY, Place.DEAD) for name in opened.names(place, limit=_ALL)]
        for place, name in _with_progress(names):
            fault = _fault(opened, place, name, checksums_only=checksums_only)
            count += fault is not None
            if fault:
                wrong += 1
                click.echo(shown(f"{_label(place)}: {name}: {fault}"))
        bad = sum(1 for each in os.scandir(where / Place.BAD) if not each.name.startswith("."))
    click.echo(f"{count:,} batches checked, {wrong:,} not in order; {bad:,} files in bad/")
    sys.exit(ExitStatus.WORK_REMAINS if wrong or bad else ExitStatus.DONE)


def _fault(opened: "Spool", place: "Place", name: "Name", *, checksums_only: bool) -> str | None:
    """Return what is wrong with a batch, "" for nothing; None where it is gone."""
    from spyder.outbox.receiver import Problem, checked
    from spyder.outbox.spool import BadBatch, NoSuchBatch
    from spyder.runtime.durable import DurableError

    try:
        payload = opened.read(name, place)
        if not checksums_only:
            checked(payload, name.batch_id)
    except NoSuchBatch:
        return None
    except BadBatch as damage:
        return f"damaged: {damage.reason}"
    except Problem as problem:
        return f"{problem.detail} {problem.where}".rstrip()
    except DurableError as error:
        return str(error)
    return ""


def _with_progress(names: "Sequence[tuple[Place, Name]]") -> "Iterator[tuple[Place, Name]]":
    if not sys.stderr.isatty():
        yield from names
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(names, description="verifying", console=Console(stderr=True), transient=True)


@spool.command()
@click.argument("batches", nargs=-1, metavar="[ID]...")
@click.option("--all", "all_of_them", is_flag=True, help="All that is in dead/.")
@_dir_option
@settings_options
def requeue(
    batches: tuple[str, ...],
    directory: Path | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    *,
    all_of_them: bool,
) -> None:
    """Move dead batches back to those that are shipped."""
    from spyder.outbox.spool import NoSuchBatch, Place
    from spyder.runtime.durable import DurableError

    if bool(batches) == all_of_them:
        raise click.UsageError("give the ids of dead batches, or --all")
    _, opened = _open(config_path, overrides, directory)
    failed = moved = 0
    with opened:
        dead = opened.names(Place.DEAD, limit=_ALL)
        for name in dead if all_of_them else [_found(opened, each, Place.DEAD)[1] for each in batches]:
            try:
                opened.requeue(name)
                moved += 1
            except (NoSuchBatch, DurableError) as error:
                failed += 1
                click.echo(shown(str(error)), err=True)
    click.echo(f"{moved:,} batches are ready again")
    sys.exit(ExitStatus.WORK_REMAINS if failed else ExitStatus.DONE)


@spool.command()
@click.argument("batches", nargs=-1, required=True, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_dir_option
@settings_options
def rm(
    batches: tuple[str, ...], directory: Path | None, config_path: Path | None, overrides: tuple[str, ...], *, yes: bool
) -> None:
    """Delete batches for good, after asking: nobody will ever receive what is in them."""
    from spyder.outbox.spool import BadBatch
    from spyder.runtime.durable import DurableError

    where, opened = _open(config_path, overrides, directory)
    with opened:
        found = [_found(opened, each) for each in batches]
        now = time.time()
        for place, name in found:
            edges, _ = _edges(opened, name, place)
            held = "" if edges is None else f", {edges:,} edges"
            size = size_text(_size(f"{where}/{place}/{name}") or 0)
            click.echo(f"{name.batch_id}: {_label(place)}, {size}{held}, {age_text(name.age_s(now))} old", err=True)
        if not yes:
            click.confirm(f"Delete {len(found)} for good?", abort=True, err=True)
        left = 0
        for place, name in found:
            try:
                done, why = opened.discard(name, place), "it is being sent, or gone"
            except (BadBatch, DurableError) as error:
                done, why = False, str(error)
            left += not done
            click.echo(shown(f"{name.batch_id}: {'deleted' if done else f'not deleted: {why}'}"))
    sys.exit(ExitStatus.WORK_REMAINS if left else ExitStatus.DONE)


def _found(opened: "Spool", text: str, only: "Place | None" = None) -> "tuple[Place, Name]":
    """Return the one batch that is meant by an id, the beginning of one or a file's name; end with status 2 else."""
    from spyder.outbox.spool import Place

    found = [
        (place, name)
        for place in ((only,) if only else Place)
        for name in opened.names(place, limit=_ALL)
        if text and (name.batch_id.startswith(text) or str(name) == text)
    ]
    found = [each for each in found if text in (each[1].batch_id, str(each[1]))] or found
    if not found:
        raise click.BadParameter(f"no batch {text!r}" + (f" in {only}/" if only else ""), param_hint="ID")
    if len({name for _, name in found}) > 1:
        several = ", ".join(f"{_label(place)} {name}" for place, name in found[:5])
        raise click.BadParameter(f"{text!r} may be any of {several}", param_hint="ID")
    return found[0]
