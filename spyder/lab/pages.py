"""Bodies of the lab's pages and robots.txt files, and the real pages of a folder.

Pure functions of their arguments, and the reading of that folder. Owned by no thread.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spyder.lab.records import Response

BODY_CAP_BYTES = 512 * 1024  # the probe reads so much of a decoded body
HTML = "text/html; charset=utf-8"

_PARAGRAPH = (
    '<p class="text">The quick brown fox jumps over the lazy dog, and <a href="/archive/today.html">what it did'
    ' today</a> is told <a href="./more.html?page=2#end">elsewhere</a> &amp; at length. <em>Nothing</em> of this'
    " matters to a graph.</p>\n"
)
_PARAGRAPHS = 84  # about 20 KB, a typical page of the design's budgets
FILLER = (_PARAGRAPH * _PARAGRAPHS).encode()


def document(content: str, *, head: str = "") -> str:
    """Return an HTML document, without the filler."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><title>Lab</title>{head}'
        f'<link rel="stylesheet" href="/style.css"></head>\n<body>\n{content}\n'
    )


def anchors(*urls: str) -> str:
    """Return one `a` element for each URL."""
    return "\n".join(f'<a href="{url}">link</a>' for url in urls)


def html(content: str, *, head: str = "", content_type: str = HTML) -> Response:
    """Return a page of about 20 KB."""
    return Response(headers=(("Content-Type", content_type),), body=(document(content, head=head).encode(), FILLER))


def html_in(content: str, encoding: str, *, content_type: str, head: str = "") -> Response:
    """Return a page in another character encoding."""
    text = document(content, head=head) + FILLER.decode()
    return Response(headers=(("Content-Type", content_type),), body=(text.encode(encoding),))


def big(before: str, after: str) -> tuple[bytes, ...]:
    """Return a body with some links in front of the cap and others far behind it."""
    return (document(before).encode(), *[FILLER] * (BODY_CAP_BYTES // len(FILLER) + 2), after.encode())


def gzipped(body: tuple[bytes, ...]) -> Response:
    """Return a page with `Content-Encoding: gzip` (RFC 9110, section 8.4.1.3)."""
    headers = (("Content-Type", HTML), ("Content-Encoding", "gzip"))
    return Response(headers=headers, body=(gzip.compress(b"".join(body), compresslevel=1, mtime=0),))


def deflated(body: tuple[bytes, ...], *, raw: bool) -> Response:
    """Return a page with `Content-Encoding: deflate`, in its zlib wrapping (RFC 9110, 8.4.1.2) or, as some do, bare."""
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    headers = (("Content-Type", HTML), ("Content-Encoding", "deflate"))
    return Response(headers=headers, body=(packer.compress(b"".join(body)) + packer.flush(),))


def robots(text: str) -> Response:
    """Return a robots.txt file."""
    return Response(headers=(("Content-Type", "text/plain; charset=utf-8"),), body=(text.encode(),))


def redirect(location: str, status: int = 301) -> Response:
    """Return a redirect."""
    return Response(status=status, headers=(("Location", location), ("Content-Type", "text/html")), body=(b"moved",))


@dataclass(frozen=True, slots=True)
class RealPage:
    """One page of the folder: its name, as it is served, and the outside hosts that it links to."""

    name: str
    response: Response
    links: frozenset[str]


def real_pages(folder: Path) -> Iterator[RealPage]:
    """Yield the pages of a folder that holds `NAME.html.gz` files and `expected.json`.

    Every page there was taken at one and the same `page_url`. Where an entry `NAME@524288` stands beside `NAME`
    it says what the first 512 KiB link to, which is all that the probe reads. Every second page is sent
    compressed, in the bytes of its file.
    """
    entries = {entry["name"]: entry for entry in json.loads((folder / "expected.json").read_bytes())}
    for position, path in enumerate(sorted(folder.glob("*.html.gz"))):
        name = path.name.removesuffix(".html.gz")
        entry = entries.get(f"{name}@{BODY_CAP_BYTES}") or entries[name]
        packed = path.read_bytes()
        headers = [("Content-Type", entry["content_type"])]
        if position % 2:
            headers.append(("Content-Encoding", "gzip"))
        body = packed if position % 2 else gzip.decompress(packed)
        links = frozenset(entry["hosts"]) | frozenset(entry["hosts_only_in_other_elements"])
        yield RealPage(name, Response(headers=tuple(headers), body=(body,)), _outside(links, REAL_PAGES_APEX))


REAL_PAGES_APEX = "page-under-test.com"
"""The registrable domain of the `page_url` of every real page."""


def _outside(hosts: frozenset[str], apex: str) -> frozenset[str]:
    """Leave out the page's own domain, and single labels, which are no domains."""
    return frozenset(h for h in hosts if "." in h and h != apex and not h.endswith("." + apex))
