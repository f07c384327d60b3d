"""Host names: the one place that says what a name is, how it is written, and whose it is.

First on the path and used on every floor above: by the intake on lines, by the link reader on pages, by the
DNS collector on answers. Owned by no thread: every function is pure (the suffix rules are read once, on first
use, and never change), so all of them may be called from any thread at once.
"""

import functools
import importlib.util
import ipaddress
import re
import unicodedata
from pathlib import Path
from typing import Final

MAX_NAME_CHARS: Final = 253  # RFC 1035 2.3.4: 255 octets, of which a length and the root take two
MAX_LABEL_CHARS: Final = 63  # RFC 1035 2.3.4
# Longer text is refused before it costs anything. Not 253, as UTS 46 maps some characters to nothing.
MAX_TEXT_CHARS: Final = 1024

REASONS: Final = {
    "empty": "nothing is left of the name",
    "too_long": "a name has at most 253 characters (RFC 1035 2.3.4)",
    "label_too_long": "a label has at most 63 characters (RFC 1035 2.3.4)",
    "empty_label": "two dots stand together, or one leads",
    "bad_character": "a host name is made of letters, digits and hyphens (RFC 1123 2.1)",
    "bad_hyphen": "a label begins or ends with a hyphen (RFC 952)",
    "underscore": "names with an underscore are records, not hosts (RFC 8552)",
    "bad_idna": "UTS 46 forbids a character or its place in the label",
    "ip_address": "an address, or what browsers read as one (WHATWG URL 3.5)",
    "single_label": "a name without a dot is not a host on the internet",
    "numeric_tld": "the last label is a number (RFC 3696 2)",
}
"""Every reason that a `BadName` can have, and what it means."""


class BadName(ValueError):
    """The text is not a name. `reason` is a key of `REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason


_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
PLAIN_HOST: Final = rf"(?:{_LABEL}\.)+(?=[a-z]){_LABEL}"
"""Pattern of the names that `normalise_host` returns as they are, if they are of at most `MAX_NAME_CHARS`.

Nearly all: only a last label that starts with a digit, and may be a number, needs a closer look.
"""
_plain = re.compile(PLAIN_HOST).fullmatch
_label = re.compile(_LABEL).fullmatch
_ldh = re.compile(r"[a-z0-9-]*").fullmatch
_number = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch  # WHATWG URL 3.5, "ends in a number"
_escaped = re.compile(r"\\(?:[0-9]{3}|.)", re.DOTALL)  # RFC 1035 5.1


def normalise_host(text: str) -> str:
    """Return the host name that users and links write as `text`: lower-case A-labels, no trailing dot.

    Non-ASCII text goes through UTS 46 (non-transitional, joiners and each label's direction checked) as in
    browsers, which allow symbols that IDNA 2008 refuses. A label that already starts with `xn--` is kept as
    it is, even where it decodes to nothing: browsers refuse it, but DNS may well hold it. Of ASCII, only
    letters, digits and hyphens (RFC 1123 2.1).

    Raises `BadName`, also for an IP address, a name of one label and a name with an underscore.
    """
    host = text.lower()
    if len(host) <= MAX_NAME_CHARS and _plain(host):
        return host
    return _normalise_odd(text)


def normalise_dns_name(text: str) -> str:
    r"""Return a name that came out of DNS (a target of NS, MX, CNAME): lower case, no trailing dot.

    Any octet is allowed (RFC 2181 11), in the escapes of master files (`\.`, `\032`; RFC 1035 5.1) that
    dnspython prints.
    Raises `BadName` only where the name is empty (also the root) or too long.
    """
    name = text.lower()
    if name.endswith(".") and (len(name) - len(name[:-1].rstrip("\\"))) % 2:
        name = name[:-1]
    if not name:
        raise BadName("empty")
    if len(name) > MAX_NAME_CHARS and len(_escaped.sub("?", name)) > MAX_NAME_CHARS:
        raise BadName("too_long")
    return name


def registrable_domain(host: str) -> str | None:
    """Return the public suffix of `host` and a label more; None for a public suffix, an address, no name.

    By the Public Suffix List that publicsuffixlist carries, with its private section, never fetched
    (https://publicsuffix.org/list/: the longest rule wins, an exception beats all, `*` stands for one label).
    `host` is best a name as `normalise_host` or `normalise_dns_name` gives it; any other spelling is brought
    to A-labels first.
    """
    if not (host.isascii() and host.islower()) or host[0] == "." or host[-1] in ".0123456789" or ".." in host:
        plain = _a_labels_or_none(host)
        if plain is None:
            return None
        host = plain
    rules = _suffix_rules()
    dot = suffix_dot = host.rfind(".")
    flags = rules.get(host[dot + 1 :], 0)
    while flags & _DEEPER and dot > 0:
        dot = host.rfind(".", 0, dot)
        name = host[dot + 1 :]
        below = rules.get(name, 0)
        if below & _EXCEPTION:
            return name
        if below & _SUFFIX or flags & _WILDCARD:
            suffix_dot = dot
        flags = below
    return host[host.rfind(".", 0, suffix_dot) + 1 :] if suffix_dot > 0 else None


@functools.lru_cache(maxsize=8192)  # the same few thousand hosts are linked from everywhere
def apex(host: str) -> str:
    """Return the registrable domain of `host`, or `host` itself where it has none (as SPYDER does)."""
    return registrable_domain(host) or host


def _normalise_odd(text: str) -> str:
    """Do what `normalise_host` does, for text that is not a plain lower-case name."""
    host = _a_labels(text)
    if not host:
        raise BadName("empty")
    if _is_ipv6(host):
        raise BadName("ip_address")
    if len(host) > MAX_NAME_CHARS:
        raise BadName("too_long")
    labels = host.split(".")
    if _number(labels[-1]):
        address = len(labels) <= 4 and all(map(_number, labels))  # a.b.c.d, and its short forms
        raise BadName("ip_address" if address else "numeric_tld")
    for label in labels:
        if not _label(label):
            raise BadName(_fault(label))
    if len(labels) == 1:
        raise BadName("single_label")
    return host


def _fault(label: str) -> str:
    if not label:
        return "empty_label"
    if not _ldh(label):
        return "underscore" if _ldh(label.replace("_", "")) else "bad_character"
    return "label_too_long" if len(label) > MAX_LABEL_CHARS else "bad_hyphen"


def _is_ipv6(host: str) -> bool:
    if ":" not in host:
        return False
    try:
        ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _a_labels(text: str) -> str:
    """Return `text` trimmed, in lower-case A-labels, without one trailing dot; ASCII is not checked."""
    if len(text) > MAX_TEXT_CHARS:
        raise BadName("too_long")
    text = text.strip()
    if text.isascii():
        return text.lower().removesuffix(".")
    import idna

    try:
        # Letters, digits and hyphens are checked later, on the result: one check for all spellings.
        mapped = idna.uts46_remap(text, std3_rules=False).strip()
        return ".".join(map(_a_label, mapped.removesuffix(".").split(".")))
    except BadName:
        raise
    except ValueError as error:  # idna's own errors, and what its joiner rule lets through
        raise BadName("bad_idna") from error


_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})  # RFC 5893 1.4


def _a_label(label: str) -> str:
    """Encode one mapped label: the validity criteria of UTS 46 section 4.1, then punycode (RFC 3492)."""
    import idna

    if label.isascii():
        return label
    if label.startswith("xn--"):
        raise BadName("bad_idna")
    if len(label) > MAX_LABEL_CHARS:  # each character costs an octet or more; encoding is quadratic
        raise BadName("label_too_long")
    idna.check_initial_combiner(label)
    if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in label):
        idna.check_bidi(label)
    for position, char in enumerate(label):
        if char in "\u200c\u200d" and not idna.valid_contextj(label, position):
            raise BadName("bad_idna")
    return _punycode(label)


def _punycode(label: str) -> str:
    return label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")


def _a_labels_or_none(host: str) -> str | None:
    try:
        name = _a_labels(host)
    except BadName:
        return None
    wrong = not name or name[0] == "." or name[-1] == "." or ".." in name or _number(name[name.rfind(".") + 1 :])
    return None if wrong else name


def load_suffix_rules() -> None:
    """Read the Public Suffix List now. Call it before many threads ask at once: each would read it for itself."""
    _suffix_rules()


# What a name of the suffix list is: a suffix, the parent of a wildcard, an exception, an ancestor of these.
_SUFFIX: Final = 1
_WILDCARD: Final = 2
_EXCEPTION: Final = 4
_ANCESTOR: Final = 8
_DEEPER: Final = _WILDCARD | _ANCESTOR


@functools.cache
def _suffix_rules() -> dict[str, int]:
    """Return the flags of each name that the Public Suffix List mentions.

    The list is read from the copy that the package publicsuffixlist carries, of a few weeks' age at most; its code
    is not imported.
    """
    spec = importlib.util.find_spec("publicsuffixlist")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("publicsuffixlist, which carries the Public Suffix List")
    flags: dict[str, int] = {}
    for line in Path(spec.origin).with_name("public_suffix_list.dat").read_text("utf-8").splitlines():
        if line and not line.startswith("//"):
            _add_rule(flags, line.split()[0])
    return flags


def _add_rule(flags: dict[str, int], rule: str) -> None:
    kind = _SUFFIX
    if rule.startswith("!"):
        rule, kind = rule[1:], _EXCEPTION
    elif rule.startswith("*."):
        rule, kind = rule[2:], _WILDCARD
    if not rule.isascii():  # the list is in the normal form of UTS 46 already
        rule = ".".join(map(_punycode, rule.split(".")))
    flags[rule] = flags.get(rule, 0) | kind
    while "." in rule:
        rule = rule.partition(".")[2]
        flags[rule] = flags.get(rule, 0) | _ANCESTOR
