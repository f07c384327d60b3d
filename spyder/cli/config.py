"""`spyderctl config`: what the settings are, and what is wrong with them."""

import json
from pathlib import Path

import click

from spyder.cli.settings_options import load_settings, settings_options


@click.group()
def config() -> None:
    """Check and show settings."""


@config.command()
@settings_options
def check(config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Check the settings; exit status 78 with every problem named where they are wrong."""
    load_settings(config_path, overrides)
    click.echo("the settings are in order")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of YAML.")
@settings_options
def show(config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print every setting as it is in force, secrets left out."""
    import yaml

    from spyder.settings import redacted

    tree = redacted(load_settings(config_path, overrides))
    click.echo(json.dumps(tree, indent=2) if as_json else yaml.safe_dump(tree, sort_keys=False), nl=as_json)


@config.command()
@click.argument("key")
@settings_options
def get(key: str, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print one setting, such as crawling.concurrency."""
    from spyder.settings import redacted

    value: object = redacted(load_settings(config_path, overrides))
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            raise click.BadParameter(f"no such setting: {key}", param_hint="KEY")
        value = value[name]
    click.echo(value if isinstance(value, str) else json.dumps(value))
