"""The documents say what the code does: statuses, edges, fields, formats, options, exit statuses, links."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from spyder.cli.exit_status import ExitStatus
from spyder.cli.probe import probe
from spyder.cli.spyderctl import main
from spyder.model.outcomes import Status
from spyder.model.records import (
    SCHEMA_VERSION,
    Batch,
    Edge,
    EdgeType,
    NodeCert,
    NodeDomain,
    NodeIP,
    Outcome,
)
from spyder.outbox.formats import FORMATS
from spyder.settings import Settings
from tests.reports import certificate, domain, edge

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BATCHES = (ROOT / "docs" / "batches.md").read_text()
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "batch.schema.json").read_text())
MARKDOWN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


def section(text: str, title: str) -> str:
    """Return what stands under a heading."""
    return re.split(r"^## ", text.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """Return the words in code of the first cell of each row of a table."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


def defined(name: str) -> dict[str, Any]:
    """Return a definition of the schema."""
    found = SCHEMA["$defs"][name]
    assert isinstance(found, dict)
    return found


def test_every_status_is_documented_in_its_order() -> None:
    """docs/batches.md, the schema and the enumeration list the same statuses."""
    statuses = [status.value for status in Status]
    assert first_cells(section(BATCHES, "Outcomes")) == statuses
    assert defined("status")["enum"] == statuses


def test_every_edge_type_is_documented_in_its_order() -> None:
    """docs/batches.md, the schema and the enumeration list the same edges."""
    types = [kind.value for kind in EdgeType]
    assert first_cells(section(BATCHES, "Edges")) == types
    assert defined("edge")["properties"]["type"]["enum"] == types


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        (Batch, SCHEMA),
        (NodeDomain, SCHEMA["$defs"]["node_domain"]),
        (NodeIP, SCHEMA["$defs"]["node_ip"]),
        (NodeCert, SCHEMA["$defs"]["node_cert"]),
        (Edge, SCHEMA["$defs"]["edge"]),
        (Outcome, SCHEMA["$defs"]["outcome"]),
    ],
)
def test_the_schema_has_every_field_and_no_other(record: type[Any], schema: dict[str, Any]) -> None:
    """All of them required, since what is emitted has them always; of a certificate, those that SPYDER has."""
    fields = {field.name for field in dataclasses.fields(record)}
    assert set(schema["properties"]) == fields
    spyders = {"spki_sha256", "subject_cn", "issuer_cn", "not_before", "not_after"}
    assert set(schema["required"]) == (spyders if record is NodeCert else fields)
    assert schema["additionalProperties"] is False


def test_the_schema_has_the_version_of_the_batch() -> None:
    """One number."""
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def test_the_dedup_keys_are_the_documented_ones() -> None:
    """As docs/batches.md writes them."""
    keys = re.findall(r"`([a-z]+\|[^`]+)`", section(BATCHES, "Duplicates"))
    node_ip = NodeIP("ip", "", "")
    made = [
        domain("host").dedup_key,
        node_ip.dedup_key,
        certificate("spki").dedup_key,
        edge("source", "target", EdgeType.USES_NS).dedup_key.replace("USES_NS", "TYPE"),
    ]
    assert keys == made


def test_every_format_is_documented() -> None:
    """README's table, `--format` and what can be written are the same."""
    documented = [name for name in first_cells(section(README, "Use")) if not name.startswith("-")]
    assert documented == list(FORMATS)
    (option,) = [each for each in probe.params if each.name == "form"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(FORMATS)


def test_every_exit_status_is_documented() -> None:
    """README and `spyderctl --help` tell all of them, and no other."""
    known = {int(status) for status in ExitStatus}
    told = section(README, "Use").split("Exit status:")[1].split(".")[0]
    assert {int(number) for number in re.findall(r"\b\d+\b", told)} == known
    assert main.help is not None
    assert {int(number) for number in re.findall(r"\b\d+\b", main.help.split("Exit status:")[1])} == known


def test_the_tlds_that_are_excluded_by_default_are_the_documented_ones() -> None:
    """README names them."""
    (line,) = [line for line in README.splitlines() if "excluded top-level domain" in line and "by default" in line]
    assert re.findall(r"`(\w+)`", line) == list(Settings().exclude_tlds)


def command_lines() -> list[str]:
    """Return the spyderctl commands of all code blocks."""
    found = []
    for path in MARKDOWN:
        text = path.read_text()
        pieces = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`(spyderctl [^`]+)`", text)
        found += [match for piece in pieces for match in re.findall(r"spyderctl( [a-z][^|>#\n;&]*)", piece)]
    return found


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_of_the_documents_is_understood(line: str) -> None:
    """Its command exists, and so do its options."""
    words = shlex.split(line)
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    options = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert options <= known, line


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    """To a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target
