"""Where settings come from: a file, the environment and `--set`; which of them wins, and all that is wrong.

`load` is called by the commands before any thread starts; it blocks for the files it reads.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_origin

from pydantic import TypeAdapter, ValidationError

from spyder.settings.description import (
    PREFIX,
    aliases,
    declarations,
    describe,
    kind_of,
    marks_of,
    sections,
    type_text,
    value_at,
    variable,
)
from spyder.settings.problems import MESSAGE_CHARS, SHOWN_CHARS, BadSettings, Problem, Unreadable, clipped, quoted
from spyder.settings.tree import Settings
from spyder.settings.values import FILE, KeyPath, Raw

if TYPE_CHECKING:
    from spyder.settings.document import Document

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_SUGGESTIONS: Final = 20  # looking for a like name costs about 1 ms
LIKENESS: Final = 0.75  # of difflib: `crawl` is like `crawling`, `ingress` is not like `ingest`

# SPYDER's keys that mean nothing here, and what to do instead.
_DEAD: Final = MappingProxyType(
    {
        "domains": "hosts are not named in the settings; use spyderctl probe -f FILE, or put the file into inbox.dir",
        "batch.node_threshold_ratio": "set batch.max_nodes instead",
    }
)
# Variables of the project that are not settings, and two that SPYDER's documents name and its code never read.
_OTHER_VARIABLES: Final = frozenset({"SPYDER_SHARED_DATA", "SPYDER_ENVIRONMENT", "SPYDER_REGION"})
# What Kubernetes sets in every container beside a Service whose name starts with "spyder".
_service_variable = re.compile(
    r"SPYDER(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
).fullmatch


class Loaded(NamedTuple):
    """Settings, and what a person should be told about where they came from."""

    settings: Settings
    warnings: tuple[str, ...]


def load(path: Path | None = None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Loaded:
    """Return the settings of `overrides` over `environ` over the file over the defaults.

    `overrides` are the arguments of `--set`, `key=value` each, the last of a key counting. The files that
    settings name must exist and be readable. Raises `BadSettings` with every problem there is.
    """
    reading = _Reading()
    if path is not None:
        reading.read_file(path)
    reading.read_environment(environ)
    reading.read_overrides(overrides)
    return reading.finish()


class _Given(NamedTuple):
    """One value, where it was written, and under which name."""

    value: Raw
    where: str
    name: str


class _Reading:
    """One pass over all sources: what was given, and everything that is wrong with it."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._warnings: list[str] = []
        self._given: dict[KeyPath, _Given] = {}
        self._suggestions_left = MAX_SUGGESTIONS

    # the sources

    def read_file(self, path: Path) -> None:
        """Take what a YAML or JSON file holds."""
        where = f"file {path}"
        try:
            document = _document(_file_text(path))
            tree = document.read_mapping()
        except Unreadable as error:
            self._problem("", where if error.line is None else f"{where} line {error.line}", error.message)
            return
        for repeated, line in document.repeated:
            self._problem(".".join(repeated), f"{where} line {line}", "is written twice; keep one")
        layer: dict[KeyPath, _Given] = {}
        for spelled, value in self._leaves(tree):
            self._take(layer, spelled, value, f"{where} line {document.lines[spelled]}")
        self._given |= layer

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take the variables that are settings; a name that looks like one and is none is a problem."""
        layer: dict[KeyPath, _Given] = {}
        for name, path in _legacy_variables().items():
            if environ.get(name):  # SPYDER, too, takes an empty one for none
                self._take(layer, path, environ[name], f"environment {name}", text=True)
        for name in sorted(environ):
            if name.startswith(PREFIX) and name not in _OTHER_VARIABLES and not _service_variable(name):
                spelled = tuple(name.removeprefix(PREFIX).lower().split("__"))
                self._take(layer, spelled, environ[name], f"environment {name}", text=True)
        self._given |= layer

    def read_overrides(self, overrides: Sequence[str]) -> None:
        """Take the arguments of `--set`."""
        for override in overrides:
            name, equals, value = override.partition("=")
            layer: dict[KeyPath, _Given] = {}
            if equals:
                self._take(layer, tuple(name.strip().split(".")), value, "--set", text=True)
            else:
                self._problem("", "--set", f"{quoted(override)} is not KEY=VALUE")
            self._given |= layer

    # one value

    def _leaves(self, tree: dict[str, Raw]) -> Iterator[tuple[KeyPath, Raw]]:
        for name, value in tree.items():
            if name in sections() and isinstance(value, dict):
                yield from (((name, leaf), found) for leaf, found in value.items())
            elif name not in sections() or value is not None:
                yield (name,), value

    def _take(
        self, layer: dict[KeyPath, _Given], spelled: KeyPath, value: Raw, where: str, *, text: bool = False
    ) -> None:
        name = ".".join(spelled)
        path = aliases().get(spelled, spelled)
        if name in _DEAD:
            self._warnings.append(f"{where}: {clipped(name)}: has no effect here: {_DEAD[name]}")
        elif path not in declarations():
            self._problem(name, where, self._unknown(spelled, where))
        elif value is None:
            kept = next(info.default for info in describe() if info.path == ".".join(path))
            self._warnings.append(f"{where}: {name}: has no value; the default ({kept}) holds")
        else:
            try:
                given = _Given(_from_text(path, value) if text and isinstance(value, str) else value, where, name)
            except Unreadable as error:
                self._problem(name, where, f"cannot be read as YAML: {error.message}")
                return
            earlier = layer.setdefault(path, given)
            if earlier is not given and not _same(path, earlier.value, given.value):
                message = f"differs from {earlier.name} ({earlier.where}), which is the same setting; keep one"
                self._problem(name, where, message)

    def _unknown(self, spelled: KeyPath, where: str) -> str:
        name = ".".join(spelled)
        if name in sections():
            return "is a section: it must hold keys with values"
        if len(spelled) == 1 and "." in name and tuple(name.split(".")) in declarations():
            section, _, leaf = name.partition(".")
            return f"is written with two lines in a file: {section}: and, indented under it, {leaf}:"
        like = self._like(spelled)
        if like and where.startswith("environment"):
            like = variable(like.split("."))
        return f"is no setting; did you mean {like}?" if like else "is no setting"

    def _like(self, spelled: KeyPath) -> str | None:
        """Return the key or section whose name is most like this one, if any is."""
        name = ".".join(spelled)
        self._suggestions_left -= 1
        if self._suggestions_left < 0 or len(name) > SHOWN_CHARS:
            return None
        whole = {".".join(path).replace(".", "_"): ".".join(path) for path in declarations()}
        whole |= {".".join(alias).replace(".", "_"): ".".join(path) for alias, path in aliases().items()}
        whole |= {section: section for section in sections()}
        last = {path[-1]: ".".join(path) for path in reversed(tuple(declarations()))}
        if spelled[-1] in last:
            return last[spelled[-1]]
        folded = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace(".", "_").replace("-", "_").lower()
        found = difflib.get_close_matches(folded, whole, 1, LIKENESS)
        if found:
            return whole[found[0]]
        found = difflib.get_close_matches(spelled[-1].lower(), last, 1, LIKENESS)
        return last[found[0]] if found else None

    # all of them

    def finish(self) -> Loaded:
        """Return the settings, or raise `BadSettings`."""
        settings, faulty = self._validated()
        for paths, message in _cross_checks(settings):
            if not faulty.intersection(paths):
                where = next((self._given[path].where for path in paths if path in self._given), "default")
                self._problem(".".join(paths[0]), where, message)
        if self._problems:
            raise BadSettings(self._problems)
        return Loaded(settings, tuple(self._warnings + self._unused(settings)))

    def _validated(self) -> tuple[Settings, set[KeyPath]]:
        """Return the settings with the default for each faulty key, and those keys."""
        try:
            return Settings.model_validate(self._tree()), set()
        except ValidationError as error:
            faults = error.errors(include_url=False)
        faulty = {tuple(map(str, fault["loc"][: _depth(fault["loc"])])) for fault in faults}
        for fault in faults:
            path = tuple(map(str, fault["loc"][: _depth(fault["loc"])]))
            self._problem(_place(fault["loc"]), self._given[path].where, _fault_text(path, fault))
        for path in faulty:
            del self._given[path]
        return Settings.model_validate(self._tree()), faulty

    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path, given in self._given.items():
            place = tree.setdefault(path[0], {}) if path[1:] else tree
            place[path[-1]] = given.value
        return tree

    def _unused(self, settings: Settings) -> list[str]:
        return [
            f"{given.where}: {given.name}: has no effect yet: nothing reads it in this version"
            for path, given in self._given.items()
            if marks_of(declarations()[path])["unused"] and value_at(settings, path) != value_at(Settings(), path)
        ]

    def _problem(self, path: str, where: str, message: str) -> None:
        self._problems.append(Problem(clipped(path), where, clipped(message, MESSAGE_CHARS)))


@cache
def _legacy_variables() -> Mapping[str, KeyPath]:
    """Return SPYDER's own environment variables."""
    return {name: path for path, info in declarations().items() if (name := marks_of(info)["env"])}


def _depth(loc: tuple[int | str, ...]) -> int:
    """Return how many parts of the place of a fault are the key's path."""
    return 2 if loc[0] in sections() else 1


def _place(loc: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != "[key]")
    return "".join(parts).removeprefix(".")


def _fault_text(path: KeyPath, fault: Mapping[str, Any]) -> str:
    info, kind = declarations()[path], fault["type"]
    hide = marks_of(info)["hide"]
    if kind == "value_error" and (reason := str(fault["ctx"]["error"])):
        return f"{'this value' if hide else quoted(fault['input'])} {reason}"
    if kind == "extra_forbidden":
        return "is no setting"
    if kind == "missing":
        return "is missing"
    declared = kind_of(info)
    examples = f" ({declared.examples})" if declared and declared.examples else ""
    return f"expected {type_text(info)}{examples}; found {'another value' if hide else quoted(fault['input'])}"


def _same(path: KeyPath, one: Raw, other: Raw) -> bool:
    """Whether two values of one key mean the same."""
    info = declarations()[path]
    declared: Any = Annotated[info.annotation, *info.metadata]
    adapter: TypeAdapter[Any] = TypeAdapter(declared)
    try:
        return bool(adapter.validate_python(one) == adapter.validate_python(other))
    except ValidationError:
        return one == other


def _cross_checks(settings: Settings) -> Iterator[tuple[tuple[KeyPath, ...], str]]:
    """Yield what is wrong between keys, or between a key and the disk: the keys concerned, and what to say."""
    output = settings.output
    if bool(output.mtls_cert) != bool(output.mtls_key):
        pair = (("output", "mtls_cert"), ("output", "mtls_key"))
        paths = pair if output.mtls_cert else pair[::-1]
        yield paths, f"needs {'.'.join(paths[1])} beside it"
    if settings.dedup.backend == "redis" and not settings.redis.addr:
        yield (("dedup", "backend"), ("redis", "addr")), "is redis, which needs redis.addr"
    for path, info in declarations().items():
        file = value_at(settings, path)
        if kind_of(info) is FILE and file and not (Path(file).is_file() and os.access(file, os.R_OK)):
            yield (path,), f"{quoted(file)} is not a file that can be read"


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise Unreadable("cannot be read: no such name") from None
    if len(data) > MAX_FILE_BYTES:
        raise Unreadable(f"is larger than {MAX_FILE_BYTES} bytes, which no settings file is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None
    # JSON may be indented with tabs and YAML not; inside a string JSON has no bare tab.
    return text.replace("\t", " ") if path.suffix == ".json" else text


def _from_text(path: KeyPath, text: str) -> Raw:
    """Return what a value from the environment or the command line means for this key.

    Quotes around it, and brackets around a list or mapping, are YAML's; all else is taken as it stands.
    """
    bare = text.strip()
    many = get_origin(declarations()[path].annotation) in (tuple, Mapping)
    if len(bare) < 2 or bare[0] + bare[-1] not in ('""', "''", *(("[]", "{}") if many else ())):
        return text
    try:
        return _document(bare).read()
    except Unreadable:
        if bare[0] == "[" and ":" in bare:  # [::1], no YAML, is a name server
            return text
        raise


def _document(text: str) -> "Document":
    # PyYAML is a tenth of what a start costs, and a run without a file has no need of it.
    from spyder.settings.document import Document

    return Document(text)
