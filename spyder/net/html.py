"""Link grammar of an HTML page: bytes in, the hosts that the page links to out.

On the path it stands after the page is fetched and before its links become edges. Owned by no thread: every
function is pure, and the compiled grammars are shared.

The tokens are those of the HTML Standard (WHATWG, section 13.2.5), as html5lib and browsers read them. No tree
is built: of its rules only those are kept that change how the text after them is read (raw text elements,
templates, SVG and MathML). Each expression decides at its first character and never gives back what it took,
so every character is looked at a bounded number of times, whatever the page.

Where a tree would know better: links in `<select>` and after `<frameset>` count, and a `<form>` in a form;
an end tag in SVG or MathML is judged by the few open elements that are remembered, not by all.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import unescape
from html.entities import html5 as named_references
from typing import Final, NamedTuple
from urllib.parse import unquote

import webencodings

from spyder.model.names import BadName, normalise_host

LINK_ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "a": ("href",),
    "area": ("href",),
    "link": ("href", "imagesrcset"),
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "form": ("action",),
    "button": ("formaction",),
    "input": ("formaction",),
    "meta": ("content",),
}
"""The elements that link, and the attributes that say where (`meta` only where it is a refresh)."""

PRESCAN_BYTES: Final = 1024  # HTML 13.2.3.2, "prescan a byte stream to determine its encoding"

# Names outside ASCII cost some microseconds a character to normalise; no real page comes near this.
MAX_UNICODE_HOST_CHARS: Final = 16_384


def link_hosts(
    body: bytes,
    *,
    page_url: str,
    content_type: str | None = None,
    elements: frozenset[str] | None = None,
    limit: int = 10_000,
) -> list[str]:
    """Return the distinct hosts that an HTML page links to by http and https, in the order first seen.

    Hosts are as `normalise_host` returns them; what it refuses (addresses, names of one label) is left out.
    A relative link points to the host of `<base href>`, else of `page_url`. `elements` restricts the search
    to some of `LINK_ATTRIBUTES` (default: all). At most `limit` hosts are returned; of hosts that are not
    ASCII, no more are looked at than make `MAX_UNICODE_HOST_CHARS` characters together.

    Any body will do: the cost is linear in its length. Raises nothing. Does not block; may be called from any
    thread.
    """
    reader = _Reader(decode(body, content_type), _grammar(elements))
    reader.read()
    return _hosts(reader.urls, _base(reader.base, page_url), limit)


# --- encoding -----------------------------------------------------------------------------------------------

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16be"), (b"\xff\xfe", "utf-16le"))
_charset = re.compile(r"charset[\t\n\f\r ]*=[\t\n\f\r ]*[\"']?([!#-&(-:<-~]+)", re.IGNORECASE).search


def decode(body: bytes, content_type: str | None) -> str:
    """Return the text of a page whose Content-Type header is `content_type`; what is no text becomes U+FFFD.

    The encoding is that of the byte order mark, else of the header, else of a `meta` in the first 1024 bytes
    (HTML 13.2.3.2), else UTF-8, in which most undeclared pages are. Raises nothing.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return _decode(body[len(mark) :], name)
    return _decode(body, _header_encoding(content_type or "") or _meta_encoding(body) or "utf-8")


def _decode(body: bytes, name: str) -> str:
    encoding = webencodings.lookup(name)
    assert encoding is not None
    text: str = encoding.codec_info.decode(body, "replace")[0]
    return text


@functools.lru_cache(maxsize=256)
def _header_encoding(content_type: str) -> str | None:
    found = _charset(content_type)
    return _encoding_name(found[1]) if found else None


def _encoding_name(label: str) -> str | None:
    encoding = webencodings.lookup(label)
    return encoding.name if encoding else None


def _meta_encoding(body: bytes) -> str | None:
    head = body[:PRESCAN_BYTES]
    if b"charset" not in head.lower():
        return None
    text = head.decode("latin-1")
    for tag in _prescan(text):
        name = _declared_encoding(_attributes(text, tag.end(1), tag.end())) if tag[1] else None
        if name:
            # A `meta` that could be read as ASCII does not stand in UTF-16 (HTML 13.2.3.2).
            return "utf-8" if name.startswith("utf-16") else name
    return None


def _declared_encoding(meta: dict[str, str]) -> str | None:
    if "charset" in meta:
        return _encoding_name(meta["charset"])
    if meta.get("http-equiv", "").lower() != "content-type":
        return None
    found = _charset(meta.get("content", ""))
    return _encoding_name(found[1]) if found else None


# --- tokens -------------------------------------------------------------------------------------------------
#
# Before Python 3.11.5, `re` is wrong where a group captures in a possessive loop (gh-101955), and where the
# body of one fails after it has taken characters (gh-106052). So no group captures in one, and the bodies fail
# at their first character, or leave what they took to a class that takes it anyway.

_WS: Final = r"\t\n\f\r "


def _one_attribute(but: str = "") -> str:
    """Return an expression for one attribute of a tag, and the space after it; `but` must not occur in it."""
    value = rf"""(?:"[^"{but}]*+"?+|'[^'{but}]*+'?+|[^{_WS}>"'{but}][^{_WS}>{but}]*+)?+"""
    return rf"[^{_WS}/>{but}][^{_WS}/>={but}]*+(?:[{_WS}]*+=[{_WS}]*+{value})?+[{_WS}/]*+"


_REST_OF_TAG: Final = rf"[{_WS}/]*+(?:{_one_attribute()})*+>"
_REST_OF_PLAIN_TAG: Final = rf"[{_WS}/]*+(?:{_one_attribute(but='<')})*+>"


def _any_of(words: Iterable[str]) -> str:
    """Return an expression for any of some lower-case words, in any case, that decides letter by letter."""
    tails: dict[str, list[str]] = {}
    for word in sorted(words, reverse=True):
        tails.setdefault(word[:1], []).append(word[1:])
    branches = [f"{_any_case(letter)}{_any_of(rest)}" if letter else "" for letter, rest in tails.items()]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _any_case(letter: str) -> str:
    return f"[{letter}{letter.upper()}]" if letter.isalpha() else letter


def _word(words: Iterable[str]) -> str:
    return rf"{_any_of(words)}(?=[{_WS}/>])"


def _scanner(start_tags: Iterable[str], end_tags: Iterable[str]) -> Callable[[str, int], Iterator[re.Match[str]]]:
    """Return a function that finds the markup which matters.

    Group 1 is the name of one of `start_tags`, which the match holds whole; group 2 that of one of `end_tags`;
    neither stands for what needs a closer look. All else is skipped without a step in Python: tags in which
    no `<` stands (to go on at the next `<` is to skip them), and such comments as `<!x>`, `<?x>`, `</>`.
    """
    skipped = rf"/?+[a-zA-Z][^{_WS}/><]*+{_REST_OF_PLAIN_TAG}|/>|(?:\?|/[^a-zA-Z<>]|!(?![-\[]))[^<>]*+>"
    return re.compile(
        rf"<(?:({_word(start_tags)}){_REST_OF_TAG}"
        rf"|/({_word(end_tags)}){_REST_OF_TAG}"
        rf"|(?=[a-zA-Z/!?])(?!{skipped}))"
    ).finditer


_tag = re.compile(rf"</?+[a-zA-Z][^{_WS}/>]*+{_REST_OF_TAG}").match
_tag_open = re.compile("</?+[a-zA-Z]").match
_end_of_tag = re.compile(_REST_OF_TAG).match
_comment_end = re.compile("--!?>").search
_attribute = re.compile(
    rf"""([^{_WS}/>][^{_WS}/>=]*+)(?:[{_WS}]*+=[{_WS}]*+(?:"([^"]*+)"|'([^']*+)'|([^{_WS}>"'][^{_WS}>]*+)|))?"""
).finditer
_prescan = re.compile(
    rf"<(?:!--(?:-?>|.*?-->)|({_word(['meta'])}){_REST_OF_TAG}|/?[a-zA-Z][^{_WS}>]*+{_REST_OF_TAG}"
    rf"|(?:[/?]|!(?!--))[^>]*+>|[a-zA-Z/!?].*)",
    re.DOTALL,
).finditer


def _attributes(text: str, start: int, end: int) -> dict[str, str]:
    """Return the attributes of the tag that ends at `end`, of which those after its name start at `start`."""
    found: dict[str, str] = {}
    for attribute in _attribute(text, start, end):
        name, double, single, bare = attribute.groups("")
        found.setdefault(name.lower(), _unescape(double or single or bare))
    return found


def _is_self_closing(text: str, start: int, end: int) -> bool:
    """Whether the last `/` of the tag is its own, not the last of an unquoted value."""
    if text[end - 2] != "/":
        return False
    return all(attribute.end() != end - 1 for attribute in _attribute(text, start, end - 1))


# --- character references -----------------------------------------------------------------------------------

_reference = re.compile(r"&(?:#[xX]0*([0-9a-fA-F]+);?|#0*([0-9]+);?|([a-zA-Z][a-zA-Z0-9]*;?)(=?))").sub


def _unescape(value: str) -> str:
    """Return an attribute's value with its character references resolved (HTML 13.2.5.72 to 13.2.5.80)."""
    return _reference(_referred, value) if "&" in value else value


def _referred(reference: re.Match[str]) -> str:
    hexadecimal, decimal, name, equals = reference.groups()
    if name:
        # In an attribute a name without its semicolon counts only where no letter, digit or `=` follows.
        return reference[0] if equals and name[-1] != ";" else named_references.get(name, f"&{name}") + equals
    number = hexadecimal or decimal
    code = int(number, 16 if hexadecimal else 10) if len(number) <= 7 else -1
    if 0x80 <= code < 0xA0:
        return unescape(f"&#{code};")
    if code in range(0xD800, 0xE000) or code not in range(1, 0x110000):
        return "\ufffd"
    return chr(code)


# --- the links of one tag -----------------------------------------------------------------------------------

_Find = Callable[[str, int], re.Match[str] | None]
_Take = Callable[[str, int, list[str]], None]


def _finder(attribute: str) -> _Find:
    """Return a function that finds an attribute, the first of its name, in what stands after a tag's name.

    The last group of the match is its value: in quotes of either kind, bare, or none.
    """
    name = rf"{_any_of([attribute])}(?![^{_WS}/>=])"
    return re.compile(
        rf"[{_WS}/]*+(?:{_one_attribute()})*?{name}"
        rf"""(?:[{_WS}]*+=[{_WS}]*+(?:"([^"]*+)|'([^']*+)|([^{_WS}>"'][^{_WS}>]*+|))|())"""
    ).match


def _taker(*attributes: str) -> _Take:
    """Return a function that appends the URLs of a tag's attributes to a list."""
    finders = [(_finder(name), name.endswith("srcset")) for name in attributes]

    def take(text: str, start: int, urls: list[str]) -> None:
        for find, is_srcset in finders:
            found = find(text, start)
            if found:
                value: str = found[found.lastindex or 1]
                if is_srcset:
                    urls += _srcset_urls(_unescape(value))
                elif "&" in value:
                    # What stands after a `?` has no part in the host, and is where most references are.
                    urls.append(_unescape(value.partition("?")[0]))
                else:
                    urls.append(value)

    return take


# An image candidate: a URL, then, unless a comma ends it, descriptors, in whose parentheses commas may stand
# (HTML 4.8.4.2.2, "parse a srcset attribute"). Descriptors are not judged.
_candidates = re.compile(rf"([^{_WS},][^{_WS}]*+)(?:(?<=,)|(?:[^,(]|\([^)]*+\)?+)*+)").findall


def _srcset_urls(srcset: str) -> list[str]:
    return [url.rstrip(",") for url in _candidates(srcset)]


# HTML 4.2.5.3, "shared declarative refresh steps"
_refresh = re.compile(
    rf"[{_WS}]*+[0-9.]++(?=[;,{_WS}])[{_WS}]*+[;,]?+[{_WS}]*+(?:[uU][rR][lL][{_WS}]*=[{_WS}]*)?"
    rf"""(?:"([^"]*)|'([^']*)|([^"'].*))""",
    re.DOTALL,
).match
_http_equiv = _finder("http-equiv")
_content = _finder("content")
_href = _finder("href")
_xlink_href = _finder("xlink:href")


def _value(found: re.Match[str] | None) -> str:
    return _unescape(found[found.lastindex or 1]) if found else ""


def _take_refresh(text: str, start: int, urls: list[str]) -> None:
    equivalent = _http_equiv(text, start)
    if equivalent and _value(equivalent).lower() == "refresh":
        found = _refresh(_value(_content(text, start)))
        if found:
            urls.append(found[found.lastindex or 1])


def _take_foreign_link(text: str, start: int, urls: list[str]) -> None:
    """Append the URL of an SVG `a` (SVG 2, 16.2: `href` goes before `xlink:href`)."""
    found = _href(text, start) or _xlink_href(text, start)
    if found:
        urls.append(_value(found))


_TAKERS: Final = {name: _taker(*attributes) for name, attributes in LINK_ATTRIBUTES.items()}
_TAKERS["meta"] = _take_refresh

# --- what changes how the following text is read ------------------------------------------------------------


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# HTML 13.2.6.4: RCDATA, raw text; `noscript` is not one of them, as no script is run.
_RAW_TEXT: Final = ("title", "textarea", "style", "xmp", "iframe", "noembed", "noframes")
_INTEGRATION_POINTS: Final = {  # HTML 13.2.6: foreign elements in which HTML stands
    "svg": frozenset({"foreignobject", "desc", "title"}),
    "math": frozenset({"mi", "mo", "mn", "ms", "mtext"}),
}
# HTML 13.2.6.5: HTML elements that end foreign content.
_BREAKOUTS: Final = _names(
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu "
    "meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"
)
# HTML elements in which SVG stands, and whose end ends an SVG that is not closed.
_PARENTS: Final = (_BREAKOUTS - _names("body br embed head hr img meta")) | _names(
    "address article aside button caption details fieldset figcaption figure footer form header label legend main "
    "nav section summary tbody td template tfoot th thead tr"
)
# What of SVG and MathML is remembered while it is open.
_MARKED: Final = _names("svg math annotation-xml").union(*_INTEGRATION_POINTS.values())

_raw_ends: Final = {name: re.compile(rf"</{_word([name])}").search for name in _RAW_TEXT}
# Script data (HTML 13.2.5.4), escaped by `<!--` (13.2.5.20), doubly by `<script` in that (13.2.5.27).
_script_plain = re.compile(rf"<(?:!--|/{_word(['script'])})").search
_script_escaped = re.compile(rf"-->|<(/?){_word(['script'])}").search


def _end_of_raw_text(text: str, start: int, name: str) -> int:
    """Return where the end tag of a raw text element ends, whose text starts at `start`; else the text's end."""
    end = _script_end(text, start) if name == "script" else _raw_ends[name](text, start)
    tag = _end_of_tag(text, end.end()) if end else None
    return tag.end() if tag else len(text)


def _script_end(text: str, start: int) -> re.Match[str] | None:
    """Return the match of the name of a script's end tag."""
    found = _script_plain(text, start)
    while found and found[0] == "<!--":
        found = _script_escaped(text, found.end() - len("--"))  # `<!-->` escapes nothing
        doubly = False
        while found and found[0] != "-->":
            closes = bool(found[1])
            if closes and not doubly:
                return found
            doubly = not closes
            found = _script_escaped(text, found.end())
        found = found and _script_plain(text, found.end())
    return found


def _after(text: str, found_at: int, length: int) -> int:
    return found_at + length if found_at >= 0 else len(text)


def _end_of_markup(text: str, start: int, *, foreign: bool) -> int:
    """Return where the tag, comment or section that starts at `start` ends; the text's end if it does not."""
    if text.startswith("<!--", start):
        start += len("<!--")
        if text.startswith((">", "->"), start):
            return text.index(">", start) + 1
        end = _comment_end(text, start)
        return end.end() if end else len(text)
    if foreign and text.startswith("<![CDATA[", start):
        return _after(text, text.find("]]>", start), len("]]>"))
    if _tag_open(text, start):
        tag = _tag(text, start)
        return tag.end() if tag else len(text)
    return _after(text, text.find(">", start), len(">"))


class _Element(NamedTuple):
    """An open element that changes how what it holds is read."""

    name: str
    language: str
    holds_html: bool


_element = functools.cache(_Element)  # there are few kinds, and a page may open 100,000


class _Context:
    """The open templates, and the open elements of SVG and MathML that matter; no other open element is known."""

    def __init__(self) -> None:
        self._stack: list[_Element] = []
        self._counts: dict[str, int] = {}  # of the names in the stack, so that a stray end tag costs no search
        self._around: list[tuple[list[_Element], dict[str, int]]] = []  # each open template

    @property
    def innermost(self) -> str:
        return self._stack[-1].name if self._stack else ""

    @property
    def language(self) -> str:
        return self._stack[-1].language if self._stack else "html"

    @property
    def holds_html(self) -> bool:
        return not self._stack or self._stack[-1].holds_html

    @property
    def is_inert(self) -> bool:
        return bool(self._around)

    def open(self, name: str, language: str, *, holds_html: bool) -> None:
        self._stack.append(_element(name, language, holds_html))
        self._counts[name] = self._counts.get(name, 0) + 1

    def open_template(self) -> None:
        self._around.append((self._stack, self._counts))
        self._stack, self._counts = [], {}

    def close_template(self) -> None:
        if self._around:
            self._stack, self._counts = self._around.pop()

    def close(self, name: str) -> bool:
        """End the innermost element of that name, with all in it; return whether there was one."""
        if not self._counts.get(name):
            return False
        while self._pop() != name:
            pass
        return True

    def break_out(self) -> None:
        """End what is open of SVG and MathML, up to where HTML may stand."""
        while not self.holds_html:
            self._pop()

    def _pop(self) -> str:
        name = self._stack.pop().name
        self._counts[name] -= 1
        return name


# --- the page -----------------------------------------------------------------------------------------------


class _Mode(NamedTuple):
    """How text is read between two changes of context."""

    scan: Callable[[str, int], Iterator[re.Match[str]]]
    links: Mapping[str, _Take]
    """By name in lower and in upper case: elements that link and change nothing else."""
    other_links: Mapping[str, _Take]
    """By lower-case name: elements that link, whatever else they do."""


_Grammar = Mapping[tuple[bool, bool], _Mode]
"""The mode by `holds_html` and `is_inert`."""

_CHANGES: Final = frozenset({"base", "script", "plaintext", "template", "svg", "math", *_RAW_TEXT})


def load_grammar() -> None:
    """Compile the grammar now. Call it before many threads ask at once: each would compile it for itself."""
    _grammar(None)


@functools.lru_cache(maxsize=16)
def _grammar(elements: frozenset[str] | None) -> _Grammar:
    takers = {name: take for name, take in _TAKERS.items() if elements is None or name in elements}
    if "img" in takers:
        takers["image"] = takers["img"]  # HTML 13.2.6.4.7: "Don't ask."
    foreign = {"a": _take_foreign_link} if "a" in takers else {}
    return {
        (True, False): _html_mode(takers),
        (True, True): _html_mode({}),
        (False, False): _foreign_mode(foreign),
        (False, True): _foreign_mode({}),
    }


def _html_mode(takers: Mapping[str, _Take]) -> _Mode:
    scan = _scanner({*takers, *_CHANGES}, {*_MARKED, "template"})
    plain = {name: take for name, take in takers.items() if name not in _CHANGES}
    return _Mode(scan, plain | {name.upper(): take for name, take in plain.items()}, takers)


def _foreign_mode(takers: Mapping[str, _Take]) -> _Mode:
    scan = _scanner({*_BREAKOUTS, *_MARKED, "a", "font"}, {*_MARKED, *_PARENTS, "a", "br"})
    return _Mode(scan, {}, takers)


class _Reader:
    """One reading of one page; afterwards `urls` has what it links to, as written, and `base` its base."""

    def __init__(self, text: str, grammar: _Grammar) -> None:
        self.urls: list[str] = []
        self.base: str | None = None
        self._text = text
        self._grammar = grammar
        self._context = _Context()

    def read(self) -> None:
        at = 0
        while at < len(self._text):
            at = self._read_on(at)

    def _read_on(self, at: int) -> int:
        """Read from `at` to where markup is read in another mode or goes on elsewhere; return that place."""
        text, urls = self._text, self.urls
        mode = self._mode()
        take_of = mode.links.get
        for tag in mode.scan(text, at):
            take = take_of(tag[1])
            if take is not None:
                take(text, tag.end(1), urls)
                continue
            at = self._turn(tag, mode)
            if at != tag.end() or self._mode() is not mode:
                return at
        return len(text)

    def _mode(self) -> _Mode:
        return self._grammar[self._context.holds_html, self._context.is_inert]

    def _turn(self, tag: re.Match[str], mode: _Mode) -> int:
        if tag[1]:
            name = tag[1].lower()
            take = mode.other_links.get(name)
            if take:
                take(self._text, tag.end(1), self.urls)
            return self._start_html(name, tag) if self._context.holds_html else self._start_foreign(name, tag)
        if tag[2]:
            self._end(tag[2].lower())
            return tag.end()
        return _end_of_markup(self._text, tag.start(), foreign=self._context.language != "html")

    def _start_html(self, name: str, tag: re.Match[str]) -> int:
        if name == "script" or name in _raw_ends:
            return _end_of_raw_text(self._text, tag.end(), name)
        if name == "plaintext":
            return len(self._text)
        if name == "template":
            self._context.open_template()
        elif name in {"svg", "math"}:
            self._open(name, name, tag)
        elif name == "base" and self.base is None and not self._context.is_inert:
            found = _href(self._text, tag.end(1))
            self.base = _value(found) if found else None
        return tag.end()

    def _start_foreign(self, name: str, tag: re.Match[str]) -> int:
        if name in _BREAKOUTS or (name == "font" and self._breaks_out(tag)):
            self._context.break_out()
            return tag.start()  # to be read again, as HTML
        if name in _MARKED or name == "a":
            svg_in_math = name == "svg" and self._context.innermost == "annotation-xml"
            self._open(name, "svg" if svg_in_math else self._context.language, tag)
        return tag.end()

    def _breaks_out(self, font: re.Match[str]) -> bool:
        return not {"color", "face", "size"}.isdisjoint(_attributes(self._text, font.end(1), font.end()))

    def _open(self, name: str, language: str, tag: re.Match[str]) -> None:
        if _is_self_closing(self._text, tag.end(1), tag.end()):
            return
        holds_html = name in _INTEGRATION_POINTS[language]
        if name == "annotation-xml" and language == "math":
            encoding = _attributes(self._text, tag.end(1), tag.end()).get("encoding", "")
            holds_html = encoding.lower() in {"text/html", "application/xhtml+xml"}
        self._context.open(name, language, holds_html=holds_html)

    def _end(self, name: str) -> None:
        if name == "template":
            self._context.close_template()
        elif not self._context.close(name) and name not in _MARKED:
            self._context.break_out()


# --- URLs ---------------------------------------------------------------------------------------------------


class _Origin(NamedTuple):
    scheme: str
    host: str
    """As written, without user and port; of a URL that is not http or https, nothing."""


_WEB: Final = frozenset({"http", "https"})
# What most links are: absolute with a plain host, within the site, or of no host.
_plain_url = re.compile(
    r"(?:https?:)?//([a-zA-Z0-9.-]++)(?=[/?#]|\Z)"
    r"|([#?.]|/(?![/\\\t\n\r])|[a-zA-Z0-9_-]++(?:\.[a-z]++)?+(?=[/?#]|\Z)|\Z)"
    r"|(?:javascript|mailto|tel|data):"
).match
_scheme = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*+):").match
_slashes = re.compile(r"[/\\]*+").match
_authority = re.compile(r"[^/\\?#]*+").match
_host_and_port = re.compile(r"([^:\[\]]++)(?::0*+([0-9]{0,5}))?").fullmatch
_may_be_name = re.compile(r"(?:[a-zA-Z0-9-]++\.)++(?=[0-9-]*[a-zA-Z])[a-zA-Z0-9-]++").fullmatch
# What URL 4.4 strips; a NUL is U+FFFD by then (HTML 13.2.5.36) and is not stripped.
_STRIPPED: Final = "".join(map(chr, range(1, 0x21)))
_MAX_PORT: Final = 0xFFFF


def _hosts(urls: list[str], base: _Origin | None, limit: int) -> list[str]:
    """Return the distinct names that URLs point to."""
    names: dict[str, None] = {}
    unicode_chars_left = MAX_UNICODE_HOST_CHARS
    for host in dict.fromkeys(_written_hosts(urls, base)):
        if len(names) >= limit:
            break
        if host.isascii():
            if not _may_be_name(host.removesuffix(".")):
                continue
        else:
            unicode_chars_left -= len(host)
            if unicode_chars_left < 0 or host != host.strip():  # `normalise_host` would strip what a URL may not
                continue
        try:
            names[normalise_host(host)] = None
        except BadName:
            continue
    return list(names)


def _base(href: str | None, page_url: str) -> _Origin | None:
    """Return what relative URLs are relative to (HTML 4.2.3, "set the frozen base URL")."""
    page = _split(page_url, None)
    base = _split(href, page) if href is not None else None
    return base if base and base.scheme not in {"data", "javascript"} else page


def _written_hosts(urls: list[str], base: _Origin | None) -> Iterator[str]:
    """Yield the host of each distinct http or https URL, as it is written."""
    for url in dict.fromkeys(urls):
        plain = _plain_url(url) if base and base.scheme in _WEB else None
        if plain is None:
            origin = _split(url, base)
            if origin and origin.scheme in _WEB:
                yield origin.host
        elif plain.lastindex == 1:
            yield plain[1]
        elif plain.lastindex and base:
            yield base.host


def _split(url: str, base: _Origin | None) -> _Origin | None:
    """Return scheme and host of a URL (URL 4.4, "basic URL parser"); None where it has none."""
    url = url.strip(_STRIPPED).replace("\t", "").replace("\n", "").replace("\r", "")
    found = _scheme(url)
    scheme = found[1].lower() if found else base.scheme if base else ""
    if scheme not in _WEB:
        return _Origin(scheme, "") if found else None
    start = found.end() if found else 0
    slashes = _slashes(url, start)
    assert slashes is not None
    if base and base.scheme == scheme and slashes.end() - start < len("//"):
        return base
    authority = _authority(url, slashes.end())
    assert authority is not None
    host = _host(authority[0].rpartition("@")[2])
    return _Origin(scheme, host) if host else None


def _host(host_and_port: str) -> str | None:
    found = _host_and_port(host_and_port)
    if not found or int(found[2] or 0) > _MAX_PORT:
        return None
    host: str = found[1]
    return unquote(host) if "%" in host else host
