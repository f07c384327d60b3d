"""The options by which every command finds its settings, and what it says when they are wrong."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spyder.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from spyder.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def settings_options(command: F) -> F:
    """Add `--config FILE` and `--set KEY=VALUE` to a command."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be repeated."
    )(command)
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings file (YAML). Every key: docs/settings.md.",
    )(command)


def load_settings(path: Path | None, overrides: Sequence[str]) -> "Settings":
    """Return the settings, or say all that is wrong with them and exit with status 78."""
    from spyder.settings import BadSettings, load

    try:
        loaded = load(path, overrides=overrides)
    except BadSettings as error:
        click.echo(str(error), err=True)
        sys.exit(ExitStatus.BAD_SETTINGS)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded.settings
