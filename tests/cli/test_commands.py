"""What spyderctl has for commands: help, cost of the start, and `config`."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from spyder import __version__
from spyder.cli.spyderctl import main
from tests.cli.spyderctl import COMMAND, ROOT, environment, run

HELP_CPU_S = 0.3  # reference: the design's budget for `spyderctl --help`


def commands(group: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command that does something."""
    if not isinstance(group, click.Group):
        yield path
        return
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, (*path, name))


COMMANDS = list(commands())
DOCUMENTS = "\n".join(
    path.read_text()
    for path in (ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    """A line that says what it is for, and one for each option and argument."""
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
    assert "Usage: " in command.get_help(click.Context(command))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_documented(path: tuple[str, ...]) -> None:
    """By its full name, in the README or under docs/."""
    stands = re.search(rf"spyderctl {' '.join(path)}\b", DOCUMENTS) is not None
    assert stands, f"`spyderctl {' '.join(path)}` stands in no document"


def test_the_short_lines_are_in_the_help() -> None:
    """`spyderctl --help` names every command with its line, without importing it."""
    ended = run("--help")
    assert ended.status == 0
    for name in {path[0] for path in COMMANDS}:
        assert re.search(rf"^  {name} +\S", ended.stdout.decode(), re.MULTILINE)
    assert run("-h").stdout == ended.stdout


def test_help_starts_fast() -> None:
    """Under 0.3 s of CPU, children and system time included; the best of three, on a machine that is busy."""
    assert min(cpu_s("--help") for _ in range(3)) < HELP_CPU_S


def cpu_s(*arguments: str) -> float:
    """Return the CPU seconds of a run."""
    process = subprocess.Popen([*COMMAND, *arguments], env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_imports_neither_the_path_nor_the_settings() -> None:
    """The fast start is no accident."""
    code = (
        "import sys\n"
        "from spyder.cli.spyderctl import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*(name for name in sys.modules if name.startswith(('spyder.', 'pydantic', 'rich', 'requests'))))"
    )
    done = subprocess.run([COMMAND[0], "-c", code], env=environment(), capture_output=True, check=True)
    imported = set(done.stdout.decode().splitlines()[-1].split())
    assert imported <= {"spyder.cli", "spyder.cli.spyderctl", "spyder.cli.lazy_group"}


def test_the_version_is_that_of_the_package() -> None:
    """`--version` and `-V` say it."""
    assert run("--version").stdout.decode().split()[-1] == __version__
    assert run("-V").stdout.decode().split()[-1] == __version__


def test_a_command_that_does_not_exist_is_wrong_usage() -> None:
    """Status 2, said on standard error."""
    ended = run("no-such-command")
    assert ended.status == 2
    assert "no-such-command" in ended.stderr


def test_without_a_command_there_is_help() -> None:
    """And no success, as nothing was done."""
    ended = run()
    assert "Usage: spyderctl" in ended.stdout.decode() + ended.stderr


# config


def test_config_check_says_that_all_is_well() -> None:
    """Also of the file that comes with the project."""
    ended = run("config", "check", "--config", ROOT / "etc" / "spyder.yaml")
    assert (ended.status, ended.stderr) == (0, "")
    assert "in order" in ended.stdout.decode()


def test_config_check_names_all_problems_at_once(tmp_path: Path) -> None:
    """Each with where it stands and its key; status 78."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("crawling:\n  concurrency: -1\n  no_such_key: 1\ndns:\n  timeout: soon\n")
    ended = run("config", "check", "--config", wrong, "--set", "batch.max_edges=x")
    assert (ended.status, ended.stdout) == (78, b"")
    for key in ("crawling.concurrency", "no_such_key", "dns.timeout", "batch.max_edges"):
        assert key in ended.stderr
    assert str(wrong) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_config_show_prints_what_is_in_force() -> None:
    """As YAML, and as JSON, the same; what it prints is a settings file."""
    as_yaml = run("config", "show", "--set", "crawling.concurrency=7")
    as_json = run("config", "show", "--json", "--set", "crawling.concurrency=7")
    tree = yaml.safe_load(as_yaml.stdout)
    assert tree == json.loads(as_json.stdout)
    assert tree["crawling"]["concurrency"] == 7


def test_what_config_show_prints_can_be_read_again(tmp_path: Path) -> None:
    """And means the same."""
    shown = run("config", "show", "--set", "crawling.rate_per_host=0.5", "--set", "exclude_tlds=[gov, no]")
    path = tmp_path / "shown.yaml"
    path.write_bytes(shown.stdout)
    again = run("config", "show", "--config", path)
    assert (again.status, again.stdout) == (0, shown.stdout)


@pytest.mark.parametrize(
    ("key", "printed"),
    [
        ("crawling.concurrency", "256"),
        ("exclude_tlds", '["gov", "mil", "int"]'),
        ("dns.case_randomization", "true"),
        ("output.format", "json"),
        ("http_client.ca_bundle", ""),
    ],
)
def test_config_get_prints_one_setting(key: str, printed: str) -> None:
    """Text as it is, all else as JSON, which is YAML too."""
    ended = run("config", "get", key)
    assert (ended.status, ended.stdout.decode()) == (0, f"{printed}\n")


def test_config_get_of_a_section_is_json() -> None:
    """With all its keys."""
    assert json.loads(run("config", "get", "batch").stdout).keys() == {"max_edges", "max_nodes", "flush_interval"}


@pytest.mark.parametrize("key", ["no.such", "crawling.concurrency.more", "", "crawling."])
def test_config_get_of_nothing_is_wrong_usage(key: str) -> None:
    """Status 2."""
    ended = run("config", "get", key)
    assert (ended.status, ended.stdout) == (2, b"")
    assert "no such setting" in ended.stderr


# lab


def test_the_lab_serves_until_a_signal(tmp_path: Path) -> None:
    """It says when it is ready, its settings work, and it ends with status 0."""
    process = subprocess.Popen(
        [*COMMAND, "lab", "--sites", "5", "--dir", str(tmp_path)], env=environment(), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert b"lab ready" in process.stdout.readline()
        ended = run("probe", "-q", "-f", tmp_path / "hosts.txt", "--config", tmp_path / "spyder.yaml")
        assert (ended.status, len(ended.outcomes)) == (0, 5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_lab_needs_a_directory() -> None:
    """Status 2 without one."""
    assert run("lab").status == 2
