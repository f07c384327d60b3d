"""Write `etc/spyder.yaml` and `docs/settings.md` from the settings tree, the one home of defaults and descriptions.

Run from the project's root: `python docs/make_settings.py`. A test compares both files with what this makes.
"""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from spyder.settings import KeyInfo, describe, sections  # noqa: E402 - found beside this folder when run as a program

LINE_CHARS = 100

SAMPLE_HEAD = """\
# Settings of spyder, every key with its default. A key that is left out has the value shown here.
# Durations are 500ms, 15s, 2m, 1h30m, 24h or seconds; sizes 512KiB, 100MiB, 10GiB or bytes; lists
# [a, b] or "a, b". docs/settings.md says more, and what overrides this file.
# This file is made by docs/make_settings.py.
"""

PAGE_HEAD = """\
# Settings

This page is made from `spyder/settings/` by `docs/make_settings.py`; `etc/spyder.yaml` holds the same keys
as a file to start from.

`spyderd --config FILE` and `spyderctl probe --config FILE` read a YAML or JSON file. From strongest to weakest:

1. `--set key=value`, `--set crawling.concurrency=64`; the last one of a key counts,
2. the environment: `SPYDER_CRAWLING__CONCURRENCY=64` (two underscores where the file goes one level down), and
   SPYDER's `REDIS_ADDR`, `REDIS_QUEUE_ADDR`, `REDIS_QUEUE_KEY`, which have no effect where they are empty,
3. the file,
4. the default.

All that is wrong is reported at once, each problem with its file and line, variable or option, and its key; the
exit status is then 78. `spyderd --check` and `spyderctl config check` do only that.

## How values are written

- **Durations**: `500ms`, `15s`, `2m`, `24h`, `7d`, `1h30m`, or a number of seconds; from 1 ms to 366 days.
- **Sizes**: `512KiB`, `100MiB`, `10GiB`, `1TiB` (powers of 1024), `5KB`, `5MB`, `5GB`, `5TB` (powers of 1000), or
  a number of bytes.
- **Lists**: a YAML list, or items with commas between: `gov,mil`. `[]` is the empty list.
- **Text** is taken as it stands: `exclude_tlds: [no, se]` means Norway and Sweden. What holds `: ` or ` #`, or
  starts with `[` or `:`, needs quotes in a file: `metrics_addr: ":9090"`, `nameservers: ["[::1]:53"]`.
- In the environment and in `--set`, quotes around a value are taken off, a list or mapping may be written in
  brackets (`--set 'dns.nameservers=[127.0.0.1:5353]'`), and all else is taken as it stands.
- A key without a value keeps its default, with a warning.
- Paths are relative to the working directory. A file that a setting names must exist and be readable.

A file is UTF-8, at most 1 MiB, one document, without anchors, aliases and tags; a key may stand in it once.
Unknown keys, and unknown variables that start with `SPYDER_`, are refused. Left alone are `SPYDER_SHARED_DATA` (for
the tests), `SPYDER_ENVIRONMENT` and `SPYDER_REGION`, and what Kubernetes sets for a Service (`SPYDER_SERVICE_HOST`,
`SPYDER_PORT_9090_TCP` ...).

## Coming from SPYDER

SPYDER's own names, in the last column, are understood wherever a name is; where both names of one setting stand in
one file with different values, that is a problem. `domains` has no effect, as hosts are not named in the settings
(`spyderctl probe -f FILE`, or a file in `inbox.dir`), and neither has `batch.node_threshold_ratio` (`batch.max_nodes`);
both give a warning. Unlike there, an empty `exclude_tlds` excludes nothing, an empty `metrics_addr` turns the server
off, and Redis is used for dedup only where `dedup.backend` says so.

## Every key

"Not used yet" marks a key that is understood, and has no effect in this version: setting it gives a warning.
"""

TABLE_HEAD = """\
| key | type | default | meaning | environment | change takes effect | SPYDER |
|---|---|---|---|---|---|---|
"""


def sample() -> str:
    """Return the text of `etc/spyder.yaml`."""
    return SAMPLE_HEAD + "".join(_sample_section(name, keys) for name, keys in _grouped())


def page() -> str:
    """Return the text of `docs/settings.md`."""
    return PAGE_HEAD + "".join(_page_section(name, keys) for name, keys in _grouped())


def _grouped() -> Iterator[tuple[str, Sequence[KeyInfo]]]:
    """Yield each section's name (empty for the top level) with its keys."""
    for name, keys in groupby(describe(), lambda info: info.path.rpartition(".")[0]):
        yield name, list(keys)


def _about(section: str) -> str:
    return sections()[section].__doc__ or "" if section else "The probe itself."


def _sample_section(section: str, keys: Sequence[KeyInfo]) -> str:
    indent = "  " if section else ""
    head = f"\n{_comment(_about(section), '')}{section}:\n" if section else ""
    return head + "".join(("" if section else "\n") + _sample_key(info, indent) for info in keys)


def _sample_key(info: KeyInfo, indent: str) -> str:
    about = f"{_description(info)} ({info.type})"
    return f"{_comment(about, indent)}{indent}{info.path.rpartition('.')[2]}: {info.default}\n"


def _comment(text: str, indent: str) -> str:
    start = f"{indent}# "
    return textwrap.fill(text, LINE_CHARS, initial_indent=start, subsequent_indent=start, break_on_hyphens=False) + "\n"


def _description(info: KeyInfo) -> str:
    return f"{info.description} Not used yet." if info.unused else info.description


def _page_section(section: str, keys: Sequence[KeyInfo]) -> str:
    title = f"`{section}`" if section else "Top level"
    return f"\n### {title}\n\n{_about(section)}\n\n{TABLE_HEAD}" + "".join(map(_row, keys))


def _row(info: KeyInfo) -> str:
    cells = (
        f"`{info.path}`",
        info.type,
        f"`{info.default}`",
        _description(info),
        ", ".join(f"`{name}`" for name in info.environment),
        info.takes_effect,
        f"`{info.alias}`" if info.alias else "",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in cells)} |\n"


if __name__ == "__main__":
    (ROOT / "etc" / "spyder.yaml").write_text(sample(), encoding="utf-8")
    (ROOT / "docs" / "settings.md").write_text(page(), encoding="utf-8")
