"""`spyderctl replay-spool`: sends what is spooled, now, beside the daemon or without it."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spyder.cli.exit_status import ExitStatus
from spyder.cli.settings_options import load_settings, settings_options
from spyder.cli.spool_directory import holds_a_spool, open_spool, refuse, shown, size_text, spool_directory

if TYPE_CHECKING:
    from spyder.outbox.destinations import Destination
    from spyder.outbox.shipper import Fate, Shipper, Source
    from spyder.settings import Settings

_FRUITLESS_PASSES = 3
"""Passes in a row that deliver nothing, after which the rest is left to another day."""
_LONGEST_WAIT_S = 60.0
"""Between two passes: who is asked to wait longer than this comes again later."""
_POLL_S = 0.5
_MOST_SHOWN = 20
_CUT_OFF_S = 5.0


@click.command("replay-spool")
@click.option("--dead", "with_dead", is_flag=True, help="Send what lies in dead/ too.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), metavar="DIR", help="The spool. Default: output.spool_dir."
)
@click.option("--to", metavar="URL", help="Send it there instead of to output.ingest; file:DIR and stdout: too.")
@click.option("--since", metavar="T", help="Only batches begun at T or later: RFC 3339, or an age such as 2h.")
@click.option("--until", metavar="T", help="Only batches begun at T or earlier.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Batches a second at most.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--keep", is_flag=True, help="Leave on the disk what was sent; the next run sends it again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@settings_options
def replay_spool(
    directory: Path | None,
    to: str | None,
    since: str | None,
    until: str | None,
    rate: float | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    *,
    with_dead: bool,
    dry_run: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Send what is spooled, oldest first, and delete what the destination has.

    While the daemon runs, too: what it is sending is left to it. Takes SPYDER's own spool directories as well. What
    is refused stays where it is. Exit status 0 when nothing is left, 1 when something is.
    """
    begun = _Begun(_moment(since, "--since"), _moment(until, "--until"))
    settings = load_settings(config_path, overrides)
    prints = (to or settings.output.ingest) == "stdout:" and not dry_run
    if as_json and prints:
        raise click.UsageError("--json: standard output is where the batches go; choose another place with --to")
    where = spool_directory(settings, directory)
    report = _Report(where, prints=prints, dry_run=dry_run, kept=keep)
    with contextlib.ExitStack() as cleanup:
        try:
            rooms = _rooms(where, begun, cleanup, with_dead=with_dead, by_option=directory is not None)
            for room in rooms:
                room.list()
        except OSError as error:
            refuse(where, str(error), by_option=directory is not None)
        if dry_run:
            for room in rooms:
                report.add_waiting(room)
        else:
            destination = _destination(settings, to)
            cleanup.callback(destination.close)
            replay = _Replay(destination, settings.output.concurrency, rate or math.inf, report, keep=keep)
            replay.run(rooms, quiet=as_json)
    report.print(as_json=as_json)
    sys.exit(ExitStatus.WORK_REMAINS if report.remains else ExitStatus.DONE)


@dataclass(frozen=True, slots=True)
class _Begun:
    """When the batches that are meant were begun; seconds since the epoch."""

    since: float | None
    until: float | None

    def includes(self, moment: float) -> bool:
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)

    @property
    def is_all(self) -> bool:
        return self.since is None and self.until is None


def _moment(text: str | None, option: str) -> float | None:
    from spyder.settings import seconds_of

    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return time.time() - seconds_of(text)
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.timestamp()
    raise click.BadParameter(
        f"{text!r} is neither a time as 2026-01-01T00:00:00Z nor an age as 2h", param_hint=f"'{option}'"
    )


class _Room:
    """One place where batches wait, and those of them that are meant: all that were there at the start."""

    def __init__(
        self, label: str, source: "Source[Any]", time_of: Callable[[Any], str], begun: Callable[[Any], bool]
    ) -> None:
        self.label = label
        self.source = source
        self._time_of = time_of
        self._begun = begun
        self._last = ""
        self.waiting: Sequence[Any] = ()

    def list(self) -> None:
        """Note what is there."""
        self.waiting = [name for name in self.source.ready(limit=sys.maxsize) if self._begun(name)]
        self._last = max(map(self._time_of, self.waiting), default="")

    def selects(self, name: Any) -> bool:
        """Tell whether a batch is meant. What the daemon has spooled meanwhile is its own to ship."""
        return self._time_of(name) <= self._last and self._begun(name)

    def left(self) -> Sequence[Any]:
        """Return what is still there, halves of what was there among it."""
        return [name for name in self.source.ready(limit=sys.maxsize) if self.selects(name)]


def _rooms(
    directory: Path, begun: _Begun, cleanup: contextlib.ExitStack, *, with_dead: bool, by_option: bool
) -> list[_Room]:
    from spyder.outbox.replay_sources import DeadBatches, SpyderFiles, spyder_time
    from spyder.outbox.spool import Name, Place

    now = time.time()

    def spooled(name: Name) -> bool:
        return begun.is_all or begun.includes(now - name.age_s(now))

    def of_spyder(file: str) -> bool:
        moment = spyder_time(file)
        return begun.is_all or (moment is not None and begun.includes(moment.timestamp()))

    def time_of(name: Name) -> str:
        return name.time + name.batch_id[:32]

    rooms = []
    if holds_a_spool(directory):
        for each in (Place.DEAD, Place.BAD):  # absent where batch files were copied by hand
            (directory / each).mkdir(mode=0o700, exist_ok=True)
        spool = cleanup.enter_context(open_spool(directory, by_option=by_option))
        rooms.append(_Room("spool", spool, time_of, spooled))
        if with_dead:
            dead = DeadBatches(spool, directory)
            cleanup.callback(dead.close)
            rooms.append(_Room("dead", dead, time_of, spooled))
    files = SpyderFiles(directory)
    cleanup.callback(files.close)
    rooms.append(_Room("SPYDER", files, str, of_spyder))
    return rooms


def _destination(settings: "Settings", to: str | None) -> "Destination":
    from spyder.control.outputs import build_destination
    from spyder.outbox.destinations import ConfigurationError

    try:
        return build_destination(
            settings.output, to=to, on_warning=lambda text: click.echo(f"warning: {text}", err=True)
        )
    except ConfigurationError as error:
        if to is not None and str(error).startswith("output.ingest:"):
            raise click.BadParameter(str(error).removeprefix("output.ingest: "), param_hint="'--to'") from None
        click.echo(str(error), err=True)
        sys.exit(ExitStatus.BAD_SETTINGS)


@dataclass(slots=True)
class _Report:
    """What came of it. Counted by the senders, one at a time."""

    directory: Path
    prints: bool
    """Whether standard output is where the batches go."""
    dry_run: bool
    kept: bool
    waiting: int = 0
    bytes: int = 0
    fates: "Counter[str]" = field(default_factory=Counter)
    problems: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """By place and file: the last fate, and why."""
    left: int = 0
    reason: str = ""
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def remains(self) -> bool:
        """Whether something is still to be done."""
        return bool(self.left or self.fates["bad"] or self.stopped)

    def add_waiting(self, room: _Room) -> None:
        self.waiting += len(room.waiting)
        self.left += len(room.waiting)

    def note(self, room: _Room, name: object, fate: "Fate", detail: str, size: int) -> None:
        """Take one attempt down."""
        key = (room.label, str(name))
        with self.lock:
            self.fates[fate] += 1
            if fate == "delivered":
                self.bytes += size
            if fate in ("delivered", "split"):
                self.problems.pop(key, None)
            else:
                self.problems[key] = (fate, detail)

    def settle(self, room: _Room, left: Sequence[object], reason: str) -> None:
        """Take down what is left; what is gone although it was not delivered here, another shipper has dealt with."""
        there = {str(name) for name in left}
        with self.lock:
            self.left += len(there)
            self.reason = self.reason or (reason if there else "")
            for key, (fate, _) in list(self.problems.items()):
                if key[0] == room.label and key[1] not in there and fate != "bad":
                    del self.problems[key]
            for name in there:
                self.problems.setdefault((room.label, name), ("untried", reason or "not tried"))

    def print(self, *, as_json: bool) -> None:
        if as_json:
            import orjson

            click.echo(orjson.dumps(self._json(), option=orjson.OPT_APPEND_NEWLINE), nl=False)
            return
        for line in self._lines():
            click.echo(shown(line), err=self.prints)

    def _json(self) -> dict[str, object]:
        counts = {"would_send": self.waiting} if self.dry_run else {}
        return counts | {
            "directory": str(self.directory),
            "dry_run": self.dry_run,
            "kept": self.kept,
            "delivered": self.fates["delivered"],
            "delivered_bytes": self.bytes,
            "split": self.fates["split"],
            "damaged": self.fates["bad"],
            "left": self.left,
            "reason": self.reason,
            "errors": [
                {"place": place, "file": file, "fate": fate, "detail": detail}
                for (place, file), (fate, detail) in sorted(self.problems.items())
            ],
        }

    def _lines(self) -> Iterator[str]:
        if self.dry_run:
            yield f"would send {self.waiting:,} batches of {self.directory}"
            return
        kept = ", and left on the disk" if self.kept else ""
        yield f"sent {self.fates['delivered']:,} batches ({size_text(self.bytes)}) of {self.directory}{kept}"
        if self.left:
            yield f"left: {self.left:,}" + (f"; {self.reason}" if self.reason else "")
        for count, ((_, file), (fate, detail)) in enumerate(sorted(self.problems.items())):
            if count == _MOST_SHOWN:
                yield f"  and {len(self.problems) - _MOST_SHOWN:,} more (--json has them all)"
                return
            yield f"  {file}: {fate}: {detail}"


class _Replay:
    """Sends room after room. Ctrl-C and SIGTERM stop it after what is being sent; a second one cuts that off."""

    def __init__(
        self, destination: "Destination", concurrency: int, rate_per_s: float, report: _Report, *, keep: bool
    ) -> None:
        self._destination = destination
        self._concurrency = concurrency
        self._rate_per_s = rate_per_s
        self._report = report
        self._keep = keep
        self._stop = threading.Event()
        self._cut = threading.Event()
        self._shipper: Shipper[Any] | None = None

    def run(self, rooms: Sequence[_Room], *, quiet: bool) -> None:
        """Send what is meant, and take down what is left."""
        total = sum(len(room.waiting) for room in rooms)
        with self._on_signals(), _progress(total, quiet=quiet) as advance:
            for room in rooms:
                if room.waiting and not self._stop.is_set():
                    self._send(room, advance)
                elif room.waiting:
                    self._report.settle(room, room.waiting, "stopped")
        self._report.stopped = self._stop.is_set()

    def _send(self, room: _Room, advance: Callable[[], None]) -> None:
        from spyder.outbox.shipper import Fate, Shipper

        kept: set[object] = set()

        def on_fate(name: object, fate: Fate, detail: str, size: int) -> None:
            self._report.note(room, name, fate, detail, size)
            if fate is Fate.DELIVERED:
                advance()
                if self._keep:
                    kept.add(name)

        shipper: Shipper[Any] = Shipper(
            room.source,
            self._destination,
            concurrency=self._concurrency,
            park=False,
            keep=self._keep,
            selects=room.selects,
            rate_per_s=self._rate_per_s,
            on_fate=on_fate,
        )
        self._shipper = shipper
        shipper.start()
        try:
            reason = self._pass_on(shipper)
        finally:
            shipper.stop()
            while shipper.join(_POLL_S) and not self._cut.is_set():
                pass
        self._report.settle(room, [name for name in room.left() if name not in kept], reason)

    def _pass_on(self, shipper: "Shipper[Any]") -> str:
        """Run passes while they are of use; return why it ended with something left."""
        from spyder.outbox.shipper import Ended, Fate

        fruitless = 0
        while True:
            result = shipper.run_pass()
            if result.ended is Ended.STOPPED or self._stop.is_set():
                return "stopped"
            fruitless = 0 if result.fates.get(Fate.DELIVERED) or result.fates.get(Fate.SPLIT) else fruitless + 1
            # what another shipper holds may come free, or be gone
            wait_s = min(shipper.next_due_s(), _POLL_S if result.fates.get(Fate.ELSEWHERE) else math.inf)
            hopeless = shipper.statistics().held or result.ended is Ended.DISK
            if hopeless or fruitless >= _FRUITLESS_PASSES or wait_s > _LONGEST_WAIT_S:
                return result.reason
            if self._stop.wait(wait_s):
                return "stopped"

    @contextlib.contextmanager
    def _on_signals(self) -> Iterator[None]:
        previous = {each: signal.signal(each, self._handle) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _handle(self, _signal: int, _frame: object) -> None:
        # a handler runs between two steps of the main thread, which may hold any lock: only another thread may act
        act = self._cut_off if self._stop.is_set() else self._stop_sending
        self._stop.set()
        threading.Thread(target=act, name="stop", daemon=True).start()

    def _stop_sending(self) -> None:
        if self._shipper is not None:
            self._shipper.stop()

    def _cut_off(self) -> None:
        self._cut.set()
        self._destination.close()
        time.sleep(_CUT_OFF_S)
        os._exit(ExitStatus.WORK_REMAINS)  # what is still there is on the disk


@contextlib.contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Give what counts one batch up, on standard error while it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        shown_task = progress.add_task("", total=total)
        yield lambda: progress.advance(shown_task)
