"""How the commands find and open a spool, beside the daemon that owns it or without one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from spyder.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from spyder.outbox.spool import Spool
    from spyder.settings import Settings


def spool_directory(settings: "Settings", given: Path | None) -> Path:
    """Return the directory of `--dir`, or of the settings; end with status 2 or 78 where there is none."""
    directory = given or Path(settings.output.spool_dir)
    if not directory.is_dir():
        refuse(directory, "no such directory", by_option=given is not None)
    return directory


def open_spool(directory: Path, *, by_option: bool) -> "Spool":
    """Open a spool that is there; end with status 2 or 78 where it cannot be used."""
    from spyder.outbox.spool import Spool
    from spyder.runtime.durable import DurableError

    try:
        return Spool(directory, owner=False)
    except DurableError as error:
        refuse(directory, f"no spool that can be used: {error}", by_option=by_option)


def holds_a_spool(directory: Path) -> bool:
    """Tell whether a daemon's spool is there, or batch files of one."""
    from spyder.outbox.spool import Name, Place

    return all((directory / each).is_dir() for each in (Place.DEAD, Place.BAD)) or any(
        Name.parse(each.name) for each in directory.iterdir()
    )


def refuse(directory: Path, reason: str, *, by_option: bool) -> NoReturn:
    """End the program: the directory cannot be used."""
    where = "--dir" if by_option else "output.spool_dir"
    click.echo(f"{where}: {directory}: {reason}", err=True)
    sys.exit(ExitStatus.USAGE if by_option else ExitStatus.BAD_SETTINGS)


def size_text(size_bytes: float) -> str:
    """Return a size for people: `2.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def age_text(age_s: float) -> str:
    """Return an age for people, two units: `3d4h`."""
    minutes, seconds = divmod(int(age_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def shown(text: str) -> str:
    """Return text of another's making as it may be shown on a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
