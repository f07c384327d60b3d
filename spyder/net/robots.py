"""The grammar of robots.txt (RFC 9309): bytes in, verdicts out.

Place on the path: policy parses what the transport fetched. Pure, no I/O; what is returned is immutable and may
be used by any thread.

The work is shared with `protego`, which answers one question: does this pattern match that path, whatever way
either is percent-encoded. Lines, groups and precedence are read here as Google's parser reads them, because
protego differs on each (a byte order mark hides the first group, lines break at U+2028, Crawl-delay ends a group,
`?` counts as three octets of precedence), and because it then sees only the few rules that can match, which bounds
what a hostile file costs. A body is read as Latin-1, one character a byte: nothing can fail to decode, and a byte
beyond ASCII becomes the percent-escape that RFC 9309 section 2.2.2 compares it as.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from protego import Protego

MAX_BODY_BYTES = 500 * 1024
"""How much of a file is read: the least that RFC 9309 section 2.5 asks of a crawler."""

_MAX_LINE_CHARS = 2083 * 8 - 1
"""Where a line is cut, as Google's parser does: eight of the longest URL that a browser took."""

_MAX_COMPARISONS = 50_000_000
"""Pieces of pattern times characters of path that a verdict may cost: about 0.2 s of CPU. The most that 400 real files
need for a path of 2,000 characters is 1.4 million."""

_BLANKS = " \t\v\f"
_BYTE_ORDER_MARK = re.compile(rb"\xef(?:\xbb\xbf?)?")
"""Whole or cut short, as Google's parser skips it."""

_KINDS = {
    "user-agent": "agent",
    "useragent": "agent",
    "user agent": "agent",
    "allow": "allow",
    "disallow": "disallow",
    "dissallow": "disallow",
    "dissalow": "disallow",
    "disalow": "disallow",
    "diasllow": "disallow",
    "disallaw": "disallow",
    "crawl-delay": "delay",
    "crawl delay": "delay",
}
"""The keys and the misspellings that Google's parser takes, and Crawl-delay, which it ignores."""

_LINE = re.compile(
    rf"[ \t\v\f]*+({'|'.join(_KINDS)})(?:[^:#]*+:([^#]*+)|[^ \t:#]*+[ \t]++([^ \t:#]++)[ \t\v\f]*+(?:#|$))",
    re.IGNORECASE | re.ASCII,
)
"""One line: key, value after a colon, value without one. Google's latitude: a key needs only to begin like a known one,
and the colon may be left out where there are just two words. Possessive throughout, so linear in the line."""

_GROUP_NAME = re.compile(r"[A-Za-z_-]++(?![\w.])")
_TOKEN = re.compile(r"(?:Mozilla/[\d.]+ \(compatible; )?([A-Za-z_-]+)", re.ASCII)
_AUTHORITY = re.compile(r"[^/?#:]*+://[^/?#]*+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_KEPT_ESCAPES = {"2F", "25"}
"""Slash and percent sign differ from their escapes (RFC 3986 section 2.2, 2.4); the rest are compared unescaped."""
_NOT_URL = re.compile(r"[^\x21-\x7e]")
_SECONDS = re.compile(r"(?=\.?\d)\d{0,9}\.?\d{0,9}", re.ASCII)
_RULE_LINE = re.compile(rb"(?:\A|[\r\n])[ \t]*+(?:dis)?allow[ \t]*+:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a robots.txt says of one path to one crawler.

    `line` is the rule that decided, spelled `Allow: /x` or `Disallow: /x`, for people; None where no rule matched,
    which allows. `crawl_delay_s` is what the site asks between two requests, in seconds, unbounded and unchecked
    beyond being a number that is not negative; None where it asks nothing.
    """

    allowed: bool
    line: str | None
    crawl_delay_s: float | None


@dataclass(frozen=True, slots=True)
class AgentRules:
    """The rules that hold for one product token: all that needs to be kept of a file.

    `rules` is one rule a line, `+` (allow) or `-` (disallow) and its pattern, in Latin-1 characters: a string rather
    than a list because a cache of hosts holds very many, at a third of the memory.
    """

    rules: str
    crawl_delay_s: float | None

    def verdict(self, url_or_path: str) -> Verdict:
        """Return what holds for an absolute URL, or for a path that begins with `/`. Never raises.

        The longest pattern that matches decides, Allow where two are equal (RFC 9309 section 2.2.2). Where a hostile
        file and a very long path would cost too much to compare, the path is denied and no line is named.
        """
        if not self.rules:
            return Verdict(allowed=True, line=None, crawl_delay_s=self.crawl_delay_s)
        path = _path_of(url_or_path)
        if (self.rules.count("\n") + self.rules.count("*") + 1) * len(path) > _MAX_COMPARISONS:
            return Verdict(allowed=False, line=None, crawl_delay_s=self.crawl_delay_s)
        rule = _deciding_rule(self._candidates(_unescaped(path)), _escaped(path))
        if rule is None:
            return Verdict(allowed=True, line=None, crawl_delay_s=self.crawl_delay_s)
        return Verdict(rule.allow, rule.line, self.crawl_delay_s)

    def _candidates(self, path: str) -> list["_Rule"]:
        """Return the rules that can match, the one with precedence first."""
        found = []
        seconds = "*$%i" + path[1:2]  # where most rules part from the path; i, because /index.htm may allow /
        for rule in self.rules.split("\n"):
            if rule[1:2] == "/" and rule[2:3] not in seconds:
                continue
            allow, pattern = rule[:1] == "+", rule[1:]
            if _may_match(pattern, path):
                found.append(_Rule(allow, _escaped(pattern), pattern))
            elif allow and "/index.htm" in pattern:
                folder, _, page = pattern.rpartition("/")
                # To allow /a/index.html is to allow /a/ (Google's parser; RFC 9309 is silent).
                if page.startswith("index.htm") and _may_match(folder + "/$", path):
                    found.append(_Rule(allow, _escaped(folder + "/$"), pattern))
        return sorted(found, key=lambda rule: (len(rule.pattern), rule.allow), reverse=True)


ALLOW_ALL = AgentRules("", None)
"""What an absent or empty file says."""
DENY_ALL = AgentRules("-/", None)


@dataclass(frozen=True, slots=True)
class Rules:
    """A robots.txt as fetched, cut to `MAX_BODY_BYTES`; groups are read when an agent is asked for."""

    text: str

    def for_agent(self, product_token: str) -> AgentRules:
        """Return the rules for one crawler: its own groups combined, or else those for `*`, or else none.

        A group is ours when the leading letters, `_` and `-` of a User-agent value are our token in any case, and no
        digit, dot or foreign letter goes on from there: `spyder/2.0` and `Spyder bot` name `spyder`, `spyder3.example`
        does not. RFC 9309 section 2.2.1 has the whole token match; Google's parser ignores all that follows, which
        would have us take the permission of another crawler for ours.

        Only Allow and Disallow end a run of User-agent lines (section 2.2.4). A Crawl-delay holds for the agents
        named before it in its group; of several the longest holds.
        """
        own, everyone = _Group(), _Group()
        token = product_token.lower()
        named = own_named = everyone_named = rules_seen = False
        for kind, value in _lines(self.text):
            if kind == "agent":
                if rules_seen:
                    own_named = everyone_named = rules_seen = False
                if value[:1] == "*" and value[1:2] in _BLANKS:
                    everyone_named = True
                elif (name := _GROUP_NAME.match(value)) and name[0].lower() == token:
                    named = own_named = True
                continue
            if not (own_named or everyone_named):
                continue
            group = own if own_named else everyone
            if kind == "delay":
                group.delay(value)
            else:
                rules_seen = True
                group.rule(kind, value)
        return (own if named else everyone).rules()

    def verdict(self, product_token: str, url_or_path: str) -> Verdict:
        """Return what holds for one crawler and one URL. Never raises."""
        return self.for_agent(product_token).verdict(url_or_path)


def parse(body: bytes) -> Rules:
    """Return the rules of a body of any bytes. Never raises.

    A body over `MAX_BODY_BYTES` is cut there, and the line that the cut goes through is dropped: half of
    `Disallow: /private` may forbid everything, half of `Allow: /public` may allow it.
    """
    mark = _BYTE_ORDER_MARK.match(body)
    text = body[mark.end() if mark else 0 : MAX_BODY_BYTES].decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(body) > MAX_BODY_BYTES:
        text = text[: text.rfind("\n") + 1]
    return Rules(text)


def product_token(user_agent: str) -> str:
    """Return the name by which robots.txt knows us: `SPYDERProbe` for `SPYDERProbe/1.0 (+https://...)`.

    That is the leading run of letters, `_` and `-` (RFC 9309 section 2.2.1), or the one after
    `Mozilla/5.0 (compatible; `.

    Raises:
        ValueError: there is no such run, so no robots.txt could name this crawler.
    """
    found = _TOKEN.match(user_agent)
    if found is None:
        raise ValueError(f"a User-Agent must begin with a name of letters, '_' and '-': {user_agent!r}")
    return found[1]


def looks_like_html(body: bytes, content_type: str | None) -> bool:
    """Return whether a page, such as a challenge or a login, was sent in place of robots.txt.

    That is a body that begins with `<`, or a body of an HTML type that is not blank, unless it has an Allow or
    Disallow line: many servers send sound rules as `text/html`, and some begin them with `<!-- -->`.
    """
    mark = _BYTE_ORDER_MARK.match(body)
    start = body[mark.end() if mark else 0 :].lstrip()
    media_type = (content_type or "").partition(";")[0].strip().lower()
    html = start[:1] == b"<" or (bool(start) and media_type in {"text/html", "application/xhtml+xml"})
    return html and _RULE_LINE.search(body, 0, MAX_BODY_BYTES) is None


class _Group:
    """The rules of one agent while a file is being read."""

    __slots__ = ("_delay_s", "_rules")

    def __init__(self) -> None:
        self._rules: dict[str, None] = {}
        self._delay_s: float | None = None

    def rule(self, kind: str, pattern: str) -> None:
        if pattern:
            self._rules[("+" if kind == "allow" else "-") + pattern] = None

    def delay(self, value: str) -> None:
        if _SECONDS.fullmatch(value):
            self._delay_s = max(float(value), self._delay_s or 0.0)

    def rules(self) -> AgentRules:
        if not self._rules and self._delay_s is None:
            return ALLOW_ALL
        return AgentRules("\n".join(self._rules), self._delay_s)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule that can match: `pattern` as protego is asked, its length being its precedence; `source` as written."""

    allow: bool
    pattern: str
    source: str

    @property
    def line(self) -> str:
        source = self.source.encode("latin-1").decode("utf-8", "replace")
        return f"{'Allow' if self.allow else 'Disallow'}: {source}"


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and value of every line that says something to a crawler."""
    for line in text.split("\n"):
        found = _LINE.match(line, 0, _MAX_LINE_CHARS)
        if found:
            key, value, word = found.groups()
            yield _KINDS[key.lower()], (word if value is None else value).strip(_BLANKS)


def _path_of(url_or_path: str) -> str:
    """Return path and query, one character a byte of its UTF-8; a fragment is never matched."""
    path = url_or_path.partition("#")[0]
    if not path.startswith("/"):
        path = "/" + _AUTHORITY.sub("", path, count=1).removeprefix("/")
    return path.encode("utf-8", "surrogatepass").decode("latin-1")


def _escaped(text: str) -> str:
    """Percent-encode what cannot stand in a URL, so that nothing that protego splits lines at is left either."""
    return _NOT_URL.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _unescaped(text: str) -> str:
    """Undo percent-encoding, but for the two characters whose escapes mean something else than they do."""
    if "%" not in text:
        return text
    return _ESCAPE.sub(
        lambda found: found[0].upper() if found[1].upper() in _KEPT_ESCAPES else chr(int(found[1], 16)), text
    )


def _may_match(pattern: str, path: str) -> bool:
    """Return False only for a pattern that cannot match the unescaped path: a cheap sieve before protego."""
    first, *rest = _unescaped(pattern).removesuffix("$").split("*")
    return path.startswith(first) and all(piece in path for piece in rest)


def _deciding_rule(candidates: list[_Rule], path: str) -> _Rule | None:
    """Return the first candidate whose pattern matches.

    protego is asked about a few at a time, one at first (it nearly always matches), twice as many after every no and
    half as many after every yes: a hostile file of candidates that all fail costs a small multiple of one parse.
    """
    first, size = 0, 1
    while first < len(candidates):
        if _any_matches(candidates[first : first + size], path):
            if size == 1:
                return candidates[first]
            size //= 2
        else:
            first += size
            size *= 2
    return None


def _any_matches(rules: list[_Rule], path: str) -> bool:
    lines = "".join(f"Disallow: {rule.pattern}\n" for rule in rules)
    return not Protego.parse(f"User-agent: *\n{lines}").can_fetch(f"http://h{path}", "*")
