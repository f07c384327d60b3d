"""`spyderctl probe`: one shot over a list of hosts, on the same path as the daemon's.

The one command of spyderctl that imports the daemon's wiring: it is the path itself, not a control of it.
"""

import contextlib
import io
import math
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from spyder.cli.exit_status import ExitStatus
from spyder.cli.settings_options import load_settings, settings_options

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from spyder.cli.run_summary import RunSummary
    from spyder.daemon.outlet import Outlet
    from spyder.daemon.wiring import Path as ProbePath
    from spyder.settings import Settings

_REFRESH_S = 0.5
_HURRY_BUDGET_S = 10.0
"""From the second Ctrl-C to the end at most: the name servers' time (`dns.timeout`), and the last batch's."""
_PACKED = (b"\x1f\x8b", b"\xfd7", b"\x28\xb5")
"""How gzip, xz and zstd begin (`spyder.intake.lines`): their lines cannot be counted without unpacking."""
_MOST_REMEMBERED = 1 << 20
"""Hosts of a list that are remembered: 12 MB. Of a longer one, a host that comes again late is probed again."""
_SHORTEST_LINE_BYTES = 5  # a.co and its line end
_MAX_REJECTIONS_SHOWN = 1000
_MAX_FAULTS_SHOWN = 20


@click.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("-f", "--file", "file", type=click.File("rb"), metavar="FILE", help="File of hosts; - is standard input.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write results here.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "jsonl", "csv"]),
    help="json: a batch a line; jsonl: a record a line; csv: edges. Default: output.format.",
)
@click.option(
    "--lab",
    "lab_sites",
    is_flag=False,
    flag_value=60,
    type=click.IntRange(1, 100_000),
    metavar="[SITES]",
    help="Probe the simulated network instead of the internet; its own hosts where none are given.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on standard error but errors.")
@settings_options
def probe(
    hosts: tuple[str, ...],
    file: BinaryIO | None,
    output: Path | None,
    form: str | None,
    lab_sites: int | None,
    quiet: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Probe hosts now and print what they are tied to.

    Every HOST, and every line of FILE, is a host name; lists with ranks, URLs, comments, hosts files, CSV and
    compressed files are understood. Lines that are not are named on standard error, with the reason.

    Ctrl-C stops politely: hosts that are being probed are finished and printed; a second one hurries.
    """
    with contextlib.ExitStack() as cleanup:
        if lab_sites is not None:
            config_path, lab_hosts = cleanup.enter_context(_lab(lab_sites, config_path))
            if not hosts and file is None:
                file = cleanup.enter_context(lab_hosts.open("rb"))
        if not hosts and file is None:
            raise click.UsageError("no hosts: give some, or a file with -f FILE (- for standard input)")
        settings = load_settings(config_path, overrides)
        sys.exit(_run(settings, _named(hosts), file, output, form, quiet=quiet))


@contextlib.contextmanager
def _outlet(settings: "Settings", output: Path | None, form: str | None) -> Iterator["Outlet"]:
    """Open the outbox: to standard output or a file, by way of a spool of its own; or as the settings have it.

    A spool that is not empty at the end is kept, and named.
    """
    from spyder.control.outputs import build_destination
    from spyder.daemon.outlet import Outlet
    from spyder.outbox.destinations import ConfigurationError, destination_of
    from spyder.runtime.durable import DurableError, LockHeld

    with contextlib.ExitStack() as cleanup:
        prints = _prints(settings, output, form)
        if not prints:
            directory = Path(settings.output.spool_dir)
            try:
                destination = build_destination(settings.output, on_warning=_complain)
            except ConfigurationError as error:
                raise _CannotStart(str(error), ExitStatus.BAD_SETTINGS) from None
        else:
            sink = cleanup.enter_context(_sink(output))
            form = form or settings.output.format
            destination = destination_of("stdout:", base=Path.cwd(), form=form, stdout_fd=sink.fileno())
            directory = Path(tempfile.mkdtemp(prefix="spyder-spool-"))
            cleanup.callback(_remove_if_empty, directory)
        try:
            outlet = Outlet(
                directory,
                destination,
                max_bytes=settings.output.spool_max_bytes,
                concurrency=1 if prints else settings.output.concurrency,  # printed in the order of their making
                on_event=_complain,
            )
        except LockHeld as error:
            advice = "another program owns the spool: give it the hosts, or use --set output.spool_dir=DIR"
            raise _CannotStart(f"{error}; {advice}", ExitStatus.WORK_REMAINS) from None
        except DurableError as error:
            raise _CannotStart(str(error), ExitStatus.BAD_SETTINGS) from None
        try:
            yield outlet
        finally:
            if left := outlet.close():
                to = " --to stdout:" if prints else ""
                _complain(f"batches left in {directory}: {left}. spyderctl replay-spool --dir {directory}{to}")


def _prints(settings: "Settings", output: Path | None, form: str | None) -> bool:
    """Tell whether results are printed: unless the settings name a destination, or when `-o` or `--format` ask."""
    return output is not None or form is not None or settings.output.ingest in ("", "stdout:")


class _CannotStart(Exception):
    def __init__(self, reason: str, status: ExitStatus) -> None:
        super().__init__(reason)
        self.status = status


def _remove_if_empty(directory: Path) -> None:
    """Remove a spool that nothing is left in, neither waiting nor dead nor bad."""
    left = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if not left:
        shutil.rmtree(directory, ignore_errors=True)


def _sink(output: Path | None) -> io.FileIO:
    """Return where results go, unbuffered: what a buffer keeps when a write fails, fails again when it is closed."""
    try:
        return io.FileIO(output, "wb") if output else io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
    except (OSError, AttributeError) as error:  # AttributeError: standard output is closed, and None
        raise click.BadParameter(f"cannot be written: {error}", param_hint="-o") from None


def _named(hosts: Sequence[str]) -> list[str]:
    """Return the hosts of the command line in normal form; a wrong one ends the program with status 2."""
    from spyder.model.names import BadName, normalise_host

    normal = []
    for text in hosts:
        try:
            normal.append(normalise_host(text))
        except BadName as error:
            raise click.BadParameter(f"{text!r}: {error}", param_hint="HOST") from None
    return normal


@contextlib.contextmanager
def _lab(sites: int, config_path: Path | None) -> Iterator[tuple[Path, Path]]:
    if config_path is not None:
        raise click.UsageError("--lab brings its own settings: leave out --config, and change some with --set")
    try:
        from spyder.lab.network import Lab
    except ImportError as error:
        raise click.UsageError(
            f"the simulated network needs the extra 'lab': pip install 'spyder-probe[lab]' ({error})"
        ) from None
    with tempfile.TemporaryDirectory(prefix="spyder-lab-") as directory, Lab(Path(directory), sites=sites) as lab:
        yield lab.settings_path, Path(directory) / "hosts.txt"


def _run(
    settings: "Settings",
    hosts: Sequence[str],
    file: BinaryIO | None,
    output: Path | None,
    form: str | None,
    *,
    quiet: bool,
) -> ExitStatus:
    from spyder.cli.run_summary import RunSummary
    from spyder.daemon.wiring import build_path

    summary = RunSummary()
    feed = _Feed(hosts, file, summary, quiet=quiet)
    try:
        with _outlet(settings, output, form) as outlet:
            path = build_path(settings, store=outlet.store, observe=summary.note, on_fault=_Faults().note)
            run = _Run(path, outlet, feed, settings, prints=_prints(settings, output, form))
            # signals first: threads that have been started must be stopped
            with run.stop.on_signals(), _progress(summary, feed, quiet=quiet):
                outlet.start()
                path.start()
                run.finish()
            if not quiet:
                click.echo(summary.text(), err=True)
            return run.verdict(summary)
    except _CannotStart as error:
        click.echo(f"cannot start: {error}", err=True)
        return error.status
    except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
        click.echo(f"cannot start: {error}", err=True)
        return ExitStatus.BAD_SETTINGS if isinstance(error, OSError) else ExitStatus.WORK_REMAINS


class _Run:
    """One run, from the first host to the last delivery."""

    def __init__(
        self, path: "ProbePath", outlet: "Outlet", feed: "_Feed", settings: "Settings", *, prints: bool
    ) -> None:
        self._path = path
        self._outlet = outlet
        self._feed = feed
        self._prints = prints
        self._drain_timeout_s = settings.shutdown.drain_timeout
        self.stop = _Stop(path, settings.crawling.host_budget + settings.shutdown.drain_timeout)
        self._undone = 0

    def finish(self) -> None:
        """Feed the path, wait for its end and for the last delivery."""
        path, stop = self._path, self.stop
        # the feeder has a thread of its own, so that a signal finds this one waiting where it can be handled
        feeder = threading.Thread(target=self._feed.run, args=(path,), name="feeder", daemon=True)
        feeder.start()
        while feeder.is_alive() and not stop.asked and not self._is_lost():
            feeder.join(_REFRESH_S)
        # no limit but that of a stop: every host has its own, and who reads the results may take their time
        while path.drain(_REFRESH_S) and time.monotonic() < stop.deadline:
            if self._is_lost():
                stop.hurry()
                path.workers.join(_HURRY_BUDGET_S)
                break
        self._undone = path.stop()
        patience_s = math.inf if self._prints else self._drain_timeout_s
        deadline = min(stop.deadline, time.monotonic() + patience_s)
        self._outlet.drain(lambda: self._is_lost() or time.monotonic() >= min(deadline, stop.deadline))

    def _is_lost(self) -> bool:
        """Tell whether nothing that is learned now can be kept or shown: a printer does not come back."""
        return self._path.failure is not None or (self._prints and bool(self._outlet.failure))

    def verdict(self, summary: "RunSummary") -> ExitStatus:
        """Say what is left undone, and return what that means."""
        feed, failure = self._feed, self._path.failure
        if failure is not None:
            click.echo(f"results could not be kept: {failure}", err=True)
        elif self._prints and self._outlet.failure:
            if "nobody reads" not in self._outlet.failure:  # they have what they wanted
                click.echo(f"results could not be written: {self._outlet.failure}", err=True)
        elif self._undone:
            click.echo(f"{self._undone} hosts or results were left undone when the time was over", err=True)
        if feed.failure is not None:
            click.echo(f"the list could not be read to its end: {feed.failure}", err=True)
        remaining = feed.put - summary.hosts
        if self.stop.asked:
            click.echo("stopped: hosts remain" if remaining or not feed.finished else "stopped", err=True)
        done = not (self._undone or failure or feed.failure or remaining) and feed.finished
        return ExitStatus.DONE if done and not self._outlet.waiting() else ExitStatus.WORK_REMAINS


class _Stop:
    """Ctrl-C and SIGTERM: the first gives back what was not begun, the second cuts off what was."""

    def __init__(self, path: "ProbePath", budget_s: float) -> None:
        self._path = path
        self._budget_s = budget_s
        self.asked = False
        self.deadline = math.inf
        """When the program ends, whatever is still to be done."""

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        previous = {each: signal.signal(each, self._handle) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def hurry(self) -> None:
        """Cut off what is in flight; returns at once."""
        self.deadline = min(self.deadline, time.monotonic() + _HURRY_BUDGET_S)
        threading.Thread(target=self._path.hurry, name="stop", daemon=True).start()

    def _handle(self, _signal: int, _frame: object) -> None:
        # a handler runs between two steps of the main thread, which may hold any lock: only another thread may act
        if self.asked:
            self.hurry()
            return
        self.asked = True
        self.deadline = time.monotonic() + self._budget_s
        threading.Thread(target=self._path.abandon, name="stop", daemon=True).start()


class _Feed:
    """Puts hosts into the path, each once. Runs in a thread of its own."""

    def __init__(self, hosts: Sequence[str], file: BinaryIO | None, summary: "RunSummary", *, quiet: bool) -> None:
        self._hosts = hosts
        # unbuffered: the lock of a buffered reader would be held by a read that nothing ends
        self._file = None if file is None else io.FileIO(file.fileno(), "rb", closefd=False)
        self._summary = summary
        self._quiet = quiet
        self.put = 0
        self.finished = False
        self.failure: Exception | None = None

    def run(self, path: "ProbePath") -> None:
        """Put every host; blocks where the workers are behind."""
        from spyder.intake.lines import InputError
        from spyder.model.records import Task
        from spyder.runtime.bounded_queue import Closed
        from spyder.runtime.seen_table import SeenTable

        seen = SeenTable(self._most_hosts(), ttl_s=math.inf)
        try:
            for host in self._all_hosts():
                if seen.contains(host, 0.0):
                    self._summary.duplicates += 1
                    continue
                seen.add((host,), 0.0)
                self.put += 1
                path.tasks.put(Task(host))
            self.finished = True
        except Closed:
            pass
        except (InputError, OSError) as error:
            self.failure = error

    def _most_hosts(self) -> int:
        """Return how many hosts are remembered, so that none is probed twice: as many as the list can hold."""
        if self._file is None:
            return len(self._hosts)
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode) or os.pread(self._file.fileno(), 2, 0) in _PACKED:
            return _MOST_REMEMBERED
        return min(len(self._hosts) + status.st_size // _SHORTEST_LINE_BYTES, _MOST_REMEMBERED)

    def total(self) -> int | None:
        """Return about how many hosts there are; None where that cannot be told beforehand."""
        if self.finished:
            return self.put + self._summary.left_out
        if self._file is None:
            return len(self._hosts)
        number = self._file.fileno()
        if not stat.S_ISREG(os.fstat(number).st_mode) or os.pread(number, 2, 0) in _PACKED:
            return None
        ends, at, block = 0, self._file.tell(), b"\n"
        while chunk := os.pread(number, 1 << 20, at):
            ends, at, block = ends + chunk.count(b"\n"), at + len(chunk), chunk
        return len(self._hosts) + ends + (not block.endswith(b"\n"))

    def _all_hosts(self) -> Iterable[str]:
        from spyder.intake.lines import read_entries

        yield from self._hosts
        if self._file is None:
            return
        for entry in read_entries(cast("BinaryIO", self._file)):
            if entry.host is not None:
                yield entry.host
                continue
            self._summary.rejected += 1
            if self._quiet or self._summary.rejected > _MAX_REJECTIONS_SHOWN:
                continue
            _complain(f"line {entry.line}: {entry.reason}: {entry.text}")
            if self._summary.rejected == _MAX_REJECTIONS_SHOWN:
                _complain("further rejected lines are only counted")


def _complain(text: str) -> None:
    """Say it on standard error; that nobody listens there any more ends nothing."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


class _Faults:
    """Faults of our own: the first ones are shown whole."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, fault: object) -> None:
        """Show a fault (`spyder.daemon.workers.WorkerFault`)."""
        self._count += 1
        if self._count <= _MAX_FAULTS_SHOWN:
            _complain(f"fault of our own: {fault}")


@contextlib.contextmanager
def _progress(summary: "RunSummary", feed: _Feed, *, quiet: bool) -> Iterator[None]:
    """Show rate and time left on standard error while it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("probing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        shown = progress.add_task("", total=feed.total(), rate="")
        done = threading.Event()
        refresher = threading.Thread(
            target=_refresh, args=(progress, shown, summary, feed, done), name="progress", daemon=True
        )
        refresher.start()
        try:
            yield
        finally:
            done.set()
            refresher.join()


def _refresh(progress: "Progress", shown: "TaskID", summary: "RunSummary", feed: _Feed, done: threading.Event) -> None:
    while not done.wait(_REFRESH_S):
        # the count of lines is a guess: there are comments, and lines of several hosts
        progress.update(
            shown,
            total=feed.total() if feed.finished else None,
            completed=summary.hosts + summary.left_out,
            rate=f"{summary.rate():.0f} a second",
        )
        progress.refresh()
